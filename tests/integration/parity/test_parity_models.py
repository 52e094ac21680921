"""Trained models by both roads of the real service."""

import json
import re
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.integration.churn import write_models
from tests.integration.parity.conftest import Pair
from tests.integration.parity.test_parity_generated import examples, values
from tests.integration.service import serving

LIVE = b"/models/churn/predict"
VERSION_2 = b"/models/churn/versions/2/predict"
ROW = b'{"age":30,"signup month":"June","income":null}'
STATUS = re.compile(rb"HTTP/1\.1 (\d\d\d) ")

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


@pytest.fixture(scope="module")
def models_pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """Two services with two versions of a model."""
    models = write_models(tmp_path_factory.mktemp("models"), "1", "2")
    with (
        serving(MODELS=models, PYTHON_MODELS="true", FAST_LANE="true") as lane,
        serving(MODELS=models, PYTHON_MODELS="true", FAST_LANE="false") as road,
    ):
        yield Pair(lane, road)


def asking(target: bytes, body: bytes) -> bytes:
    head = b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    return head % (target, len(body)) + body


@pytest.mark.parametrize(("target", "body", "status"), CASES.values(), ids=CASES)
def test_every_case_is_answered_alike(models_pair: Pair, target: bytes, body: bytes, status: int) -> None:
    found = STATUS.findall(models_pair.check(asking(target, body) * 3))

    assert [int(code) for code in found] == [status] * 3 + [200]


rows = st.fixed_dictionaries(
    {},
    optional={
        "age": st.integers(-5, 120) | values,
        "signup month": st.sampled_from(["June", "July", "august"]) | values,
        "income": st.none() | st.floats() | values,
        "other": values,
    },
)


@examples
@given(st.sampled_from([LIVE, VERSION_2]), rows | st.lists(rows, max_size=4) | values)
def test_generated_rows_are_answered_alike(models_pair: Pair, target: bytes, body: object) -> None:
    text = json.dumps(body, ensure_ascii=False).encode("utf-8", "surrogatepass")

    models_pair.check(asking(target, text))


def test_the_pages_of_models_are_alike(models_pair: Pair) -> None:
    for path in (b"/", b"/models", b"/models/default", b"/models/nothing", b"/openapi.json"):
        models_pair.check(b"GET %b HTTP/1.1\r\nHost: x\r\n\r\n" % path)


def test_the_page_of_a_model_differs_only_in_what_was_measured(models_pair: Pair) -> None:
    with models_pair.lane.client() as lane, models_pair.road.client() as road:
        pages = [client.get("/models/churn").json() for client in (lane, road)]
    for page in pages:
        del page["calls"]["call_seconds"], page["calls"]["row_seconds"]

    assert pages[0] == pages[1]


def test_the_service_says_what_it_has(models_pair: Pair) -> None:
    with models_pair.lane.client() as client:
        index, page, document = (client.get(path).json() for path in ("/", "/models/churn", "/openapi.json"))

    examples = document["paths"][LIVE.decode()]["post"]["requestBody"]["content"]["application/json"]["examples"]
    assert index["models"] == ["churn", "default"]
    assert [(version["version"], version["state"]) for version in page["versions"]] == [
        ("1", "available"),
        ("2", "live"),
    ]
    assert examples["row"]["value"] == {"age": 30, "signup month": "June", "income": None}
