"""Predictions of the embedded model: one row, or a batch of them."""

from typing import Annotated, Literal

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, FailFast, Field

from weighbridge.adapters.http.dependencies import PredictDep
from weighbridge.adapters.http.errors import Problem
from weighbridge.adapters.http.fast_route import FastRoute
from weighbridge.adapters.http.openapi import problems

router = APIRouter(route_class=FastRoute, tags=["prediction"])

# A list stops at its first bad item: to name each of millions would cost more memory than the body.
Numbers = Annotated[list[float], FailFast()]
ScaleFactor = Annotated[float, Field(gt=0, description="What the score is multiplied by.")]


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


class ModelInput(_Strict):
    """One row for the model."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"features": [1.5, 2.25, -0.75, 4.0], "scale_factor": 1.0}]}
    )

    features: Numbers = Field(description="One finite number for each weight of the model.")
    scale_factor: ScaleFactor = 1.0


class ModelOutput(BaseModel):
    """The score of one row."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"prediction": -1.6875, "status": "success"}]})

    prediction: float = Field(description="dot(features, weights) * scale_factor")
    status: Literal["success"] = "success"


class BatchInput(_Strict):
    """Rows for the model."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"instances": [[1.5, 2.25, -0.75, 4.0], [1.0, 1.0, 1.0, 1.0]], "scale_factor": 2.0}]
        }
    )

    instances: Annotated[list[Numbers], FailFast()] = Field(
        min_length=1, description="One or more rows, each with one finite number for each weight of the model."
    )
    scale_factor: ScaleFactor = 1.0


class BatchOutput(BaseModel):
    """The scores of the rows, in their order."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"predictions": [-3.375, 2.0], "status": "success"}]})

    predictions: list[float] = Field(description="The score of each row, to the bit what it is alone.")
    status: Literal["success"] = "success"


_REFUSALS = (
    Problem.FEATURE_COUNT_MISMATCH,
    Problem.BODY_TOO_LARGE,
    Problem.UNSUPPORTED_MEDIA_TYPE,
    Problem.JSON_INVALID,
    Problem.INPUT_INVALID,
    Problem.PREDICTION_NOT_FINITE,
)


@router.post("/predict", summary="Predict one row", responses=problems(*_REFUSALS))
def predict(body: ModelInput, predict: PredictDep) -> ModelOutput:
    """Score one row."""
    return ModelOutput(prediction=predict(body.features, body.scale_factor))


@router.post("/predict/batch", summary="Predict many rows", responses=problems(*_REFUSALS, Problem.TOO_MANY_ROWS))
def predict_batch(body: BatchInput, predict: PredictDep) -> BatchOutput:
    """Score many rows at once; a row gets the same bits as alone."""
    return BatchOutput(predictions=predict.batch(body.instances, body.scale_factor).tolist())
