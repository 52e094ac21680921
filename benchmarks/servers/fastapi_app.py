"""Bare FastAPI with numpy, as its users write it. The endpoints are async: plain ones cost it a thread hop each."""

import numpy as np
from fastapi import FastAPI, HTTPException
from pydantic import BaseModel

from benchmarks.servers import WEIGHTS

_WEIGHTS = np.array(WEIGHTS)

app = FastAPI()


class Row(BaseModel):
    """One row for the model."""

    features: list[float]
    scale_factor: float = 1.0


class Rows(BaseModel):
    """Rows for the model."""

    instances: list[list[float]]
    scale_factor: float = 1.0


class Prediction(BaseModel):
    """The score of one row."""

    prediction: float
    status: str = "success"


class Predictions(BaseModel):
    """The scores of the rows."""

    predictions: list[float]
    status: str = "success"


@app.post("/predict")
async def predict(row: Row) -> Prediction:
    """Score one row."""
    if len(row.features) != len(WEIGHTS):
        raise HTTPException(400, f"expected {len(WEIGHTS)} features, got {len(row.features)}")
    return Prediction(prediction=float(np.dot(row.features, _WEIGHTS)) * row.scale_factor)


@app.post("/predict/batch")
async def predict_batch(rows: Rows) -> Predictions:
    """Score many rows at once."""
    matrix = np.array(rows.instances)
    if matrix.shape != (len(rows.instances), len(WEIGHTS)):
        raise HTTPException(400, f"expected rows of {len(WEIGHTS)} features")
    return Predictions(predictions=(matrix @ _WEIGHTS * rows.scale_factor).tolist())
