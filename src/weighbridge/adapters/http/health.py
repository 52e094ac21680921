"""Whether the service lives, is ready, and is healthy."""

from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict

from weighbridge.adapters.http.dependencies import ReadinessDep
from weighbridge.adapters.http.fast_route import FastRoute
from weighbridge.adapters.http.openapi import SERVICE, problems
from weighbridge.adapters.http.problems import Problem

router = APIRouter(route_class=FastRoute, tags=[SERVICE])


class Health(BaseModel):
    """The service answers."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"status": "healthy", "engine": "FastAPI-ML"}]})

    status: Literal["healthy"] = "healthy"
    engine: Literal["FastAPI-ML"] = "FastAPI-ML"


class Live(BaseModel):
    """The process runs."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"status": "live"}]})

    status: Literal["live"] = "live"


class Ready(BaseModel):
    """The process takes requests."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"status": "ready"}]})

    status: Literal["ready"] = "ready"


@router.get("/health")
def health() -> Health:
    """Say that the service answers, in a form that never changes."""
    return Health()


@router.get("/livez", summary="Liveness")
def livez() -> Live:
    """Say that the process runs; one that does not answer should be restarted."""
    return Live()


@router.get("/readyz", summary="Readiness", responses=problems(Problem.NOT_READY))
def readyz(readiness: ReadinessDep) -> Ready:
    """Say whether requests should be sent here; if not, the detail is the reason."""
    readiness.check()
    return Ready()
