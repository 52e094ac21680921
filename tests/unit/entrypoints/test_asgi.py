import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from dependency_injector import providers
from starlette.testclient import TestClient

from tests.contract import GOOD, GOOD_BATCH, JSON
from tests.unit.log import Log
from tests.unit.trained import ANSWER, NAME, ROW, trained
from tests.waiting import until
from weighbridge import __version__
from weighbridge.adapters.runners.terms import Supervision
from weighbridge.domain.errors import InvalidWeights, ModelRefused
from weighbridge.domain.weights import Weights
from weighbridge.entrypoints import asgi
from weighbridge.entrypoints.asgi import create_app
from weighbridge.server.runner.runners import Runners
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


def test_without_weights_there_is_no_embedded_model(log: Log) -> None:
    container = log.container(weights="off")
    with TestClient(create_app(container)) as client:
        codes = {
            path: client.post(path, content=GOOD, headers=JSON).json()["code"]
            for path in ("/predict", "/predict/batch", "/models/default/predict")
        }
        assert codes == dict.fromkeys(("/predict", "/predict/batch"), "not_found") | {
            "/models/default/predict": "model_not_found"
        }
        assert client.get("/models").json() == {"models": []}
        assert client.get("/models/default").json()["code"] == "model_not_found"
        assert client.get("/").json()["models"] == []
        assert client.get("/readyz").status_code == 200
        assert [path for path in client.get("/openapi.json").json()["paths"] if "predict" in path] == []
        assert [path for _, path in client.app_state["lane"].routes if b"predict" in path] == []


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


# Runners of this process


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A directory with a model that only runners call."""
    return str(trained(tmp_path_factory.mktemp("models")))


class Serving:
    """The application under another server than our own, with the runners that it has."""

    def __init__(self, client: TestClient, runners: Runners, supervision: Supervision | None) -> None:
        self.client = client
        self.runners = runners
        self.supervision = supervision

    @property
    def pids(self) -> list[int | None]:
        """Of all its runners."""
        return [report.pid for report in self.runners.reports()]

    def ask(self) -> Any:
        """What it answers when it is asked to predict."""
        return self.client.post(f"/models/{NAME}/predict", json=ROW).json()


@contextmanager
def serving(log: Log, **settings: Any) -> Iterator[Serving]:
    """The application while it runs."""
    made: list[Runners] = []

    def make(*arguments: Any) -> Runners:
        made.append(Runners(*arguments))
        return made[0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asgi, "Runners", make)
        container = log.container(**settings)
        with TestClient(create_app(container)) as client:
            yield Serving(client, made[0], container.clients().supervision)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, models: str) -> Iterator[Serving]:
    """One that tests share."""
    log = Log(tmp_path_factory.mktemp("served") / "log")
    with serving(log, models=models) as served:
        yield served
    log.close()


def test_under_another_server_runners_answer_for_models_and_end_with_the_application(log: Log, models: str) -> None:
    with serving(log, models=models) as served:
        answer, pids = served.ask(), served.pids

    assert (answer["prediction"], answer["version"]) == (pytest.approx(ANSWER), "1")
    assert len(pids) == 1
    until(lambda: not Path(f"/proc/{pids[0]}").exists())


def test_under_another_server_an_application_that_starts_again_has_runners_again(log: Log, models: str) -> None:
    app = create_app(log.container(models=models))

    for _ in range(2):
        with TestClient(app) as client:
            answer = client.post(f"/models/{NAME}/predict", json=ROW, headers={"X-Deadline-Ms": "5000"})
            assert answer.json()["prediction"] == pytest.approx(ANSWER)


def test_under_another_server_a_page_says_how_a_model_is_called(served: Serving) -> None:
    calls = served.client.get(f"/models/{NAME}").json()["calls"]

    assert (calls["placement"], calls["instances"], calls["requests_share_calls"]) == ("runner", 1, True)


def test_under_another_server_a_runner_that_dies_is_replaced(served: Serving) -> None:
    [pid] = served.pids
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    until(lambda: served.pids not in ([], [pid], [None]))

    assert served.ask()["prediction"] == pytest.approx(ANSWER)


def test_under_another_server_a_runner_that_sends_what_it_may_not_is_replaced(served: Serving) -> None:
    [pid], [hosted] = served.pids, served.runners.hosted
    client = served.client
    assert client.portal is not None
    assert served.supervision is not None
    client.portal.call(partial(served.supervision, hosted.number, hosted.ready[0].serial, "a pickle"))
    until(lambda: served.pids not in ([], [pid], [None]))

    assert served.ask()["prediction"] == pytest.approx(ANSWER)


def test_under_another_server_a_version_that_is_out_of_service_says_so(served: Serving) -> None:
    [hosted] = served.runners.hosted
    hosted.unavailable = "its process was killed"
    assert served.client.portal is not None
    served.client.portal.call(partial(served.runners.gone, hosted))

    assert served.ask()["code"] == "model_unavailable"


def test_a_model_that_cannot_be_opened_stops_the_start_and_leaves_no_process(log: Log, tmp_path: Path) -> None:
    (trained(tmp_path) / NAME / "1" / "weights.json").write_bytes(b"no model")
    children = _children()
    with pytest.raises(ModelRefused, match="expected the sha256"), ExitStack() as stack:
        stack.enter_context(serving(log, models=str(tmp_path)))

    assert _children() == children


def _children() -> set[str]:
    """Of whichever thread; threads may end meanwhile."""
    children = set[str]()
    for task in Path("/proc/self/task").iterdir():
        with suppress(FileNotFoundError):
            children |= {*(task / "children").read_text().split()}
    return children
