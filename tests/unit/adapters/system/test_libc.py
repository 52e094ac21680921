import ctypes

import pytest

from weighbridge.adapters.system import libc


def test_a_library_without_a_function_leaves_all_as_it_is() -> None:
    libc.call("no_such_function", 1)


def test_a_system_without_a_library_of_the_process_leaves_all_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def library(name: str | None) -> None:
        raise TypeError(f"bad argument type for built-in operation: {name}")  # as Windows has it

    monkeypatch.setattr(ctypes, "CDLL", library)

    libc.call("mallopt", 1)
