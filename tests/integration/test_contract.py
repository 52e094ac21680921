"""The table of the contract, one case of each kind, against the real process on its port."""

from collections.abc import Iterator

import httpx2
import pytest

from tests.contract import JSON, ONE_OF_EACH, Case
from tests.integration.service import serving

MIB = 1024 * 1024


@pytest.fixture(scope="module")
def of_the_road() -> Iterator[httpx2.Client]:
    """An HTTP client of the service in one process and without the fast lane."""
    with serving(FAST_LANE="false", WORKERS="0") as started, started.client() as client:
        yield client


@pytest.mark.parametrize("case", ONE_OF_EACH, ids=lambda case: case.name)
def test_the_contract_holds(client: httpx2.Client, case: Case) -> None:
    case.check(client)


@pytest.mark.parametrize("case", ONE_OF_EACH, ids=lambda case: case.name)
def test_the_contract_holds_on_the_ordinary_road(of_the_road: httpx2.Client, case: Case) -> None:
    case.check(of_the_road)


def spaces(size: int) -> Iterator[bytes]:
    for _ in range(size // MIB):
        yield b" " * MIB
    yield b" "


def test_a_body_over_the_limit_is_refused_by_its_length(client: httpx2.Client) -> None:
    reply = client.post("/predict", content=b" " * (16 * MIB + 1), headers=JSON)

    assert (reply.status_code, reply.json()["code"]) == (413, "body_too_large")
    assert reply.json()["detail"] == "The body may have at most 16777216 bytes"


def test_a_body_over_the_limit_is_refused_without_a_length(client: httpx2.Client) -> None:
    reply = client.post("/predict", content=spaces(16 * MIB), headers=JSON)

    assert (reply.status_code, reply.json()["code"]) == (413, "body_too_large")


def test_a_reply_does_not_name_the_server(client: httpx2.Client) -> None:
    assert "server" not in client.get("/health").headers


def test_the_docs_page_loads_from_this_host_alone(client: httpx2.Client) -> None:
    page = client.get("/docs").text

    for asset in ("swagger-ui-bundle.js", "swagger-ui.css", "favicon.png"):
        assert f"/docs/assets/{asset}" in page
        assert client.get(f"/docs/assets/{asset}").status_code == 200
