"""Faults of models in the real service: each stays where it happens. One service, with a model for each test."""

import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from time import monotonic
from typing import Any

import httpx2
import pytest

from tests.integration.faulty import CRASHING, HANGING, HOSTILE, QUITE_SLOW, RAISING, SLOW, write_models
from tests.integration.service import PLAIN, Service, serving
from tests.waiting import DEADLINE, until

pytestmark = pytest.mark.usefixtures("measured")

MODELS = ("slow", "picky", "crashing", "hanging", "hostile", "steady")


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    models = write_models(tmp_path_factory.mktemp("faulty"), *MODELS, hanging="call_timeout = 1.0\n")
    with serving(MODELS=models, WORKERS="2", PYTHON_MODELS="true", MODELS_WATCH="off") as service:
        yield service
        assert service.of("worker_died") == []


def ask(service: Service, model: str, x: int, **headers: str) -> httpx2.Response:
    """What a connection of its own is answered."""
    with service.client() as client:
        return client.post(f"/models/{model}/predict", json={"x": x}, headers=headers)


def admin(service: Service, path: str) -> Any:
    return httpx2.get(f"{service.admin_url}{path}", timeout=DEADLINE, verify=PLAIN).json()


def answers(service: Service, model: str) -> bool:
    return ask(service, model, 1).status_code == 200


def deaths(service: Service, model: str) -> list[str]:
    """How the runners of a model have ended."""
    return [str(line["reason"]) for line in service.of("runner_died") if line["model"] == model]


@contextmanager
def nobody_else_notices(service: Service) -> Iterator[None]:
    """Meanwhile a client of another model and one of the embedded one get all their answers."""
    statuses, over = Counter[int](), threading.Event()

    def ask_on() -> None:
        with service.client() as client:
            while not over.wait(0.01):  # so that there is time for what is asked
                statuses[client.post("/models/steady/predict", json={"x": 1}).status_code] += 1
                statuses[client.post("/predict", json={"features": [1, 2, 3, 4]}).status_code] += 1

    client = threading.Thread(target=ask_on)
    client.start()
    try:
        yield
    finally:
        over.set()
        client.join(DEADLINE)
    assert {*statuses} == {200}


def test_a_call_that_takes_longer_than_a_worker_may_hang_gets_its_answer(faulty: Service) -> None:
    before = admin(faulty, "/workers")
    with nobody_else_notices(faulty):
        reply = ask(faulty, "slow", SLOW)

    assert (reply.status_code, reply.json()["prediction"]) == (200, SLOW)
    assert [worker["pid"] for worker in admin(faulty, "/workers")] == [worker["pid"] for worker in before]
    assert deaths(faulty, "slow") == []


def test_of_64_requests_at_once_only_the_one_that_raises_fails(faulty: Service) -> None:
    with ThreadPoolExecutor(65) as clients:
        first = clients.submit(ask, faulty, "picky", QUITE_SLOW)
        replies = [*clients.map(partial(ask, faulty, "picky"), [RAISING, *range(1, 64)])]

    assert first.result().status_code == 200
    assert (replies[0].status_code, replies[0].json()["code"]) == (500, "inference_failed")
    assert [reply.json()["prediction"] for reply in replies[1:]] == [*range(1, 64)]
    [runner] = [runner for runner in admin(faulty, "/runners") if runner["model"] == "picky"]
    assert runner["calls"] < runner["rows"]


def test_a_model_that_crashes_costs_its_call_and_is_out_of_service_at_the_fifth_time(faulty: Service) -> None:
    with nobody_else_notices(faulty):
        for _ in range(5):
            until(lambda: answers(faulty, "crashing"))
            reply = ask(faulty, "crashing", CRASHING)
            assert (reply.status_code, reply.json()["code"]) == (500, "model_crashed")
        until(lambda: faulty.of("model_unavailable"))
        refused = ask(faulty, "crashing", 1)
        [about] = [model for model in admin(faulty, "/models") if model["name"] == "crashing"]
        until(lambda: answers(faulty, "crashing"))

    assert deaths(faulty, "crashing") == ["was killed by signal 11 (Segmentation fault)"] * 5
    assert (refused.status_code, refused.json()["code"]) == (503, "model_unavailable")
    assert "its process was killed by signal 11 (Segmentation fault)" in refused.json()["detail"]
    assert "retry-after" in refused.headers
    assert about["versions"][0]["reason"] == "its process was killed by signal 11 (Segmentation fault)"


def test_a_call_that_never_returns_costs_its_runner_and_its_request_a_deadline(faulty: Service) -> None:
    with nobody_else_notices(faulty):
        began = monotonic()
        reply = ask(faulty, "hanging", HANGING, **{"X-Request-Timeout-Ms": "500"})

        assert reply.status_code == 504
        assert 0.4 < monotonic() - began < DEADLINE
        until(lambda: deaths(faulty, "hanging"))
        until(lambda: answers(faulty, "hanging"))
    assert deaths(faulty, "hanging") == ["was in one call for more than 1 s, the call_timeout"]


def test_a_runner_that_sends_garbage_is_replaced(faulty: Service) -> None:
    with nobody_else_notices(faulty):
        reply = ask(faulty, "hostile", HOSTILE)

        assert (reply.status_code, reply.json()["code"]) == (500, "model_crashed")
        until(lambda: deaths(faulty, "hostile"))
        until(lambda: answers(faulty, "hostile"))
    [reason] = deaths(faulty, "hostile")
    assert "what no runner does" in reason
