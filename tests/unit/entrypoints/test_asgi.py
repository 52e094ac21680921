from contextlib import ExitStack

import pytest
from dependency_injector import providers
from starlette.testclient import TestClient

from tests.contract import GOOD, GOOD_BATCH, JSON
from tests.unit.log import Log
from weighbridge import __version__
from weighbridge.domain.errors import InvalidWeights
from weighbridge.domain.weights import Weights
from weighbridge.entrypoints.asgi import create_app
from weighbridge.settings import InvalidSettings


class CountingWeights:
    """A WeightsProvider that counts how often it is asked."""

    def __init__(self) -> None:
        self.loads = 0

    def load(self) -> Weights:
        self.loads += 1
        return Weights((2.0, 3.0, 0.0, 0.0))


class NoWeights:
    """A WeightsProvider that has none."""

    def load(self) -> Weights:
        return Weights(())


def test_weights_are_loaded_exactly_once_and_before_any_request(log: Log) -> None:
    weights = CountingWeights()
    container = log.container()
    container.weights.override(providers.Object(weights))
    app = create_app(container)
    assert weights.loads == 0

    with TestClient(app) as client:
        assert weights.loads == 1
        for _ in range(50):
            assert client.post("/predict", json={"features": [1, 1, 1, 1]}).json()["prediction"] == 5.0
            assert client.post("/predict/batch", content=GOOD_BATCH, headers=JSON).status_code == 200
            assert client.get("/readyz").status_code == 200

    assert weights.loads == 1


def test_weights_that_cannot_be_loaded_stop_the_start(log: Log) -> None:
    container = log.container()
    container.weights.override(providers.Object(NoWeights()))

    with pytest.raises(InvalidWeights), ExitStack() as stack:
        stack.enter_context(TestClient(create_app(container)))

    assert [line["event"] for line in log.events] == ["service_stopped"]


def test_start_and_stop_are_logged(log: Log) -> None:
    with TestClient(create_app(log.container())):
        pass

    assert [line["event"] for line in log.events] == ["service_started", "service_stopped"]
    assert log.events[0]["version"] == __version__


def test_an_application_starts_again_after_it_has_stopped(log: Log) -> None:
    app = create_app(log.container())

    for _ in range(2):
        with TestClient(app) as client:
            assert client.post("/predict", content=GOOD, headers=JSON).status_code == 200

    assert len(log.of("service_started")) == len(log.of("service_stopped")) == 2


def test_a_draining_service_is_not_ready_but_lives_and_answers(log: Log) -> None:
    container = log.container()
    with TestClient(create_app(container)) as client:
        container.readiness().draining()

        ready = client.get("/readyz")
        assert (ready.status_code, ready.json()["code"], ready.json()["detail"]) == (503, "not_ready", "draining")
        assert client.get("/livez").status_code == 200
        assert client.post("/predict", content=GOOD, headers=JSON).status_code == 200


def test_service_links_are_told_of_in_one_line(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEIGHBRIDGE_SERVICE_HOST", "10.96.0.1")
    monkeypatch.setenv("WEIGHBRIDGE_PORT", "tcp://10.96.0.1:80")

    with TestClient(create_app(log.container())):
        pass

    [line] = log.of("service_links_ignored")
    assert line["variables"] == ["WEIGHBRIDGE_PORT", "WEIGHBRIDGE_SERVICE_HOST"]


def test_the_application_is_made_from_the_settings_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEIGHBRIDGE_WEIGHTS", "[2, 3]")
    monkeypatch.setenv("WEIGHBRIDGE_LOG_LEVEL", "error")

    with TestClient(create_app()) as client:
        assert client.post("/predict", json={"features": [1, 1]}).json()["prediction"] == 5.0


def test_an_application_of_wrong_settings_is_not_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEIGHBRIDGE_PORT", "x")

    with pytest.raises(InvalidSettings):
        create_app()
