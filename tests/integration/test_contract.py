"""The table of the contract, against the real process on its port."""

import httpx2
import pytest

from tests.contract import CASES, Case


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_contract_holds(client: httpx2.Client, case: Case) -> None:
    case.check(client)
