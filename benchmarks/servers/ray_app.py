"""Ray Serve: one replica, its access log off."""

import signal
import sys

import numpy as np
import ray
from fastapi import FastAPI
from ray import serve
from ray.serve.schema import LoggingConfig

from benchmarks.servers import WEIGHTS
from benchmarks.servers.fastapi_app import Prediction, Predictions, Row, Rows

app = FastAPI()


class Linear:
    """The linear model."""

    def __init__(self) -> None:
        self._weights = np.array(WEIGHTS)

    @app.post("/predict")
    async def predict(self, row: Row) -> Prediction:
        """Score one row."""
        return Prediction(prediction=float(np.dot(row.features, self._weights)) * row.scale_factor)

    @app.post("/predict/batch")
    async def predict_batch(self, rows: Rows) -> Predictions:
        """Score many rows at once."""
        return Predictions(predictions=(np.array(rows.instances) @ self._weights * rows.scale_factor).tolist())


if __name__ == "__main__":
    ray.init(num_cpus=1, include_dashboard=False, _node_ip_address="127.0.0.1")
    serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[1])})
    deployment = serve.deployment(num_replicas=1, max_ongoing_requests=100)(serve.ingress(app)(Linear))
    serve.run(deployment.bind(), logging_config=LoggingConfig(enable_access_log=False))
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    serve.shutdown()
    ray.shutdown()
