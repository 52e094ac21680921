"""Operations on models of the real service, under load and with broken artefacts."""

import json
import os
import signal
import threading
import tomllib
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import pytest

import weighbridge
from tests.integration.gated import Gate, gate
from tests.integration.service import PLAIN, Service, run, serving
from tests.waiting import DEADLINE, until

ROW = {"features": [1.0, 1.0]}


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A model m whose version 1 predicts 1 of the row, and version 2 predicts 2."""
    for version in (1, 2):
        weighbridge.package([float(version), 0.0], tmp_path / "models" / "m" / str(version), example=[[1.0, 1.0]])
    (tmp_path / "models" / "m" / "rollout.toml").write_text('live = "1"\n')
    return tmp_path / "models"


def admin(service: Service, method: str, path: str) -> httpx2.Response:
    return httpx2.request(method, f"{service.admin_url}{path}", timeout=DEADLINE, verify=PLAIN)


def activate(service: Service, version: str) -> httpx2.Response:
    return admin(service, "POST", f"/models/m/versions/{version}/activate")


def reason(service: Service) -> str | None:
    """Why what was last asked for is not live."""
    [model] = [model for model in admin(service, "GET", "/models").json() if model["name"] == "m"]
    told: str | None = model["reason"]
    return told


def predicted(client: httpx2.Client) -> tuple[float, str]:
    """What the live version predicts, and which that is."""
    reply = client.post("/models/m/predict", json=ROW)
    assert reply.status_code == 200, reply.text
    return reply.json()["prediction"], reply.json()["version"]


@contextmanager
def load(service: Service) -> Iterator[Counter[Any]]:
    """Two clients that ask all the time, and what they were answered or what went wrong."""
    answers, over = Counter[Any](), threading.Event()

    def ask() -> None:
        with service.client() as client:
            while not over.wait(0.005):  # so that there is time for what is asked
                reply = client.post("/models/m/predict", json=ROW)
                answers[reply.json().get("prediction"), reply.json().get("version")] += 1

    clients = [threading.Thread(target=ask) for _ in range(2)]
    for client in clients:
        client.start()
    try:
        yield answers
    finally:
        over.set()
        for client in clients:
            client.join(DEADLINE)


@contextmanager
def broken(artefact: Path) -> Iterator[None]:
    """Meanwhile an artefact is not what its manifest says."""
    whole = artefact.read_bytes()
    artefact.write_bytes(whole + b" ")
    yield
    artefact.write_bytes(whole)


@pytest.mark.parametrize("watch", ["events", "poll"])
def test_what_is_written_by_hand_becomes_live(models: Path, watch: str) -> None:
    with serving(MODELS=str(models), MODELS_WATCH=watch, WORKERS="0") as service, service.client() as client:
        (models / "m" / "rollout.toml").write_text('live = "2"\n')
        until(lambda: predicted(client) == (2.0, "2"))
        (models / "m" / "rollout.toml").write_text('live = "3"\n')
        until(lambda: reason(service) is not None)

        assert predicted(client) == (2.0, "2")
        assert reason(service) == "models/m/rollout.toml: there is no version 3"


def test_the_command_operates_on_the_service(models: Path) -> None:
    with serving(MODELS=str(models), ADMIN_TOKEN=16 * "t", WORKERS="0") as service:

        def ask(*arguments: str) -> tuple[int, str, str]:
            done = run("models", *arguments, "--url", service.admin_url, ADMIN_TOKEN=16 * "t")
            return done.returncode, done.stdout, done.stderr

        assert ask("activate", "m", "2") == (0, "m: version 2 is live (before: 1)\n", "")
        assert ask("list")[1].splitlines()[1:] == [
            "default  embedded  live",
            "m        1         available",
            "m        2         live",
        ]
        code, out, err = ask("activate", "m", "3")
        assert (code, out) == (1, "")
        assert err.startswith("weighbridge: The model has no such version")


def test_a_service_whose_models_cannot_be_served_does_not_start(models: Path) -> None:
    with broken(models / "m" / "1" / "weights.json"):
        for processes in ("0", "1"):
            done = run("serve", "--port", "0", MODELS=str(models), WORKERS=processes, ADMIN_PORT="0")

            assert done.returncode == 3
            assert done.stderr.startswith("weighbridge: models/m/1/weights.json: expected the sha256 ")
            assert len(done.stderr.splitlines()) == 1


def test_an_operation_that_has_begun_is_undone_when_the_service_is_stopped(models: Path) -> None:
    with gate() as at, ThreadPoolExecutor() as operator:
        at.write(models / "m" / "3", 3.0)
        with serving(MODELS=str(models), MODELS_WATCH="off", PYTHON_MODELS="true", SANDBOX="off") as service:
            activation = operator.submit(activate, service, "3")
            with at.opening():
                assert service.stop() == 0

            assert (activation.result().status_code, activation.result().json()["detail"]) == (503, "draining")
            assert sorted(path.name for path in (models / "m").iterdir()) == ["1", "2", "3", "rollout.toml"]
            assert (models / "m" / "rollout.toml").read_text() == 'live = "1"\n'


def test_a_kill_in_the_midst_of_an_operation_leaves_the_directory_as_it_was(models: Path) -> None:
    with gate() as at, ThreadPoolExecutor() as operator:
        at.write(models / "m" / "3", 3.0)
        with serving(MODELS=str(models), MODELS_WATCH="off", PYTHON_MODELS="true", SANDBOX="off") as service:
            activation = operator.submit(activate, service, "3")
            with at.opening():
                service.stop(signal.SIGKILL)

            assert isinstance(activation.exception(), httpx2.HTTPError)
            assert sorted(path.name for path in (models / "m").iterdir()) == ["1", "2", "3", "rollout.toml"]
            assert (models / "m" / "rollout.toml").read_text() == 'live = "1"\n'


# Two services whose versions are not watched, and in which version 1 of m is live again after each test


@dataclass(frozen=True, slots=True)
class Operated:
    """A service whose models m and n have versions 1 and 3, and m a version 2 that opens at a gate."""

    service: Service
    models: Path
    gate: Gate

    def answers(self, model: str = "m") -> set[Any]:
        """What all workers answer."""
        with ExitStack() as stack:
            clients = [stack.enter_context(self.service.client()) for _ in range(6)]
            replies = [client.post(f"/models/{model}/predict", json=ROW).json() for client in clients]
        return {(reply["prediction"], reply["version"]) for reply in replies}

    def live(self, model: str = "m") -> str:
        """What a restart would find."""
        rollout = tomllib.loads((self.models / model / "rollout.toml").read_text())
        return str(rollout["live"])

    def ready(self) -> bool:
        """Whether all workers are."""
        return [worker["state"] for worker in admin(self.service, "GET", "/workers").json()] == ["ready"] * 2


@contextmanager
def operating(directory: Path, processes: str) -> Iterator[Operated]:
    models = directory / "models"
    for model in ("m", "n"):
        for version in (1, 3):
            weighbridge.package([float(version), 0.0], models / model / str(version), example=[[1.0, 1.0]])
        (models / model / "rollout.toml").write_text('live = "1"\n')
    with gate() as at:
        at.write(models / "m" / "2", 2.0)
        with serving(
            MODELS=str(models), MODELS_WATCH="off", WORKERS=processes, PYTHON_MODELS="true", SANDBOX="off"
        ) as service:
            yield Operated(service, models, at)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operated]:
    """In one process."""
    with operating(tmp_path_factory.mktemp("alone"), "0") as started:
        yield started


@pytest.fixture(scope="module")
def operated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operated]:
    """With two workers."""
    with operating(tmp_path_factory.mktemp("operated"), "2") as started:
        yield started


@pytest.fixture(params=["alone", "operated"], ids=["one process", "two workers"])
def either(request: pytest.FixtureRequest) -> Operated:
    """The one or the other."""
    started: Operated = request.getfixturevalue(request.param)
    return started


def test_activations_to_and_fro_lose_nothing_and_replies_name_their_version(either: Operated) -> None:
    seen = set[Any]()
    with load(either.service) as answers:
        for version, other in [("3", "1"), ("1", "3")] * 3:
            outcome = activate(either.service, version).json()
            assert outcome == {"model": "m", "live": version, "previous": other, "persisted": True}
            answers.clear()
            until(partial(answers.get, (float(version), version)))
            seen |= {*answers}

    assert seen == {(1.0, "1"), (3.0, "3")}
    assert (either.models / "m" / "rollout.toml").read_text() == 'live = "1"\nprevious = "3"\n'


def test_a_corrupt_artefact_is_refused_and_the_old_version_serves_on(either: Operated) -> None:
    with broken(either.models / "m" / "3" / "weights.json"), either.service.client() as client:
        refused = activate(either.service, "3")

        assert (refused.status_code, refused.json()["code"]) == (422, "model_refused")
        assert refused.json()["detail"].startswith("models/m/3/weights.json: expected the sha256 ")
        assert reason(either.service) == refused.json()["detail"]
        assert predicted(client) == (1.0, "1")


def test_while_an_artefact_is_corrupt_the_others_serve_and_a_new_worker_says_why_it_does_not(
    operated: Operated,
) -> None:
    service = operated.service
    with broken(operated.models / "m" / "1" / "weights.json"), service.client() as client:
        os.kill(int(service.of("worker_started")[0]["pid"]), signal.SIGKILL)
        until(lambda: len(service.of("worker_died")) >= 2)

        assert "could not serve its models: models/m/1/weights.json: " in service.of("worker_died")[1]["reason"]
        assert admin(service, "GET", "/readyz").status_code == 200
        assert predicted(client) == (1.0, "1")
    until(operated.ready)


def test_what_a_process_is_killed_at_opening_nobody_serves(operated: Operated) -> None:
    with ThreadPoolExecutor() as operator:
        activation = operator.submit(activate, operated.service, "2")
        with operated.gate.opening() as runner:
            os.kill(runner, signal.SIGKILL)

        assert activation.result().status_code == 422
        assert (
            activation.result().json()["detail"].endswith("the process that opened it was killed by signal 9 (Killed)")
        )
    assert operated.ready()
    assert (operated.answers(), operated.live()) == ({(1.0, "1")}, "1")


def test_workers_are_replaced_when_an_operation_is_done(operated: Operated) -> None:
    with ThreadPoolExecutor() as operator:
        activation = operator.submit(activate, operated.service, "2")
        with operated.gate.opening():
            operated.service.process.send_signal(signal.SIGHUP)

        assert activation.result().json()["live"] == "2"
    until(lambda: operated.service.of("reloaded"))
    assert (operated.answers(), operated.live()) == ({(2.0, "2")}, "2")
    assert activate(operated.service, "1").json()["live"] == "1"


def test_operations_that_come_at_once_are_done_one_after_the_other(operated: Operated) -> None:
    paths = [f"/models/{model}/versions/{version}/activate" for model in "mn" for version in "13"]
    with ThreadPoolExecutor() as operators:
        replies = [*operators.map(partial(admin, operated.service, "POST"), paths)]

    assert {reply.status_code for reply in replies} == {200}
    for model in "mn":
        live = operated.live(model)
        assert operated.answers(model) == {(float(live), live)}
    assert activate(operated.service, "1").json()["live"] == "1"


def test_requests_in_one_pipeline_are_answered_in_order_by_whichever_version_is_live(operated: Operated) -> None:
    body = json.dumps(ROW).encode()
    head = b"POST /models/m/predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nX-Request-ID: %d\r\n"
    requests = [b"%bContent-Length: %d\r\n\r\n%b" % (head % number, len(body), body) for number in range(16)]
    requests[-1] = requests[-1].replace(b"Host: x", b"Host: x\r\nConnection: close")
    over = threading.Event()

    def ask() -> Iterator[bytes]:
        while not over.is_set():
            yield operated.service.exchange(b"".join(requests))

    with ThreadPoolExecutor() as client:
        asked = client.submit(lambda: [*ask()])
        for version in "3131":
            assert activate(operated.service, version).json()["live"] == version
        over.set()

    for written in asked.result():
        replies = [reply.partition(b"\r\n\r\n") for reply in written.split(b"HTTP/1.1 ")[1:]]
        assert [int(head.partition(b"x-request-id: ")[2].split()[0]) for head, _, _ in replies] == [*range(16)]
        assert {float(json.loads(body)["version"]) - json.loads(body)["prediction"] for _, _, body in replies} == {0.0}


def test_a_model_whose_directory_is_gone_serves_on(operated: Operated) -> None:
    directory, elsewhere = operated.models / "m", operated.models.with_name("elsewhere")
    directory.rename(elsewhere)
    try:
        directory.symlink_to(elsewhere)
        refused = admin(operated.service, "POST", "/models/m/reload")

        assert refused.json()["detail"] == "models/m: expected a directory, got a symbolic link"
        assert operated.answers() == {(1.0, "1")}
    finally:
        directory.unlink()
        elsewhere.rename(directory)
    assert admin(operated.service, "POST", "/models/m/reload").json()["live"] == "1"
