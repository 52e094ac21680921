"""The table of the contract, against the application in this process."""

import pytest
from starlette.testclient import TestClient

from tests.contract import CASES, Case


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_contract_holds(client: TestClient, case: Case) -> None:
    case.check(client)
