import asyncio
import sys
from contextlib import closing

import pytest
import uvloop

from weighbridge.adapters.system.event_loop import new_event_loop


def test_the_event_loop_is_uvloops() -> None:
    with closing(new_event_loop()) as loop:
        assert isinstance(loop, uvloop.Loop)


def test_without_uvloop_the_event_loop_is_asyncios(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvloop", None)

    with closing(new_event_loop()) as loop:
        assert isinstance(loop, asyncio.SelectorEventLoop)
