"""The examples train their models, and the service gives the answers that their pages show."""

import json
import runpy
import shlex
from collections.abc import Iterator
from contextlib import chdir
from typing import Any

import pytest
from dependency_injector import providers
from starlette.testclient import TestClient

from tests.integration.pages import ROOT, blocks, shown
from tests.unit.log import Log
from weighbridge.adapters.runners.terms import Placed
from weighbridge.entrypoints.asgi import create_app

EXAMPLES = ROOT / "examples"
NAMES = sorted(script.parent.name for script in EXAMPLES.glob("*/train.py"))


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """The application with the models of all examples, called in this process."""
    directory = tmp_path_factory.mktemp("examples")
    with chdir(directory):
        for name in NAMES:
            runpy.run_path(str(EXAMPLES / name / "train.py"), run_name="__main__")
    log = Log(directory / "log")
    container = log.container(models=str(directory / "models"))
    container.live.override(providers.Object({name: Placed("1", slice_rows=1000) for name in NAMES}))
    with TestClient(create_app(container)) as client:
        yield client
    log.close()


def rounded(text: str) -> Any:
    """A reply with two decimals of each number: the last digits depend on the processor."""
    return json.loads(text, parse_float=lambda digits: round(float(digits), 2))


@pytest.mark.parametrize("name", NAMES)
def test_a_trained_example_answers_as_its_page_shows(name: str, service: TestClient) -> None:
    page = (EXAMPLES / name / "README.md").read_text("utf-8")
    [example] = [example for _, block in blocks(page, "console") for example in shown(name, block)]
    _curl, _silent, url, _header, content_type, _data, body = shlex.split(example.command)

    reply = service.post(url, headers=dict([content_type.split(": ")]), content=body)

    assert rounded(reply.text) == rounded(example.answer)


def test_the_client_finds_the_customers_who_will_leave(service: TestClient) -> None:
    customers = runpy.run_path(str(EXAMPLES / "churn" / "train.py"))["customers"](10, seed=2)

    leaving = runpy.run_path(str(EXAMPLES / "churn" / "client.py"))["leaving"](service, customers)

    assert len(leaving) == len(customers)
    assert set(leaving) == {True, False}
