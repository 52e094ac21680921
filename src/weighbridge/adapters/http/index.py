"""Where a newcomer who knows only the address finds everything else."""

from fastapi import APIRouter
from pydantic import BaseModel

from weighbridge import __version__
from weighbridge.adapters.http.fast_route import FastRoute

router = APIRouter(route_class=FastRoute, tags=["index"])


class Links(BaseModel):
    """Paths of the service."""

    docs: str = "/docs"
    health: str = "/health"
    openapi: str = "/openapi.json"


class Index(BaseModel):
    """What this service is."""

    name: str = "weighbridge"
    version: str = __version__
    models: list[str]
    links: Links = Links()


@router.get("/")
def index() -> Index:
    """Name the service, its live models and where to read on."""
    return Index(models=["default"])
