"""MLServer: a custom runtime, served by `mlserver start` with settings in the environment."""

import mlserver
import numpy as np
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse

from benchmarks.servers import WEIGHTS
from benchmarks.servers.trained import Trained


class Linear(mlserver.MLModel):
    """The linear model."""

    async def load(self) -> bool:
        """Load the weights."""
        self._weights = np.array(WEIGHTS)
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Score the rows of the first input."""
        rows = self.decode(payload.inputs[0], default_codec=NumpyCodec)
        output = NumpyCodec.encode_output("predictions", rows @ self._weights)
        return InferenceResponse(model_name=self.name, outputs=[output])


class Batched(mlserver.MLModel):
    """A trained model; the settings say how many rows of how many requests a call is made for."""

    async def load(self) -> bool:
        """Load the model."""
        self._trained = Trained()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Score the rows of some requests."""
        rows = self.decode(payload.inputs[0], default_codec=NumpyCodec)
        output = NumpyCodec.encode_output("probabilities", self._trained(rows))
        return InferenceResponse(model_name=self.name, outputs=[output])
