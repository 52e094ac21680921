"""LitServe: one API server and one worker, with the queue that it advises for more than 100 requests a second."""

import sys
from typing import Any

import litserve
import numpy as np
from numpy.typing import NDArray

from benchmarks.servers import WEIGHTS
from benchmarks.servers.trained import MOST_ROWS, WAIT_MS, Trained


class Linear(litserve.LitAPI):
    """The linear model."""

    def setup(self, device: str) -> None:
        """Load the weights in the worker."""
        del device  # always the CPU here
        self._weights = np.array(WEIGHTS)

    def decode_request(self, request: dict[str, Any]) -> NDArray[np.float64]:
        """From JSON to a matrix."""
        return np.array(request["instances"], dtype=np.float64)

    def predict(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        """Score the rows."""
        predictions: NDArray[np.float64] = rows @ self._weights
        return predictions

    def encode_response(self, predictions: NDArray[np.float64]) -> dict[str, Any]:
        """From scores to JSON."""
        return {"predictions": predictions.tolist()}


class Batched(litserve.LitAPI):
    """A trained model, called for the rows of many requests."""

    def setup(self, device: str) -> None:
        """Load the model in the worker."""
        del device  # always the CPU here
        self._trained = Trained()

    def decode_request(self, request: dict[str, Any]) -> NDArray[np.float64]:
        """From JSON to a row."""
        return np.array(request["features"], dtype=np.float64)

    def predict(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        """Score the rows, which LitServe has stacked."""
        return self._trained(rows)

    def encode_response(self, probabilities: NDArray[np.float64]) -> dict[str, Any]:
        """From the probabilities of one row to JSON."""
        return {"probabilities": probabilities.tolist()}


if __name__ == "__main__":
    batched = sys.argv[2:] == ["batched"]
    api = Batched(max_batch_size=MOST_ROWS, batch_timeout=WAIT_MS["litserve"] / 1000) if batched else Linear()
    server = litserve.LitServer(api, accelerator="cpu", devices=1, workers_per_device=1, fast_queue=True)
    server.run(
        host="127.0.0.1",
        port=int(sys.argv[1]),
        num_api_servers=1,
        log_level="warning",
        generate_client_file=False,
        access_log=False,
    )
