"""Predictions of the embedded model: one row, or a batch of them."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import orjson
from fastapi import APIRouter
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, FailFast, Field, WithJsonSchema

from weighbridge.adapters.http.dependencies import PredictDep
from weighbridge.adapters.http.fast_route import FastRoute, Headers, check_is_json, check_is_plain, check_keys
from weighbridge.adapters.http.openapi import problems
from weighbridge.adapters.http.problems import Problem, RefusedRequest
from weighbridge.adapters.http.rows import read_batch
from weighbridge.adapters.metrics import EMBEDDED_LABEL

BINARY = b"application/octet-stream"
_DOUBLE = np.dtype("<f8")


class EmbeddedRoute(FastRoute):
    """A route to the embedded model."""

    model = EMBEDDED_LABEL


router = APIRouter(route_class=EmbeddedRoute, tags=[EMBEDDED_LABEL.name])

# A list stops at its first bad item: to name each of millions would cost more memory than the body.
# Without FailFast each bad item of a large body would become an error many times its own size.
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


@dataclass(slots=True)
class ModelOutput:
    """The score of one row."""

    __pydantic_config__ = ConfigDict(json_schema_extra={"examples": [{"prediction": -1.6875, "status": "success"}]})

    prediction: Annotated[float, Field(description="dot(features, weights) * scale_factor")]
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

    @classmethod
    def read(cls, headers: Headers, body: bytes | bytearray) -> "BatchInput":
        """From little-endian float64, row-major, or from JSON. Raises RefusedRequest, ValidationError.

        Where the numbers are already float64, `instances` is their array: they need no more validation.
        """
        if headers.get(b"content-type", b"").partition(b";")[0].strip().lower() == BINARY:
            check_is_plain(headers)
            return cls._made_of(_from_binary(body))
        check_is_json(headers, " or application/octet-stream")
        batch = read_batch(body)
        if batch is not None:
            return cls._made_of(*batch)
        check_keys(body)
        return cls.model_validate_json(body)

    @classmethod
    def _made_of(cls, array: Any, scale_factor: float = 1.0) -> "BatchInput":
        return cls.model_construct(instances=array, scale_factor=scale_factor)


@dataclass(slots=True)
class BatchOutput:
    """The scores of the rows, in their order."""

    __pydantic_config__ = ConfigDict(
        json_schema_extra={"examples": [{"predictions": [-3.375, 2.0], "status": "success"}]}
    )

    predictions: Annotated[
        Any,  # a vector of float64, which pydantic does not know
        WithJsonSchema({"type": "array", "items": {"type": "number"}}),
        Field(description="The score of each row, to the bit what it is alone."),
    ]
    status: Literal["success"] = "success"

    def write(self, headers: Headers) -> tuple[bytes, bytes]:
        """As little-endian float64 for a client that asks for that, otherwise as JSON."""
        accepted = headers.get(b"accept", b"").lower()
        if BINARY in accepted and b"json" not in accepted:
            return BINARY, self.predictions.astype("<f8").tobytes()
        content = {"predictions": self.predictions, "status": self.status}
        return b"application/json", orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)


def _from_binary(body: bytes | bytearray) -> NDArray[np.float64]:
    if not body or len(body) % _DOUBLE.itemsize:
        raise RefusedRequest(
            Problem.INPUT_INVALID, f"expected numbers of 8 bytes (little-endian float64), got {len(body)} bytes"
        )
    return np.frombuffer(body, _DOUBLE)


_BINARY_CONTENT = {BINARY.decode(): {"schema": {"type": "string", "format": "binary"}}}
_REFUSALS = (
    Problem.BAD_REQUEST,
    Problem.FEATURE_COUNT_MISMATCH,
    Problem.BODY_TOO_LARGE,
    Problem.UNSUPPORTED_MEDIA_TYPE,
    Problem.JSON_INVALID,
    Problem.INPUT_INVALID,
    Problem.PREDICTION_NOT_FINITE,
    Problem.OVERLOADED,
    Problem.DEADLINE_EXCEEDED,
)


@router.post("/predict", summary="Predict one row", responses=problems(*_REFUSALS))
def predict(body: ModelInput, predict: PredictDep) -> ModelOutput:
    """Score one row."""
    return ModelOutput(predict(body.features, body.scale_factor))


@router.post(
    "/predict/batch",
    summary="Predict many rows",
    responses={
        200: {"content": _BINARY_CONTENT},
        **problems(*_REFUSALS, Problem.TOO_MANY_ROWS, Problem.FEATURES_NOT_FINITE),
    },
    openapi_extra={"requestBody": {"content": _BINARY_CONTENT}},
)
def predict_batch(body: BatchInput, predict: PredictDep) -> BatchOutput:
    """Score many rows at once; a row gets the same bits as alone.

    Rows may also come as little-endian float64, row by row, and scores be asked for in the same form by `Accept`.
    """
    return BatchOutput(predict.batch(body.instances, body.scale_factor))
