"""A trained model in the real service, by both roads: all must be answered alike."""

import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from tests.integration.churn import write_models
from tests.integration.service import Service, serving
from tests.integration.wire import JSON, head

MADE_ID = re.compile(rb"\b[0-9a-f]{12}-[0-9a-f]+\b")
VARIES = re.compile(rb"\r\n(date|content-length): [^\r]+")
LIVE = b"/models/churn/predict"
VERSION_2 = b"/models/churn/versions/2/predict"
ROW = b'{"age":30,"signup month":"June","income":null}'

CASES: dict[str, tuple[bytes, bytes, int]] = {
    "a row": (LIVE, ROW, 200),
    "rows": (LIVE, b"[%b,%b]" % (ROW, ROW), 200),
    "a version": (VERSION_2, ROW, 200),
    "a version that is not live": (b"/models/churn/versions/1/predict", ROW, 404),
    "a version that there is not": (b"/models/churn/versions/3/predict", ROW, 404),
    "a model that there is not": (b"/models/nothing/predict", ROW, 404),
    "a name in percent-encoding": (b"/models/%63hurn/predict", ROW, 200),
    "a query": (LIVE + b"?x=1", ROW, 200),
    "all that is wrong with a row": (LIVE, b'{"age":"thirty","signup month":6}', 422),
    "all that is wrong with row 17": (LIVE, b"[%b,{}]" % b",".join([ROW] * 17), 422),
    "a model that raises": (LIVE, ROW.replace(b"30", b"13"), 500),
    "a prediction that is not finite": (LIVE, ROW.replace(b"30", b"99"), 422),
    "no JSON": (LIVE, b"nonsense", 422),
}


class Pair(NamedTuple):
    """The fast lane and the ordinary road."""

    lane: Service
    road: Service

    def answer(self, request: bytes) -> bytes:
        """What both write, but for what differs from one request to the next."""
        lane, road = (VARIES.sub(b"", MADE_ID.sub(b"", service.exchange(request))) for service in self)
        assert lane == road
        return lane

    def pages(self, path: str) -> list[Any]:
        """What each says at a path."""
        return [
            json.loads(service.exchange(closing(b"GET", path.encode())).partition(b"\r\n\r\n")[2]) for service in self
        ]


def closing(method: bytes, target: bytes, body: bytes = b"") -> bytes:
    """The last request of a connection."""
    return head(method, target, JSON, b"Content-Length: %d" % len(body), b"Connection: close") + body


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """Two services with two versions of a model."""
    models = write_models(tmp_path_factory.mktemp("models"), "1", "2")
    with (
        serving(MODELS=models, PYTHON_MODELS="true") as lane,
        serving(MODELS=models, PYTHON_MODELS="true", FAST_LANE="false", WORKERS="0") as road,
    ):
        yield Pair(lane, road)


@pytest.mark.parametrize(("target", "body", "status"), CASES.values(), ids=CASES)
def test_every_case_is_answered_alike(pair: Pair, target: bytes, body: bytes, status: int) -> None:
    assert pair.answer(closing(b"POST", target, body)).startswith(b"HTTP/1.1 %d " % status)


def test_the_pages_of_models_are_alike(pair: Pair) -> None:
    for path in (b"/", b"/models", b"/models/default", b"/models/nothing", b"/openapi.json"):
        assert pair.answer(closing(b"GET", path)).startswith(b"HTTP/1.1 ")


def test_the_page_of_a_model_differs_only_in_what_was_measured(pair: Pair) -> None:
    pages = pair.pages("/models/churn")
    for page in pages:
        del page["calls"]["call_seconds"], page["calls"]["row_seconds"]

    assert pages[0] == pages[1]


def test_the_service_says_what_it_has(pair: Pair) -> None:
    index, page, document = (pair.pages(path)[0] for path in ("/", "/models/churn", "/openapi.json"))

    examples = document["paths"][LIVE.decode()]["post"]["requestBody"]["content"]["application/json"]["examples"]
    assert index["models"] == ["churn", "default"]
    assert [(version["version"], version["state"]) for version in page["versions"]] == [
        ("1", "available"),
        ("2", "live"),
    ]
    assert examples["row"]["value"] == {"age": 30, "signup month": "June", "income": None}
