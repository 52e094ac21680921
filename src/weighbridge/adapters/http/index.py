"""Where a newcomer who knows only the address finds everything else."""

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict

from weighbridge import __version__
from weighbridge.adapters.http.fast_route import FastRoute
from weighbridge.adapters.http.model_routes import ModelsDep
from weighbridge.adapters.http.openapi import SERVICE

router = APIRouter(route_class=FastRoute, tags=[SERVICE])


class Links(BaseModel):
    """Paths of the service."""

    docs: str = "/docs"
    health: str = "/health"
    models: str = "/models"
    openapi: str = "/openapi.json"


class Index(BaseModel):
    """What this service is."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "name": "weighbridge",
                    "version": __version__,
                    "models": ["default"],
                    "links": {"docs": "/docs", "health": "/health", "models": "/models", "openapi": "/openapi.json"},
                }
            ]
        }
    )

    name: str = "weighbridge"
    version: str = __version__
    models: list[str]
    links: Links = Links()


@router.get("/")
def index(models: ModelsDep) -> Index:
    """Name the service, its live models and where to read on."""
    return Index(models=list(models.live))
