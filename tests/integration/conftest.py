"""What the integration tests are given."""

from collections.abc import Iterator

import httpx2
import pytest

from tests.integration.service import Service, serving


@pytest.fixture(scope="session")
def service() -> Iterator[Service]:
    """The service as it ships, though it logs every request; tests that only ask share it."""
    with serving(LOG_REQUESTS="all") as started:
        yield started


@pytest.fixture(scope="session")
def client(service: Service) -> Iterator[httpx2.Client]:
    """An HTTP client of the shared service."""
    with service.client() as client:
        yield client
