"""What the unit tests are given."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from tests.unit.log import Log
from weighbridge.entrypoints.asgi import create_app


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    """An empty log."""
    log = Log(tmp_path / "log")
    yield log
    log.close()


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """The application as it ships, started; tests that only ask share it."""
    log = Log(tmp_path_factory.mktemp("client") / "log")
    with TestClient(create_app(log.container())) as started:
        yield started
    log.close()
