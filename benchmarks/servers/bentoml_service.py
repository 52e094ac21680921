"""BentoML: one worker, its access log off. The endpoints are async, since plain ones cost it a thread hop each."""

import bentoml
import numpy as np

from benchmarks.servers import WEIGHTS
from benchmarks.servers.trained import MOST_ROWS, Trained


@bentoml.service(workers=1, logging={"access": {"enabled": False}})
class Linear:
    """The linear model."""

    def __init__(self) -> None:
        self._weights = np.array(WEIGHTS)

    @bentoml.api(route="/predict")
    async def predict(self, features: list[float]) -> float:
        """Score one row."""
        return float(np.dot(features, self._weights))

    @bentoml.api(route="/predict/batch")
    async def predict_batch(self, instances: np.ndarray) -> np.ndarray:
        """Score many rows at once."""
        predictions: np.ndarray = instances @ self._weights
        return predictions


@bentoml.service(workers=1, logging={"access": {"enabled": False}})
class Batched:
    """A trained model, called for the rows of many requests."""

    def __init__(self) -> None:
        self._trained = Trained()

    @bentoml.api(route="/predict", batchable=True, max_batch_size=MOST_ROWS)
    async def predict(self, rows: np.ndarray) -> np.ndarray:
        """Score the rows of some requests."""
        return self._trained(rows)
