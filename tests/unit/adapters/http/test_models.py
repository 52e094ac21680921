import json
import mmap
import os
import socket
import tracemalloc
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from dependency_injector import providers
from fastapi import FastAPI
from starlette.testclient import TestClient

from tests.contract import JSON, NUMBERS_THAT_ARE_NONE
from tests.unit.log import Log
from tests.unit.models import (
    AGE,
    CHURN,
    MONTH,
    SCORE,
    FakeClient,
    FakeClients,
    FakeLoader,
    FakeModel,
    constant,
    in_runners,
    outputs,
)
from weighbridge.adapters.http.model_host import ModelHost
from weighbridge.adapters.metrics import REQUEST
from weighbridge.adapters.runners.terms import Board, Placed
from weighbridge.adapters.series import read
from weighbridge.application.catalogue import Calls, ModelEntry, VersionEntry, VersionState
from weighbridge.domain.batch import Batch, Outputs
from weighbridge.domain.errors import ModelRefused
from weighbridge.domain.signature import Column, Kind, Signature
from weighbridge.entrypoints.asgi import create_app

PREDICT = "/models/churn/predict"
ROW = {"age": 30, "signup_month": "June"}
WRONG = {"age": "thirty", "signup_month": 6}
CLASSES = Signature(
    (AGE, MONTH),
    (
        Column(name="label", kind=Kind.STRING, categories=("goes", "stays")),
        Column(name="probabilities", kind=Kind.FLOAT, width=2),
    ),
)
SHAPES = Signature(
    (Column(name="income", kind=Kind.FLOAT, nullable=True), Column(name="pixels", kind=Kind.INT, width=3)),
    (Column(name="hidden", kind=Kind.FLOAT, width=2),),
)
SLICE_ROWS = 1000
UNTOLD = {"title": None, "description": None, "owner": None}
ABOUT = {"status": "success", "model": "churn", "version": "1"}


class Service:
    """The application, with versions of the model `churn` of which the first is live."""

    def __init__(self, app: FastAPI, client: TestClient, host: ModelHost) -> None:
        self.app = app
        self.client = client
        self.host = host

    def ask(self, body: Any, path: str = PREDICT, status: int = 200) -> Any:
        """The reply to a body, which is bytes or made into JSON."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        reply = self.client.post(path, content=content, headers=JSON)
        assert reply.status_code == status, reply.text
        return reply.json()

    def refused(self, body: Any, path: str = PREDICT, status: int = 422) -> dict[tuple[Any, ...], str]:
        """What is wrong with a body: codes by their places."""
        return {tuple(item["loc"]): item["code"] for item in self.ask(body, path, status)["errors"]}

    def activate(self, name: str, version: str) -> None:
        """Make a version live."""
        portal = self.client.portal
        assert portal is not None
        portal.call(self.host.install, self.host.open(name, Placed(version, SLICE_ROWS)))


@contextmanager
def serving(log: Log, *models: FakeModel, **settings: Any) -> Iterator[Service]:
    """The application with these as versions 1, 2 and so on."""
    container = log.container(**settings)
    loader = FakeLoader({("churn", str(number)): model for number, model in enumerate(models, 1)})
    container.loader.override(providers.Object(loader))
    container.live.override(providers.Object({"churn": Placed("1", SLICE_ROWS)}))
    app = create_app(container)
    with TestClient(app) as client:
        yield Service(app, client, container.models())


@pytest.fixture(scope="module")
def churn(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The application with one version; tests that only ask share it."""
    log = Log(tmp_path_factory.mktemp("churn") / "log")
    with serving(log, constant(CHURN, 0.5), max_rows=20) as service:
        yield service
    log.close()


@pytest.fixture
def own_churn(log: Log) -> Iterator[Service]:
    """The same, for tests that change it."""
    with serving(log, constant(CHURN, 0.5), max_rows=20) as service:
        yield service


def test_a_row_gets_a_prediction_that_names_model_and_version(churn: Service) -> None:
    assert churn.ask(ROW) == {"prediction": 0.5, **ABOUT}


def test_an_array_of_rows_gets_a_prediction_for_each(churn: Service) -> None:
    assert churn.ask([ROW, ROW]) == {"predictions": [0.5, 0.5], **ABOUT}
    assert churn.ask([ROW]) == {"predictions": [0.5], **ABOUT}
    assert churn.ask(b" \r\n\t[%b]" % json.dumps(ROW).encode()) == {"predictions": [0.5], **ABOUT}


def test_a_version_is_asked_by_its_number(churn: Service) -> None:
    assert churn.ask(ROW, "/models/churn/versions/1/predict") == {"prediction": 0.5, **ABOUT}


def test_the_embedded_model_is_one_among_the_others(churn: Service) -> None:
    row = {"features": [1.5, 2.25, -0.75, 4.0]}
    about = {"status": "success", "model": "default", "version": "embedded"}

    assert churn.ask(row, "/models/default/predict") == {"prediction": -1.6875, **about}
    assert churn.ask([row, row], "/models/default/versions/embedded/predict") == {"predictions": [-1.6875] * 2, **about}


def test_several_outputs_are_an_object_by_name(log: Log) -> None:
    prediction = {"label": "goes", "probabilities": [0.75, 0.25]}

    with serving(log, constant(CLASSES, "goes", [0.75, 0.25])) as service:
        assert service.ask(ROW) == {"prediction": prediction, **ABOUT}
        assert service.ask([ROW, ROW]) == {"predictions": [prediction] * 2, **ABOUT}


def test_vectors_go_in_and_come_out_and_null_is_none(log: Log) -> None:
    model = constant(SHAPES, [0.5, 1.5])

    with serving(log, model) as service:
        assert service.ask({"pixels": [1, 2, 3], "income": None}) == {"prediction": [0.5, 1.5], **ABOUT}

    assert model.seen[-1].rows == [(None, [1, 2, 3])]


def test_everything_that_is_wrong_with_a_row_is_told_with_its_place(churn: Service) -> None:
    assert churn.refused(WRONG) == {("body", "age"): "int_type", ("body", "signup_month"): "literal_error"}
    assert churn.refused([ROW] * 17 + [WRONG, {}]) == {
        ("body", 17, "age"): "int_type",
        ("body", 17, "signup_month"): "literal_error",
    }
    assert churn.refused({}) == {("body", "age"): "missing", ("body", "signup_month"): "missing"}


def test_unknown_keys_are_refused_by_naming_those_that_are_known(churn: Service) -> None:
    problem = churn.ask({**ROW, "needle": 1, "thread": 2}, status=422)

    assert problem["detail"] == "body: Unknown keys; allowed: age, signup_month"
    assert "needle" not in json.dumps(problem)
    assert churn.refused([ROW, {**ROW, "needle": 1}]) == {("body", 1): "extra_forbidden"}


def test_a_large_body_is_judged_as_a_small_one(log: Log) -> None:
    signature = Signature((Column(name="text", kind=Kind.STRING), Column(name="age", kind=Kind.INT)), (SCORE,))
    row = {"text": ":" * 200_000, "age": 30}

    with serving(log, constant(signature, 0.5)) as service:
        assert service.ask(row)["prediction"] == 0.5
        assert service.ask([row, row])["predictions"] == [0.5, 0.5]
        assert service.refused({**row, "needle": 1}) == {("body",): "extra_forbidden"}
        assert service.refused({"text": row["text"]}) == {("body", "age"): "missing"}
        assert service.refused([row, {"age": 1, "needle": 1}]) == {
            ("body", 1, "text"): "missing",
            ("body", 1): "extra_forbidden",
        }
        assert service.refused({**row, "age": "x"}) == {("body", "age"): "int_type"}
        assert service.refused({"text": row["text"], "age": "x", "needle": 1}) == {
            ("body", "age"): "int_type",
            ("body",): "extra_forbidden",
        }
        assert service.refused([row, {"text": 1, "needle": 1}]) == {
            ("body", 1, "text"): "string_type",
            ("body", 1, "age"): "missing",
            ("body", 1): "extra_forbidden",
        }


def test_no_copy_of_a_body_is_made_for_each_input_that_is_missing(log: Log) -> None:
    wide = tuple(Column(name=f"column {place}", kind=Kind.FLOAT) for place in range(500))
    body = b'{"x":[%b]}' % b",".join([b'"0123456789abcdef"'] * 100_000)

    with serving(log, constant(Signature(wide, (SCORE,)), 0.5)) as service:
        tracemalloc.start()
        try:
            [error] = service.ask(body, status=422)["errors"]
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()

    assert error["code"] == "too_many_errors"
    assert peak < 10 * len(body)  # what is made of the body itself is not traced


def test_of_ever_so_many_unknown_keys_one_error_is_made(log: Log) -> None:
    body = b"{%b}" % b",".join(b'"unknown %06d":1' % key for key in range(300_000))

    with serving(log, constant(CHURN, 0.5)) as service:
        assert service.refused(body) == {
            ("body", "age"): "missing",
            ("body", "signup_month"): "missing",
            ("body",): "extra_forbidden",
        }


@pytest.mark.parametrize(
    "body",
    [
        b'{"x":[%b]}' % b",".join([b"[]"] * 100_000),
        b'{"age":[%b]}' % b",".join([b"{}"] * 100_000),
        b'[{"age":1,"signup_month":"June"},%b]' % b",".join([b"1"] * 100_000),
        b"[{}]%b" % b",".join([b"[%b]" % (b"[" * 50 + b"]" * 50)] * 5_000),
        b"{%b}" % b",".join(b'"%d":1' % key for key in range(100_000)),
        b"{%b}" % b",".join([b'"age":1'] * 100_000),
        b'[%b,{"x":[%b]}]' % (b",".join([b"{}"] * 19), b",".join([b"[]"] * 100_000)),
        b'["%b",%b]' % (b"{" * 10, b",".join([b"[]"] * 100_000)),
        b"[" * 200_000,
        b'{"age":' * 100_000,
    ],
    ids=[
        "values of an unknown key",
        "values of a known key",
        "rows that are none",
        "nested arrays",
        "unknown keys",
        "one key again and again",
        "values in the last row",
        "braces in a text",
        "brackets without end",
        "objects without end",
    ],
)
def test_what_would_cost_far_more_than_its_bytes_is_refused_unread(log: Log, body: bytes) -> None:
    with serving(log, constant(CHURN, 0.5), max_rows=20) as service:
        assert service.refused(body) == {("body",): "too_many_values"}


def test_the_refusal_of_too_many_values_has_the_counts(log: Log) -> None:
    with serving(log, constant(CHURN, 0.5)) as service:
        dense = service.ask(b'{"x":[%b]}' % b",".join([b"1"] * 100_000), status=422)
        nested = service.ask(b'{"x":[%b]}' % b",".join([b"[[[[%b]]]]" % (b" " * 40)] * 10_000), status=422)

    assert dense["detail"] == (
        "body: The body has 100002 commas, colons and opening brackets; rows that fit have at most 25000"
    )
    assert nested["detail"] == "body: The body has 40002 opening brackets; rows that fit have at most 30625"


def test_a_body_that_can_do_no_harm_is_read_however_dense_it_is(log: Log) -> None:
    signature = Signature(tuple(Column(name=name, kind=Kind.FLOAT) for name in "abc"), (SCORE,))
    body = b'{"a":[%b],"b":1,"c":1}' % b",".join([b"[]"] * 30_000)
    with serving(log, constant(signature, 0.5)) as service:
        assert service.refused(body) == {("body", "a"): "float_type"}


@pytest.mark.parametrize("text", ["[" * 150_000, '\\",{' * 30_000, "\\" * 50_000 + "," * 50_000])
def test_what_is_in_texts_is_no_structure(log: Log, text: str) -> None:
    signature = Signature((Column(name="text", kind=Kind.STRING),), (SCORE,))

    with serving(log, constant(signature, 0.5)) as service:
        assert service.ask({"text": text})["prediction"] == 0.5
        assert service.ask([{"text": text}, {"text": text}])["predictions"] == [0.5, 0.5]


def test_of_a_column_too_many_in_each_of_many_rows_the_first_is_told(log: Log) -> None:
    with serving(log, constant(CHURN, 0.5)) as service:
        assert service.refused([{**ROW, "x": 1}] * 10_000) == {("body", 0): "extra_forbidden"}


def test_many_vectors_of_another_width_are_told_from_those_that_fit(log: Log) -> None:
    pixels = Signature((Column(name="pixels", kind=Kind.INT, width=50),), (SCORE,))
    good, bad = {"pixels": [1] * 50}, {"pixels": [1] * 60}

    with serving(log, constant(pixels, 0.5)) as service:
        assert service.ask([good] * 2_000)["predictions"] == [0.5] * 2_000
        assert service.refused([good, *[bad] * 2_000], status=400) == {("body", 1, "pixels"): "feature_count_mismatch"}


@pytest.mark.parametrize(
    ("body", "place", "code"),
    [
        (b"[]", ("body",), "too_short"),
        (b"3", ("body",), "dict_type"),
        (b"null", ("body",), "dict_type"),
        (b"[3]", ("body", 0), "dict_type"),
        (b'[{"age":1,"signup_month":"June"},[1,"June"]]', ("body", 1), "dict_type"),
        (b'{"age":1.0,"signup_month":"June"}', ("body", "age"), "int_type"),
        (b'{"age":true,"signup_month":"June"}', ("body", "age"), "int_type"),
        (b'{"age":null,"signup_month":"June"}', ("body", "age"), "int_type"),
        (b'{"age":9223372036854775808,"signup_month":"June"}', ("body", "age"), "less_than_equal"),
        (b'{"age":-9223372036854775809,"signup_month":"June"}', ("body", "age"), "greater_than_equal"),
        (b'{"age":1,"signup_month":"june"}', ("body", "signup_month"), "literal_error"),
        (b'{"age":1,"signup_month":null}', ("body", "signup_month"), "literal_error"),
        (b"", ("body",), "json_invalid"),
        (b'\xef\xbb\xbf{"age":1,"signup_month":"June"}', ("body",), "json_invalid"),
        (b'{"age":1,"signup_month":"\\ud800"}', ("body",), "json_invalid"),
        (b'{"age":1,"signup_month":"\xff"}', ("body",), "json_invalid"),
        (b'{"age":1,"signup_month":"June"} x', ("body",), "json_invalid"),
        (b"[" * 100_000, ("body",), "json_invalid"),
        (b"[{" * 10_000, ("body",), "json_invalid"),
        (b'{"age":' * 10_000, ("body",), "json_invalid"),
    ],
)
def test_what_does_not_fit_is_refused(churn: Service, body: bytes, place: tuple[Any, ...], code: str) -> None:
    assert churn.refused(body) == {place: code}


@pytest.mark.parametrize("literal", NUMBERS_THAT_ARE_NONE.values(), ids=NUMBERS_THAT_ARE_NONE)
def test_what_is_no_number_reaches_no_model(log: Log, literal: bytes) -> None:
    model = constant(Signature((Column(name="income", kind=Kind.FLOAT),), (SCORE,)), 0.5)

    with serving(log, model) as service:
        assert list(service.refused(b'{"income":%b}' % literal)) == [("body", "income")]
        assert list(service.refused(b'[{"income":1},{"income":%b}]' % literal)) == [("body", 1, "income")]

    assert not model.seen


def test_the_integers_of_64_bits_pass_and_reach_the_model_as_they_are(log: Log) -> None:
    model = constant(CHURN, 0.5)

    with serving(log, model) as service:
        for age in (2**63 - 1, -(2**63)):
            service.ask({**ROW, "age": age})

    assert [batch.rows[0][0] for batch in model.seen] == [2**63 - 1, -(2**63)]


def test_of_a_key_that_comes_twice_the_last_counts(log: Log) -> None:
    model = constant(CHURN, 0.5)

    with serving(log, model) as service:
        service.ask(b'{"age":"x","age":1,"signup_month":"July","signup_month":"June"}')

    assert model.seen[-1].rows == [(1, "June")]


def test_a_refusal_is_small_however_many_categories_there_are(log: Log) -> None:
    months = Column(name="signup_month", kind=Kind.STRING, categories=tuple(f"month {n}" for n in range(5000)))

    with serving(log, constant(Signature((months,), (SCORE,)), 0.5)) as service:
        [error] = service.ask({"signup_month": "June"}, status=422)["errors"]

    assert error["message"].startswith("Input should be 'month 0', 'month 1'")
    assert len(error["message"]) < 1100


def test_more_rows_than_the_settings_allow_are_refused_with_the_counts(churn: Service) -> None:
    problem = churn.ask([ROW] * 21, status=413)

    assert (problem["code"], problem["detail"][:32]) == ("too_many_rows", "expected at most 20 rows, got 21")


@pytest.mark.parametrize("name", ["{" * 30, '\\"{' * 30, "\\\\", "{\n"])
def test_braces_in_texts_are_no_rows(log: Log, name: str) -> None:
    signature = Signature((Column(name="name", kind=Kind.STRING),), (SCORE,))

    with serving(log, constant(signature, 0.5), max_rows=20) as service:
        assert service.ask([{"name": name}] * 20)["predictions"] == [0.5] * 20
        assert service.ask([{"name": name}] * 21, status=413)["code"] == "too_many_rows"


@pytest.mark.parametrize("media_type", [None, "text/plain", "application/octet-stream"])
def test_only_json_is_taken(churn: Service, media_type: str | None) -> None:
    headers = {} if media_type is None else {"content-type": media_type}

    assert churn.client.post(PREDICT, content=b"{}", headers=headers).status_code == 415


@pytest.mark.parametrize(
    ("body", "place"),
    [
        ({"income": 1.5, "pixels": [1, 2]}, ("body", "pixels")),
        ([{"income": 1.5, "pixels": [1, 2]}], ("body", 0, "pixels")),
        ([{"income": 1.5, "pixels": [1, 2, 3]}, {"income": 1.5, "pixels": []}], ("body", 1, "pixels")),
    ],
)
def test_a_vector_of_another_width_is_refused_by_the_application(log: Log, body: Any, place: tuple[Any, ...]) -> None:
    with serving(log, constant(SHAPES, [0.5, 1.5])) as service:
        assert service.refused(body, status=400) == {place: "feature_count_mismatch"}


@pytest.mark.parametrize(
    ("body", "place"),
    [
        ({"income": 1e39, "pixels": [1, 2, 3]}, ("body", "income")),
        ([{"income": 1, "pixels": [1, 2, 3]}, {"income": -1e308, "pixels": [1, 2, 3]}], ("body", 1, "income")),
    ],
)
def test_a_number_beyond_single_precision_on_which_the_model_fails_is_refused_with_its_place(
    log: Log, body: Any, place: tuple[Any, ...]
) -> None:
    def fail(_batch: Batch) -> Outputs:
        raise ValueError

    with serving(log, FakeModel(SHAPES, fail)) as service:
        assert service.refused(body) == {place: "feature_too_large"}


@pytest.mark.parametrize(("body", "place"), [(ROW, ("body",)), ([ROW], ("body", 0)), ([ROW, ROW], ("body", 1))])
def test_a_prediction_that_is_not_finite_is_refused_with_its_row(log: Log, body: Any, place: tuple[Any, ...]) -> None:
    model = FakeModel(CHURN, lambda batch: outputs(CHURN, [0.5] * (len(batch) - 1) + [float("nan")]))

    with serving(log, model) as service:
        assert service.refused(body) == {place: "prediction_not_finite"}


def test_a_model_that_fails_is_logged_with_its_traceback_of_which_the_client_sees_nothing(log: Log) -> None:
    def fail(_batch: Batch) -> Outputs:
        raise ZeroDivisionError("the needle")

    with serving(log, FakeModel(CHURN, fail)) as service:
        problem = service.ask(ROW, status=500)

    [line] = log.of("request_failed")
    assert problem["code"] == "inference_failed"
    assert "needle" not in json.dumps(problem)
    assert line["request_id"] == problem["request_id"]
    assert "ZeroDivisionError" in json.dumps(line)
    assert "the needle" in json.dumps(line)


BAD_NAMES = [
    "nothing",
    "CHURN",
    "churn%00",
    "%ff",
    "..%2f",
    "..%2f..%2fchurn",
    "%2e%2e",
    "%E2%98%83",
    "n" * 10_000,
]


@pytest.mark.parametrize("after", ["/predict", "/versions/1/predict"])
def test_every_bad_name_gets_the_same_reply(churn: Service, after: str) -> None:
    replies = [
        churn.client.post(f"/models/{name}{after}", content=b"{}", headers={**JSON, "x-request-id": "mine"})
        for name in BAD_NAMES
    ]

    assert {(reply.status_code, reply.json()["code"]) for reply in replies} == {(404, "model_not_found")}
    assert len({reply.content for reply in replies}) == 1


@pytest.mark.parametrize("name", [*BAD_NAMES, ""])
def test_there_is_no_page_of_a_bad_name(churn: Service, name: str) -> None:
    reply = churn.client.get(f"/models/{name}")

    assert (reply.status_code, reply.json()["code"]) == (404, "model_not_found")


def test_what_a_model_does_not_have_is_just_not_found(churn: Service) -> None:
    assert churn.ask(ROW, "/models/churn/nothing", status=404)["code"] == "not_found"


def test_a_name_may_be_written_in_percent_encoding(churn: Service) -> None:
    assert churn.ask(ROW, "/models/%63hurn/predict") == {"prediction": 0.5, **ABOUT}


@pytest.mark.parametrize("version", ["2", "01", "latest", "%00", "%ff", "1%20"])
def test_a_version_that_there_is_not_is_not_found(churn: Service, version: str) -> None:
    problem = churn.ask(ROW, f"/models/churn/versions/{version}/predict", status=404)

    assert problem["code"] == "version_not_found"


def test_a_version_that_is_known_but_not_live_says_which_is(own_churn: Service) -> None:
    versions = (VersionEntry("1", VersionState.LIVE), VersionEntry("2", VersionState.AVAILABLE))
    own_churn.host.tell({"churn": ModelEntry("churn", "1", None, versions)})

    problem = own_churn.ask(ROW, "/models/churn/versions/2/predict", status=404)

    assert problem["code"] == "version_not_live"
    assert "Version 1 is live" in problem["detail"]


@pytest.mark.parametrize("path", [PREDICT, "/models/churn/versions/1/predict"])
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_a_prediction_is_asked_for_by_post(churn: Service, path: str, method: str) -> None:
    reply = churn.client.request(method, path)

    assert (reply.status_code, reply.headers["allow"]) == (405, "POST")


def test_a_version_that_becomes_live_answers_from_then_on(log: Log) -> None:
    with serving(log, constant(CHURN, 0.5), constant(CLASSES, "goes", [0.75, 0.25])) as service:
        assert service.ask(ROW)["version"] == "1"
        service.activate("churn", "2")

        assert service.ask(ROW)["prediction"]["label"] == "goes"
        assert service.ask(ROW, "/models/churn/versions/2/predict")["version"] == "2"
        service.ask(ROW, "/models/churn/versions/1/predict", status=404)


def test_a_version_that_cannot_be_opened_changes_nothing(own_churn: Service) -> None:
    with pytest.raises(ModelRefused):
        own_churn.activate("churn", "2")

    assert own_churn.ask(ROW)["version"] == "1"


def test_a_model_that_cannot_be_opened_stops_the_start(log: Log) -> None:
    with pytest.raises(ModelRefused, match="models/churn/1: expected a directory"), ExitStack() as stack:
        stack.enter_context(serving(log))

    assert [line["event"] for line in log.events] == ["service_stopped"]


def test_each_model_that_the_start_has_opened_is_told_of(log: Log) -> None:
    opened: list[list[str]] = []
    container = log.container()
    container.loader.override(providers.Object(FakeLoader({(name, "1"): constant(CHURN, 0.5) for name in "mn"})))
    container.live.override(providers.Object({"m": Placed("1"), "n": Placed("1")}))
    container.opened.override(providers.Object(lambda: opened.append(list(container.models().live))))

    with TestClient(create_app(container)):
        assert opened == [["default", "m"], ["default", "m", "n"]]


def test_the_live_models_are_listed(churn: Service) -> None:
    assert churn.client.get("/").json()["models"] == ["churn", "default"]
    assert churn.client.get("/models").json() == {
        "models": [
            {"name": "churn", "live": "1", "reason": None, **UNTOLD},
            {"name": "default", "live": "embedded", "reason": None, **UNTOLD},
        ]
    }


def test_a_model_that_is_not_live_is_listed_with_the_reason(own_churn: Service) -> None:
    refused = VersionEntry("1", VersionState.REFUSED, "models/fraud/1/model.toml: expected a file, got nothing")
    own_churn.host.tell({"fraud": ModelEntry("fraud", None, None, (refused,), "no version can be live")})

    assert own_churn.client.get("/models").json()["models"][2] == {
        "name": "fraud",
        "live": None,
        "reason": "no version can be live",
        **UNTOLD,
    }
    page = own_churn.client.get("/models/fraud").json()
    assert (page["inputs"], page["outputs"]) == (None, None)
    assert page["versions"] == [{"version": "1", "state": "refused", "reason": refused.reason}]
    assert own_churn.ask(ROW, "/models/fraud/predict", status=404)["code"] == "model_not_found"


def test_a_model_has_a_page_with_its_signature_and_its_versions(own_churn: Service) -> None:
    own_churn.host.tell({"churn": ModelEntry("churn", "1", "0.9", (VersionEntry("1", VersionState.LIVE),))})

    page = own_churn.client.get("/models/churn").json()

    defaults = {"width": None, "nullable": False, "categories": None, "minimum": None, "maximum": None}
    assert page == {
        "name": "churn",
        "live": "1",
        "previous": "0.9",
        "reason": None,
        **UNTOLD,
        "calls": None,
        "inputs": [
            {**defaults, "name": "age", "type": "int", "minimum": 18.0, "maximum": 90.0},
            {**defaults, "name": "signup_month", "type": "string", "categories": ["June", "July"]},
        ],
        "outputs": [{**defaults, "name": "prediction", "type": "float"}],
        "versions": [{"version": "1", "state": "live", "reason": None}],
    }


def test_how_the_live_version_is_called_is_on_the_page(own_churn: Service) -> None:
    calls = Calls("runners", instances=2, requests_share_calls=True, call_seconds=0.05, row_seconds=0.001)
    own_churn.host.tell({"churn": ModelEntry("churn", "1", None, (VersionEntry("1", VersionState.LIVE),), calls=calls)})

    assert own_churn.client.get("/models/churn").json()["calls"] == {
        "placement": "runners",
        "instances": 2,
        "requests_share_calls": True,
        "call_seconds": 0.05,
        "row_seconds": 0.001,
    }


# Runners


@pytest.fixture
def host(log: Log) -> Iterator[tuple[ModelHost, FakeClients]]:
    """The models of a process without an application, and the clients of runners, of which it has one."""
    clients = FakeClients({1: FakeClient(CHURN)})
    container = log.container()
    container.clients.override(providers.Object(clients))
    container.init_resources()
    yield container.models(), clients
    container.shutdown_resources()


def test_a_version_in_runners_is_opened_by_what_its_manifest_states_without_being_loaded(
    host: tuple[ModelHost, FakeClients],
) -> None:
    opened = host[0].open("churn", in_runners("1", 1))

    assert opened.served.signature == CHURN
    assert opened.client is not None
    assert all(route.is_remote for route in opened.routes.values())
    assert list(opened.described.paths) == [PREDICT, "/models/churn/versions/1/predict"]


def test_a_runner_is_asked_by_the_client_of_its_opening_which_counts_on_the_board_of_all(
    host: tuple[ModelHost, FakeClients],
) -> None:
    models, clients = host
    near, far = socket.socketpair()
    board = os.memfd_create("test")
    os.truncate(board, Board.size(2))
    with far, mmap.mmap(board, 0) as memory:
        Board(memory, 0).add(3, 30)
        models.connect(1, near, 7, board, 1)
        [(number, instance, counts)] = clients.connected
        counts.add(1, 10)

        assert (number, instance) == (1, 7)
        assert counts.total() == Board(memory).total() == (4, 40)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(board)


def test_a_version_that_is_out_of_service_is_so_by_the_number_of_its_opening(
    host: tuple[ModelHost, FakeClients],
) -> None:
    models, clients = host
    models.put_out(1, "the reason")

    assert clients.out == {1: "the reason"}


def test_whoever_supervises_runners_is_told_of_those_that_must_go(host: tuple[ModelHost, FakeClients]) -> None:
    told: list[tuple[int, int, str]] = []
    models, clients = host
    models.supervise(lambda *runner: told.append(runner))
    assert clients.supervision is not None
    clients.supervision(1, 7, "the reason")

    assert told == [(1, 7, "the reason")]


# Counting


def counted(log: Log) -> set[tuple[str, ...]]:
    return {tuple(key[1:]) for key, _ in read(log.memory) if key[0] == REQUEST}


def test_requests_are_counted_by_template_model_and_version(log: Log, own_churn: Service) -> None:
    own_churn.ask(ROW)
    own_churn.ask(WRONG, "/models/churn/versions/1/predict", status=422)

    assert counted(log) == {
        ("/models/{name}/predict", "churn", "1", "success", "200"),
        ("/models/{name}/versions/{version}/predict", "churn", "1", "refused", "422"),
    }


def test_made_up_models_and_versions_make_no_series(log: Log) -> None:
    with serving(log, constant(CHURN, 0.5), log_requests="none") as service:
        for number in range(20):
            service.client.post(f"/models/made-up-{number}/predict")
            service.client.post(f"/models/churn/versions/{number + 2}/predict")
            service.client.get(f"/models/made-up-{number}")

    assert counted(log) == {
        ("/models/{name}/predict", "", "", "refused", "404"),
        ("/models/{name}/versions/{version}/predict", "", "", "refused", "404"),
        ("/models/{name}", "", "", "refused", "404"),
    }
