"""The log line of a request that is refused: the code, the model and the place, and nothing of the input."""

from collections.abc import Iterator

import pytest

from tests.contract import GOOD
from tests.unit.log import Log
from tests.unit.models import CHURN, FakeModel
from tests.unit.server.behind_gate import Served, served
from tests.unit.server.edge.test_counting import asking
from weighbridge.domain.batch import Batch, Outputs

OF_EMBEDDED = {"model": "default", "version": "embedded"}
OF_CHURN = {"model": "churn", "version": "1"}
CHURN_PATH = b"/models/churn/predict"

REFUSED = {
    "a column": (
        asking(CHURN_PATH, b'[{"age":1,"signup_month":"June"},{"age":2,"signup_month":"needle"}]'),
        {**OF_CHURN, "code": "input_invalid", "place": "body.1.signup_month"},
    ),
    "the first of many": (
        asking(CHURN_PATH, b'{"age":"needle","signup_month":"needle"}'),
        {**OF_CHURN, "code": "input_invalid", "place": "body.age"},
    ),
    "an unknown key": (
        asking(CHURN_PATH, b'{"age":1,"signup_month":"June","needle":1}'),
        {**OF_CHURN, "code": "input_invalid", "place": "body"},
    ),
    "no JSON": (asking(CHURN_PATH, b"needle"), {**OF_CHURN, "code": "json_invalid", "place": "body"}),
    "a model that fails": (
        asking(CHURN_PATH, b'{"age":1,"signup_month":"June"}'),
        {**OF_CHURN, "code": "inference_failed"},
    ),
    "a row that is too narrow": (
        asking(b"/predict/batch", b'{"instances":[[1,2,3,4],[1]]}'),
        {**OF_EMBEDDED, "code": "feature_count_mismatch", "place": "body.instances.1"},
    ),
    "no model": (asking(b"/models/none/predict", b"{}"), {"code": "model_not_found"}),
    "no path": (asking(b"/nothing"), {"code": "not_found"}),
    "the gate": (asking(b"/health", line=b"Expect: needle\r\n"), {"code": "expectation_failed"}),
}


def fails(_: Batch) -> Outputs:
    raise ZeroDivisionError


@pytest.fixture(params=[True, False], ids=["fast lane", "ordinary road"])
def here(log: Log, request: pytest.FixtureRequest) -> Iterator[Served]:
    with served(log, {"1": FakeModel(CHURN, fails)}, fast_lane=request.param, log_requests="all") as started:
        yield started


@pytest.mark.parametrize("name", REFUSED)
def test_a_refusal_is_logged_with_code_model_and_place(log: Log, here: Served, name: str) -> None:
    request, told = REFUSED[name]
    here.connect().feed(request)

    [line] = log.written("request")
    assert {key: line[key] for key in ("model", "version", "code", "place") if key in line} == told
    assert "needle" not in log.text


def test_an_answer_is_logged_with_the_model(log: Log, here: Served) -> None:
    here.connect().feed(asking(b"/predict", GOOD))

    [line] = log.written("request")
    assert {key: line.get(key) for key in ("model", "version", "code")} == {**OF_EMBEDDED, "code": None}
