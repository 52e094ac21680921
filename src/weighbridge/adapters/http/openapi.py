"""The service's description of itself: /openapi.json, and /docs with assets that need no internet."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import orjson
from fastapi import APIRouter, FastAPI, Request
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.openapi.utils import get_openapi
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, Response

from weighbridge.adapters.http.dependencies import ApplicationScoped
from weighbridge.adapters.http.errors import ProblemDetails
from weighbridge.adapters.http.problems import Problem
from weighbridge.application.catalogue import EMBEDDED

router = APIRouter(include_in_schema=False)

SCHEMAS = "#/components/schemas/{model}"
"""Where in the document a schema is, by its name."""

MODELS, SERVICE = "The models", "The service"
"""Tags, which no model can be named as: those of other operations are the names of models."""

_TAGS = (
    {"name": EMBEDDED.name, "description": "The embedded model"},
    {"name": MODELS, "description": "All models, and the inputs and outputs of each"},
    {"name": SERVICE, "description": "Its description, and whether it answers"},
)

# Of fastapi-offline: the Swagger UI of swagger-ui-bundle is too old for OpenAPI 3.1.
_ASSETS = {"swagger-ui-bundle.js": "text/javascript", "swagger-ui.css": "text/css", "favicon.png": "image/png"}


@dataclass(frozen=True, slots=True)
class Described:
    """A part of the document: path items by their paths, schemas by their names, and the tag of its operations."""

    paths: dict[str, Any]
    schemas: dict[str, Any]
    tag: dict[str, Any]


@router.get("/openapi.json")
async def schema(request: Request) -> Response:
    """The OpenAPI document."""
    document: bytes = ApplicationScoped("models").of(request.app).document(request.app)
    return Response(document, media_type="application/json")


@router.get("/docs")
async def docs() -> HTMLResponse:
    """The API as a page on which it can be tried."""
    script, style, icon = (f"/docs/assets/{name}" for name in _ASSETS)
    return get_swagger_ui_html(
        openapi_url="/openapi.json",
        title="Weighbridge",
        swagger_js_url=script,
        swagger_css_url=style,
        swagger_favicon_url=icon,
        swagger_ui_parameters={"docExpansion": "none", "defaultModelsExpandDepth": 0},
    )


@router.get("/docs/assets/{name}")
def asset(name: str) -> Response:
    """One of the page's files, from the installed package fastapi-offline."""
    if name not in _ASSETS:
        raise HTTPException(404)
    # Whole, and no FileResponse: that answers a bad Range with a text of its own instead of problem details.
    return Response(_content(name), media_type=_ASSETS[name])


@cache
def _content(name: str) -> bytes:
    """Read once: so a thousand clients that wait for the same file hold one copy of it."""
    return (files("fastapi_offline") / "static" / name).read_bytes()


def problems(*kinds: Problem) -> dict[int | str, dict[str, Any]]:
    """The OpenAPI responses of an endpoint that may answer with these problems."""
    return {
        status: {
            "description": "; ".join(f"{kind.title} (`{kind.code}`)" for kind in kinds if kind.status == status),
            "content": {
                "application/problem+json": {
                    "schema": {"$ref": "#/components/schemas/ProblemDetails"},
                    "examples": {kind.code: {"value": _example(kind)} for kind in kinds if kind.status == status},
                }
            },
        }
        for status in sorted({kind.status for kind in kinds})
    }


def _example(kind: Problem) -> dict[str, Any]:
    _, _, body = kind.reply("The reason, and the remedy", "0f3c5a7e9b1d-2a")
    return dict(orjson.loads(body))


def describe(app: FastAPI, parts: Iterable[Described] = ()) -> dict[str, Any]:
    """The OpenAPI document of `app`, and of `parts` that it does not have as routes of its own."""
    if app.openapi_schema is None:
        app.openapi_schema = _describe_routes(app)
    paths, components = {**app.openapi_schema["paths"]}, {**app.openapi_schema["components"]["schemas"]}
    own = {tag["name"]: tag for tag in app.openapi_schema["tags"]}
    of_models = {}
    for part in parts:
        paths |= part.paths
        components |= part.schemas
        of_models[part.tag["name"]] = part.tag
    tags = {**dict(sorted(of_models.items())), **own}
    return {**app.openapi_schema, "paths": paths, "components": {"schemas": components}, "tags": [*tags.values()]}


def _describe_routes(app: FastAPI) -> dict[str, Any]:
    document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    schema = ProblemDetails.model_json_schema(ref_template=SCHEMAS)
    nested = schema.pop("$defs")
    document["components"]["schemas"] |= {ProblemDetails.__name__: schema} | nested
    used = {
        tag for path in document["paths"].values() for operation in path.values() for tag in operation.get("tags", ())
    }
    document["tags"] = [tag for tag in _TAGS if tag["name"] in used]
    return document
