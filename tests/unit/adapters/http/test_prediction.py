"""Numbers on their way through request and reply, and the limits of a body, by the application in this process."""

import json
import math
import struct
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from dependency_injector import providers
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from starlette.testclient import TestClient
from starlette.types import Message

from tests.contract import GOOD, GOOD_BATCH, JSON
from tests.unit.asgi import exchange, header
from tests.unit.log import Log
from weighbridge.container import Container
from weighbridge.entrypoints.asgi import create_app

finite = st.floats(allow_nan=False, allow_infinity=False)
positive = st.floats(min_value=0, exclude_min=True, allow_infinity=False)


class FirstFeature:
    """A use case that answers each row with its first feature, untouched."""

    def __call__(self, features: Sequence[float], _scale_factor: float) -> float:
        return features[0]

    def batch(self, rows: Sequence[Sequence[float]], _scale_factor: float) -> NDArray[np.float64]:
        return np.array([row[0] for row in rows])


class ScaleFactor(FirstFeature):
    """A use case that answers with the scale factor, untouched."""

    def __call__(self, _features: Sequence[float], scale_factor: float) -> float:
        return scale_factor


def answering(predict: object, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    log = Log(tmp_path_factory.mktemp("answering") / "log")
    container: Container = log.container()
    container.predict.override(providers.Object(predict))
    with TestClient(create_app(container)) as client:
        yield client
    log.close()


@pytest.fixture(scope="module")
def echo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """The service, answering with the first feature."""
    yield from answering(FirstFeature(), tmp_path_factory)


@pytest.fixture(scope="module")
def scale(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """The service, answering with the scale factor."""
    yield from answering(ScaleFactor(), tmp_path_factory)


def ask(client: TestClient, body: str, path: str = "/predict") -> Any:
    reply = client.post(path, content=body, headers=JSON)
    assert reply.status_code == 200
    return json.loads(reply.content)


def chunks(body: bytes, size: int) -> Iterator[Message]:
    for start in range(0, len(body), size):
        yield {"type": "http.request", "body": body[start : start + size], "more_body": True}
    yield {"type": "http.request"}


# Every double arrives and returns to the bit


@given(finite)
def test_a_double_survives_request_and_reply(echo: TestClient, value: float) -> None:
    assert ask(echo, json.dumps({"features": [value]}))["prediction"].hex() == value.hex()


@given(st.lists(finite, min_size=1))
def test_doubles_survive_request_and_reply_of_a_batch(echo: TestClient, values: list[float]) -> None:
    body = json.dumps({"instances": [[value] for value in values]})

    predictions = ask(echo, body, "/predict/batch")["predictions"]

    assert [prediction.hex() for prediction in predictions] == [value.hex() for value in values]


@given(positive)
def test_a_scale_factor_survives_its_request(scale: TestClient, value: float) -> None:
    assert ask(scale, json.dumps({"features": [], "scale_factor": value}))["prediction"].hex() == value.hex()


@given(st.integers(min_value=-(10**308), max_value=10**308))
def test_an_integer_becomes_the_nearest_double(echo: TestClient, value: int) -> None:
    assert ask(echo, json.dumps({"features": [value]}))["prediction"] == float(value)


@given(st.decimals(min_value=-(10**300), max_value=10**300, allow_nan=False, allow_infinity=False))
def test_a_decimal_becomes_the_nearest_double(echo: TestClient, value: object) -> None:
    literal = f"{value:e}"

    assert ask(echo, f'{{"features":[{literal}]}}')["prediction"] == float(literal)


@given(st.lists(st.lists(finite, min_size=4, max_size=4), min_size=1, max_size=3), positive)
def test_a_batch_is_answered_as_its_rows_are_alone(
    client: TestClient, rows: list[list[float]], scale_factor: float
) -> None:
    alone = [client.post("/predict", json={"features": row, "scale_factor": scale_factor}) for row in rows]

    batch = client.post("/predict/batch", json={"instances": rows, "scale_factor": scale_factor})

    assert batch.status_code == max(reply.status_code for reply in alone)
    if batch.status_code == 200:
        assert repr(batch.json()["predictions"]) == repr([reply.json()["prediction"] for reply in alone])


# Bodies


def keyed(leaf: st.SearchStrategy[object]) -> st.SearchStrategy[dict[str, object]]:
    keys = st.sampled_from(["features", "scale_factor", "instances"]) | st.text()
    return st.dictionaries(keys, leaf)


@given(st.binary(max_size=200) | st.text().map(str.encode) | st.sampled_from([GOOD, GOOD_BATCH]))
@pytest.mark.parametrize("path", ["/predict", "/predict/batch"])
def test_any_bytes_get_an_answer(client: TestClient, path: str, body: bytes) -> None:
    assert client.post(path, content=body, headers=JSON).status_code in {200, 400, 422}


@given(st.recursive(st.none() | st.booleans() | finite | st.text(), lambda leaf: st.lists(leaf) | keyed(leaf)))
def test_any_json_gets_an_answer(client: TestClient, value: object) -> None:
    assert client.post("/predict", content=json.dumps(value), headers=JSON).status_code in {200, 400, 422}


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_a_body_may_come_in_pieces(client: TestClient, size: int) -> None:
    [start, end] = exchange(client, chunks(GOOD, size))

    assert start["status"] == 200
    assert json.loads(end["body"])["prediction"] == -1.6875


@pytest.mark.parametrize("headers", [JSON, JSON | {"transfer-encoding": "chunked"}])
def test_a_body_of_the_largest_size_is_read(log: Log, headers: dict[str, str]) -> None:
    with TestClient(create_app(log.container(max_body_bytes=len(GOOD)))) as client:
        assert client.post("/predict", content=GOOD, headers=headers).status_code == 200


def test_a_larger_body_is_refused(log: Log) -> None:
    with TestClient(create_app(log.container(max_body_bytes=len(GOOD)))) as client:
        reply = client.post("/predict", content=GOOD + b" ", headers=JSON)

    assert (reply.status_code, reply.json()["code"]) == (413, "body_too_large")
    assert reply.json()["detail"] == f"The body may have at most {len(GOOD)} bytes"


def test_a_body_without_an_announced_length_is_read_no_further_than_the_limit(log: Log) -> None:
    endless = ({"type": "http.request", "body": b" ", "more_body": True} for _ in iter(int, 1))

    with TestClient(create_app(log.container(max_body_bytes=100))) as client:
        [start, end] = exchange(client, endless)

    assert start["status"] == 413
    assert header([start], b"content-type") == b"application/problem+json"
    assert json.loads(end["body"])["code"] == "body_too_large"


def test_the_rows_of_a_batch_are_limited_by_the_setting(log: Log) -> None:
    with TestClient(create_app(log.container(max_rows=1))) as client:
        reply = client.post("/predict/batch", content=GOOD_BATCH, headers=JSON)

    assert reply.status_code == 413
    assert reply.json()["detail"] == "expected at most 1 rows, got 2; send them in several requests"


def test_the_width_of_a_row_is_that_of_the_weights_in_the_settings(log: Log) -> None:
    with TestClient(create_app(log.container(weights=(2.0, 3.0)))) as client:
        assert client.post("/predict", json={"features": [1, 1]}).json()["prediction"] == 5.0
        assert client.post("/predict", content=GOOD, headers=JSON).json()["detail"] == "expected 2 features, got 4"


ROWS = struct.pack("<8d", 1.5, 2.25, -0.75, 4.0, 1, 1, 1, 1)
BINARY = {"content-type": "application/octet-stream"}


@pytest.mark.parametrize("media_type", ["application/octet-stream", "Application/Octet-Stream; v=1"])
def test_rows_may_come_as_bytes(client: TestClient, media_type: str) -> None:
    reply = client.post("/predict/batch", content=ROWS, headers={"content-type": media_type})

    assert reply.json() == {"predictions": [-1.6875, 1.0], "status": "success"}


@pytest.mark.parametrize(
    ("accept", "media_type"),
    [
        ("application/octet-stream", "application/octet-stream"),
        ("application/octet-stream, */*", "application/octet-stream"),
        ("application/json, application/octet-stream", "application/json"),
        ("*/*", "application/json"),
    ],
)
def test_scores_are_bytes_for_who_asks_for_that(client: TestClient, accept: str, media_type: str) -> None:
    reply = client.post("/predict/batch", content=ROWS, headers=BINARY | {"accept": accept})

    assert reply.headers["content-type"] == media_type
    if media_type == BINARY["content-type"]:
        assert struct.unpack("<2d", reply.content) == (-1.6875, 1.0)


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"", 422, "input_invalid"),
        (ROWS[:-1], 422, "input_invalid"),
        (ROWS[:-8], 400, "feature_count_mismatch"),
        (ROWS + struct.pack("<4d", 1, math.nan, 1, 1), 422, "features_not_finite"),
        (struct.pack("<4d", 1e308, -1e308, 1e308, 0), 422, "prediction_not_finite"),
    ],
)
def test_bytes_that_are_no_rows_of_the_model_are_refused(
    client: TestClient, body: bytes, status: int, code: str
) -> None:
    reply = client.post("/predict/batch", content=body, headers=BINARY)

    assert (reply.status_code, reply.json()["code"]) == (status, code)


def test_a_batch_with_an_unknown_key_is_refused_though_its_rows_fit(client: TestClient) -> None:
    reply = client.post("/predict/batch", json={"instances": [[1, 1, 1, 1]], "needle": 1})

    assert (reply.status_code, reply.json()["code"]) == (422, "input_invalid")
    assert "needle" not in reply.text


def test_compressed_bytes_are_refused(client: TestClient) -> None:
    reply = client.post("/predict/batch", content=ROWS, headers=BINARY | {"content-encoding": "gzip"})

    assert (reply.status_code, reply.json()["code"]) == (415, "unsupported_media_type")


@pytest.mark.parametrize("path", ["/predict", "/predict/batch"])
def test_thousands_of_unknown_keys_are_one_error(client: TestClient, path: str) -> None:
    body = json.dumps({f"key {place}": 1 for place in range(20_000)})

    reply = client.post(path, content=body, headers=JSON)

    assert [error["code"] for error in reply.json()["errors"]] == ["too_many_errors"]
