"""The trained models: which there are, what each takes and gives, and on the ordinary road their predictions."""

from typing import Annotated, Any, Self

from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel, ConfigDict

from weighbridge.adapters.http.dependencies import ApplicationScoped
from weighbridge.adapters.http.fast_route import FastRoute, answer
from weighbridge.adapters.http.model_description import LIVE, VERSIONED
from weighbridge.adapters.http.model_host import ModelHost, Opened
from weighbridge.adapters.http.openapi import MODELS, problems
from weighbridge.adapters.http.problems import Problem
from weighbridge.adapters.manifest import About, ColumnSpec
from weighbridge.application.catalogue import Calls, ModelEntry, VersionState
from weighbridge.domain.errors import ModelNotFound

router = APIRouter(route_class=FastRoute, tags=[MODELS])

ModelsDep = Annotated[ModelHost, Depends(ApplicationScoped("models"))]


class ModelSummary(BaseModel):
    """A model, by which of its versions answers, and what people are told of that."""

    name: str
    live: str | None
    reason: str | None = None
    title: str | None
    description: str | None
    owner: str | None

    @classmethod
    def of(cls, entry: ModelEntry, about: About, **more: Any) -> Self:
        """That of an entry in the catalogue."""
        return cls(name=entry.name, live=entry.live, reason=entry.reason, **about.model_dump(), **more)


class Models(BaseModel):
    """All models."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "models": [
                        {
                            "name": "default",
                            "live": "embedded",
                            "reason": None,
                            "title": None,
                            "description": None,
                            "owner": None,
                        }
                    ]
                }
            ]
        }
    )

    models: list[ModelSummary]


class Version(BaseModel):
    """A version of a model; `reason` is why it is refused."""

    version: str
    state: VersionState
    reason: str | None = None


class ModelPage(ModelSummary):
    """A model: its versions, of which `previous` was live before, and what the one that is live takes and gives.

    `calls` says where the live version is called, and what a call took when it was opened; null for the embedded model.
    """

    previous: str | None
    calls: Calls | None
    inputs: list[ColumnSpec] | None
    outputs: list[ColumnSpec] | None
    versions: list[Version]


# Not what FastAPI adds for a parameter, 422: every name is fit to be asked for.
_NO_MODEL = {**problems(Problem.MODEL_NOT_FOUND), "4XX": problems(Problem.BAD_REQUEST)[400]}


@router.get("/models", summary="All models")
def all_models(models: ModelsDep) -> Models:
    """Name the models, and the version of each that is live."""
    return Models(models=[ModelSummary.of(entry, models.about(name)) for name, entry in sorted(models.entries.items())])


@router.get("/models/{name}", summary="One model", responses=_NO_MODEL)
async def one_model(name: str, models: ModelsDep) -> ModelPage:
    """Tell what a model takes and gives, and which versions there are."""
    entry, signature = models.entries.get(name), models.signature(name)
    if entry is None:
        raise ModelNotFound
    return ModelPage.of(
        entry,
        models.about(name),
        previous=entry.previous,
        calls=entry.calls,
        inputs=None if signature is None else [ColumnSpec.of(column) for column in signature.inputs],
        outputs=None if signature is None else [ColumnSpec.of(column) for column in signature.outputs],
        versions=[Version(version=v.version, state=v.state, reason=v.reason) for v in entry.versions],
    )


# The document has a path for each live model in place of these two, which any model's name and version lead to.


@router.post(LIVE, include_in_schema=False)
async def predict_live(name: str, request: Request, models: ModelsDep) -> Response:
    """Predict with the version that is live."""
    return await _predict(models.find(name), LIVE, request)


@router.post(VERSIONED, include_in_schema=False)
async def predict_version(name: str, version: str, request: Request, models: ModelsDep) -> Response:
    """Predict with a version, for as long as it is live."""
    return await _predict(models.find(name, version), VERSIONED, request)


async def _predict(opened: Opened, template: str, request: Request) -> Response:
    """By the version that is live when the request begins, whatever is by the time that its body is here."""
    return await answer(opened.routes[template], request)
