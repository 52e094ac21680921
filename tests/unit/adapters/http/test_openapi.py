import re
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.contract import CASES, JSON
from weighbridge import __version__

Schema = dict[str, Any]


@pytest.fixture
def document(client: TestClient) -> Schema:
    """The service's description of itself."""
    document: Schema = client.get("/openapi.json").json()
    return document


def operations(document: Schema) -> Iterator[tuple[str, str, Schema]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield method.upper(), path, operation


def references(part: Any) -> Iterator[str]:
    if isinstance(part, dict):
        if "$ref" in part:
            yield part["$ref"]
        for value in part.values():
            yield from references(value)
    elif isinstance(part, list):
        for value in part:
            yield from references(value)


def resolve(document: Schema, reference: str) -> Schema:
    part = document
    for key in reference.removeprefix("#/").split("/"):
        part = part[key]
    return part


def schema_of(document: Schema, content: Schema, media_type: str = "application/json") -> Schema:
    return resolve(document, content["content"][media_type]["schema"]["$ref"])


def test_the_document_names_the_service_and_its_version(document: Schema) -> None:
    assert document["info"]["title"] == "Weighbridge"
    assert document["info"]["version"] == __version__


def test_the_public_endpoints_are_all_described(document: Schema) -> None:
    assert {(method, path) for method, path, _ in operations(document)} == {
        ("POST", "/predict"),
        ("POST", "/predict/batch"),
        ("GET", "/"),
        ("GET", "/health"),
        ("GET", "/livez"),
        ("GET", "/readyz"),
        ("GET", "/models"),
        ("GET", "/models/{name}"),
        ("POST", "/models/default/predict"),
        ("POST", "/models/default/versions/embedded/predict"),
    }


def test_the_schemas_of_a_prediction_are_model_input_and_model_output(document: Schema) -> None:
    operation = document["paths"]["/predict"]["post"]

    assert list(references(operation["requestBody"])) == ["#/components/schemas/ModelInput"]
    assert list(references(operation["responses"]["200"])) == ["#/components/schemas/ModelOutput"]


@pytest.mark.parametrize("path", ["/", "/health", "/livez", "/readyz"])
def test_what_needs_no_body_replies_as_its_example_shows(client: TestClient, document: Schema, path: str) -> None:
    [example] = schema_of(document, document["paths"][path]["get"]["responses"]["200"])["examples"]

    assert client.get(path).json() == example


@pytest.mark.parametrize("path", ["/predict", "/predict/batch"])
def test_every_example_runs_as_shown(client: TestClient, document: Schema, path: str) -> None:
    operation = document["paths"][path]["post"]
    requests = schema_of(document, operation["requestBody"])["examples"]
    replies = schema_of(document, operation["responses"]["200"])["examples"]

    assert [client.post(path, json=request).json() for request in requests] == replies


def test_every_reference_leads_somewhere(document: Schema) -> None:
    found = set(references(document))

    assert "#/components/schemas/ProblemDetails" in found
    assert all(resolve(document, reference) for reference in found)


def test_every_described_error_is_problem_details(document: Schema) -> None:
    errors = [
        response
        for _, _, operation in operations(document)
        for status, response in operation["responses"].items()
        if status >= "400"
    ]

    assert errors
    for response in errors:
        assert schema_of(document, response, "application/problem+json")["title"] == "ProblemDetails"


def test_problem_details_come_as_described(client: TestClient, document: Schema) -> None:
    problem = client.post("/predict", content=b"{}", headers=JSON).json()
    described = document["components"]["schemas"]

    assert problem.keys() == described["ProblemDetails"]["properties"].keys()
    assert problem["errors"][0].keys() == described["ErrorItem"]["properties"].keys()


def test_every_reply_of_the_contract_is_described(document: Schema) -> None:
    described = {(method, path): operation["responses"].keys() for method, path, operation in operations(document)}

    asked = [case for case in CASES if (case.method, case.path) in described]

    assert {str(case.status) for case in asked} >= {"200", "400", "413", "415", "422"}
    assert [case.name for case in asked if str(case.status) not in described[case.method, case.path]] == []


def test_the_docs_page_shows_groups_and_schemas_folded(client: TestClient) -> None:
    page = client.get("/docs").text

    assert '"docExpansion": "none"' in page
    assert '"defaultModelsExpandDepth": 0' in page


def test_the_docs_page_loads_from_this_host_alone(client: TestClient) -> None:
    page = client.get("/docs")
    addresses = re.findall(r"""(?:src|href)=["']([^"']+)""", page.text)

    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert re.search(r"(https?:)?//[a-z]", re.sub(r"^\s*//.*", "", page.text, flags=re.MULTILINE)) is None
    assert len(addresses) == 3
    for address in [*addresses, "/openapi.json"]:
        assert address.startswith("/")
        assert client.get(address).status_code == 200


@pytest.mark.parametrize(
    ("name", "media_type", "start"),
    [
        ("swagger-ui.css", "text/css; charset=utf-8", b".swagger-ui"),
        ("swagger-ui-bundle.js", "text/javascript; charset=utf-8", b"/*"),
        ("favicon.png", "image/png", b"\x89PNG"),
    ],
)
def test_an_asset_of_the_docs_page_has_its_type(client: TestClient, name: str, media_type: str, start: bytes) -> None:
    asset = client.get(f"/docs/assets/{name}")

    assert asset.headers["content-type"] == media_type
    assert asset.content.startswith(start)


@pytest.mark.parametrize("wanted", ["nonsense", "bytes=5-2", "bytes=99999999-", "bytes=0-0"])
def test_an_asset_comes_whole_whatever_range_is_asked_for(client: TestClient, wanted: str) -> None:
    asset = client.get("/docs/assets/favicon.png", headers={"range": wanted})

    assert asset.status_code == 200
    assert asset.content.startswith(b"\x89PNG")


def test_the_index_links_to_what_is_there(client: TestClient) -> None:
    index = client.get("/").json()

    assert (index["name"], index["version"], index["models"]) == ("weighbridge", __version__, ["default"])
    assert {name: client.get(link).status_code for name, link in index["links"].items()} == {
        "docs": 200,
        "health": 200,
        "models": 200,
        "openapi": 200,
    }


@pytest.mark.parametrize("path", ["/", "/health", "/livez", "/readyz", "/openapi.json", "/docs"])
def test_head_tells_what_get_would(client: TestClient, path: str) -> None:
    got, head = client.get(path), client.head(path)

    assert (head.status_code, head.content) == (200, b"")
    for name in ("content-type", "content-length"):
        assert head.headers[name] == got.headers[name]
