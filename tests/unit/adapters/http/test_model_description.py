"""What /openapi.json says of trained models."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dependency_injector import providers
from hypothesis import example, given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

import weighbridge
from tests.unit.adapters.http.test_models import CLASSES, ROW, Service, serving
from tests.unit.adapters.http.test_openapi import references, resolve
from tests.unit.log import Log
from tests.unit.models import CHURN, constant
from weighbridge.adapters.http.model_description import describe_model
from weighbridge.adapters.http.openapi import SCHEMAS
from weighbridge.adapters.manifest import NAME, ColumnSpec, Golden, Manifest, Value
from weighbridge.adapters.runners.terms import Placed
from weighbridge.entrypoints.asgi import create_app

Schema = dict[str, Any]
PATHS = ("/models/churn/predict", "/models/churn/versions/1/predict")


@pytest.fixture
def churn(log: Log) -> Iterator[Service]:
    with serving(log, constant(CLASSES, "goes", [0.75, 0.25]), constant(CHURN, 0.5)) as service:
        yield service


def document_of(service: Service) -> Schema:
    document: Schema = service.client.get("/openapi.json").json()
    return document


def test_a_live_model_has_schemas_of_its_own(churn: Service) -> None:
    document = document_of(churn)

    for path in PATHS:
        operation = document["paths"][path]["post"]
        assert {*references(operation["requestBody"])} == {"#/components/schemas/churn_Row"}
        assert {*references(operation["responses"]["200"])} == {
            "#/components/schemas/churn_Answer",
            "#/components/schemas/churn_Answers",
        }
    row = document["components"]["schemas"]["churn_Row"]
    assert list(row["properties"]) == row["required"] == ["age", "signup_month"]
    assert all(resolve(document, reference) for reference in references(document))


@pytest.mark.parametrize("path", [*PATHS, "/models/default/predict"])
def test_every_example_of_a_model_runs(churn: Service, path: str) -> None:
    content = document_of(churn)["paths"][path]["post"]["requestBody"]["content"]["application/json"]

    for body in content["examples"].values():
        churn.ask(body["value"], path)


def test_the_reply_is_as_its_schema_says(churn: Service) -> None:
    schemas = document_of(churn)["components"]["schemas"]

    one, many = churn.ask(ROW), churn.ask([ROW])

    assert list(one) == schemas["churn_Answer"]["required"]
    assert list(many) == schemas["churn_Answers"]["required"]
    assert list(one["prediction"]) == schemas["churn_Prediction"]["required"]
    assert schemas["churn_Answer"]["properties"]["model"]["const"] == one["model"]


def test_the_document_is_renewed_when_another_version_becomes_live_and_not_before(churn: Service) -> None:
    before = document_of(churn)
    assert churn.host.document(churn.app) is churn.host.document(churn.app)

    churn.activate("churn", "2")
    after = document_of(churn)

    assert "/models/churn/versions/1/predict" in before["paths"]
    assert "/models/churn/versions/1/predict" not in after["paths"]
    assert "/models/churn/versions/2/predict" in after["paths"]
    assert after["components"]["schemas"]["churn_Answer"]["properties"]["prediction"]["type"] == "number"


def test_every_operation_has_an_id_of_its_own(churn: Service) -> None:
    ids = [operation["operationId"] for path in document_of(churn)["paths"].values() for operation in path.values()]

    assert len({*ids}) == len(ids)


def test_operations_of_models_have_ids_of_their_own_whatever_the_models_are_called(churn: Service) -> None:
    described = [describe_model(name, "1", CHURN) for name in ("a", "a_1", "a_live", "predict_post", "version_1_a")]
    documents = [document_of(churn), *({"paths": part.paths} for part in described)]

    ids = [
        operation["operationId"] for part in documents for path in part["paths"].values() for operation in path.values()
    ]

    assert len({*ids}) == len(ids)


def is_of_a_model(schema: str) -> bool:
    return schema.endswith(("_Row", "_Prediction", "_Answer", "_Answers"))


@settings(max_examples=30, deadline=None)
@given(st.sets(st.from_regex(NAME, fullmatch=True), min_size=2, max_size=4))
@example({"eu.churn", "us.churn", "churn"})
@example({"a.b", "a_b", "a-b", "a__b", "A.b", "a.b_Row", "a.b."})
def test_models_share_no_schemas_whatever_they_are_called(names: set[str]) -> None:
    described = {name: describe_model(name, "1", CLASSES) for name in names}

    for name, part in described.items():
        assert {*references(part.paths)} - {SCHEMAS.format(model="ProblemDetails")} == {
            SCHEMAS.format(model=f"{name}_{kind}") for kind in ("Row", "Answer", "Answers")
        }
        assert {*part.schemas} == {f"{name}_{kind}" for kind in ("Row", "Prediction", "Answer", "Answers")}
        assert all(re.fullmatch(r"[A-Za-z0-9._-]+", schema) and is_of_a_model(schema) for schema in part.schemas)


def test_no_schema_of_the_service_itself_is_named_as_one_of_a_model(churn: Service) -> None:
    of_models = {*describe_model("churn", "1", CLASSES).schemas, *describe_model("default", "1", CHURN).schemas}

    assert {schema for schema in document_of(churn)["components"]["schemas"] if is_of_a_model(schema)} == of_models


def test_a_golden_row_is_the_example_where_there_is_one() -> None:
    golden: dict[str, Value] = {"age": 41, "signup_month": "July"}
    manifest = Manifest(
        runtime="linear",
        inputs=[ColumnSpec.of(column) for column in CHURN.inputs],
        outputs=[ColumnSpec.of(column) for column in CHURN.outputs],
        golden=[Golden(input=golden, output={"prediction": 0.5})],
    )

    described = describe_model("churn", "1", CHURN, manifest)

    examples = described.paths[PATHS[0]]["post"]["requestBody"]["content"]["application/json"]["examples"]
    assert json.loads(json.dumps(examples)) == {"row": {"value": golden}, "rows": {"value": [golden]}}


def test_the_operations_of_a_model_are_one_group_and_all_groups_are_told_of(churn: Service) -> None:
    document = document_of(churn)
    groups = {path: tag for path, item in document["paths"].items() for post in item.values() for tag in post["tags"]}

    assert [tag["name"] for tag in document["tags"]] == ["churn", "default", "The models", "The service"]
    assert {path for path, tag in groups.items() if tag == "churn"} == {*PATHS}
    assert {path for path, tag in groups.items() if tag == "default"} == {
        *("/predict", "/predict/batch"),
        *("/models/default/predict", "/models/default/versions/embedded/predict"),
    }
    assert not [tag for tag in groups.values() if NAME.fullmatch(tag) and tag not in churn.host.live]


@pytest.fixture
def told(log: Log, tmp_path: Path) -> Iterator[TestClient]:
    """The application with a model of which people are told."""
    weighbridge.package([1.0], tmp_path / "rent" / "1", example=[[1.0]], **TOLD)
    container = log.container(models=str(tmp_path), weights="off")
    container.live.override(providers.Object({"rent": Placed("1", 10)}))
    with TestClient(create_app(container)) as client:
        yield client


TOLD = {"title": "Rents of [Utrecht]", "description": "In euros, <b>per month</b>", "owner": "a_team"}


def test_what_people_are_told_of_a_model_is_with_the_models(told: TestClient) -> None:
    [listed], page = told.get("/models").json()["models"], told.get("/models/rent").json()

    assert listed == {"name": "rent", "live": "1", "reason": None, **TOLD}
    assert {key: page[key] for key in TOLD} == TOLD


def test_what_people_are_told_of_a_model_is_no_markup_on_the_docs_page(told: TestClient) -> None:
    [rent, *others] = told.get("/openapi.json").json()["tags"]

    assert rent == {
        "name": "rent",
        "description": r"Rents of \[Utrecht\] · In euros, \<b\>per month\</b\> · owner: a\_team",
    }
    assert [tag["name"] for tag in others] == ["The models", "The service"]
