"""KServe's model server: one worker, REST only, its access and latency logs off."""

import logging
import sys

import kserve
import numpy as np
from kserve.utils.utils import get_predict_response

from benchmarks.servers import WEIGHTS


class Linear(kserve.Model):
    """The linear model."""

    def load(self) -> bool:
        """Load the weights."""
        self._weights = np.array(WEIGHTS)
        self.ready = True
        return True

    async def predict(
        self, payload: kserve.InferRequest, headers: dict[str, str] | None = None
    ) -> kserve.InferResponse:
        """Score the rows of the first input."""
        del headers
        return get_predict_response(payload, payload.inputs[0].as_numpy() @ self._weights, self.name)


if __name__ == "__main__":
    model = Linear("linear")
    model.load()
    server = kserve.ModelServer(http_port=int(sys.argv[1]), workers=1, enable_grpc=False, enable_latency_logging=False)
    logging.getLogger("uvicorn.access").handlers.clear()  # uvicorn logs no access when nobody would hear it
    logging.getLogger("kserve.trace").setLevel(logging.WARNING)
    server.start([model])
