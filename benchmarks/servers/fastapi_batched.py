"""Bare FastAPI with a trained model, as its users write it: a call for each request, on the event loop."""

import numpy as np
from fastapi import FastAPI
from pydantic import BaseModel

from benchmarks.servers.trained import Trained

_trained = Trained()

app = FastAPI()


class Row(BaseModel):
    """One row for the model."""

    features: list[float]


class Probabilities(BaseModel):
    """Those of the classes."""

    probabilities: list[float]


@app.post("/predict")
async def predict(row: Row) -> Probabilities:
    """Score one row."""
    return Probabilities(probabilities=_trained(np.array([row.features]))[0].tolist())
