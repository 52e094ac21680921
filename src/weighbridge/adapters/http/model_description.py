"""What /openapi.json says of one version of a model: its two paths, with schemas and examples of its own."""

import re

from weighbridge.adapters.catalogue import golden_row
from weighbridge.adapters.http.openapi import SCHEMAS, Described, problems
from weighbridge.adapters.http.problems import Problem
from weighbridge.adapters.http.signature_types import SignatureTypes, example
from weighbridge.adapters.manifest import About, Manifest
from weighbridge.domain.signature import Signature

LIVE = "/models/{name}/predict"
VERSIONED = "/models/{name}/versions/{version}/predict"

_MARKUP = re.compile(r"[\\`*_#~|<>&\[\]]")

_REFUSALS = (
    Problem.BAD_REQUEST,
    Problem.FEATURE_COUNT_MISMATCH,
    Problem.MODEL_NOT_FOUND,
    Problem.VERSION_NOT_FOUND,
    Problem.VERSION_NOT_LIVE,
    Problem.BODY_TOO_LARGE,
    Problem.TOO_MANY_ROWS,
    Problem.UNSUPPORTED_MEDIA_TYPE,
    Problem.JSON_INVALID,
    Problem.INPUT_INVALID,
    Problem.FEATURE_TOO_LARGE,
    Problem.PREDICTION_NOT_FINITE,
    Problem.INFERENCE_FAILED,
    Problem.MODEL_CRASHED,
    Problem.MODEL_UNAVAILABLE,
    Problem.OVERLOADED,
    Problem.DEADLINE_EXCEEDED,
)


def describe_model(name: str, version: str, signature: Signature, manifest: Manifest | None = None) -> Described:
    """The paths, the schemas and the tag of a version; the example is a golden row, where the manifest has one."""
    body, reply, schemas = SignatureTypes(name, version, signature).schemas(SCHEMAS)
    row = (manifest and golden_row(manifest)) or example(signature.inputs)
    operation = {
        "tags": [name],
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {
                    "schema": body,
                    "examples": {"row": {"value": row}, "rows": {"value": [row]}},
                }
            },
        },
        "responses": {
            "200": {
                "description": "The prediction, or one for each row",
                "content": {"application/json": {"schema": reply}},
            },
            **{str(status): response for status, response in problems(*_REFUSALS).items()},
        },
    }
    # What follows the name has no underscore, and is no method, in which the ids that FastAPI makes end.
    live = {"summary": f"Predict with {name}", "operationId": f"predict_{name}_live", **operation}
    versioned = {
        "summary": f"Predict with version {version} of {name}",
        "operationId": f"predict_{name}_{version}",
        **operation,
    }
    paths = {
        template.format(name=name, version=version): {"post": post}
        for template, post in ((LIVE, live), (VERSIONED, versioned))
    }
    return Described(paths, schemas, {"name": name, "description": _told(manifest or About())})


def _told(about: About) -> str:
    """What people are told of a version, as Markdown that shows it letter by letter: it may load and link nothing."""
    owner = about.owner and f"owner: {about.owner}"
    text = " · ".join(part for part in (about.title, about.description, owner) if part)
    return _MARKUP.sub(r"\\\g<0>", text)
