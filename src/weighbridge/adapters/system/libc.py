"""Functions of the C library that Python has no name for."""

import ctypes
from contextlib import suppress


def call(function: str, *arguments: object) -> None:
    """Call a function for what it changes; a C library that does not have it leaves all as it is."""
    with suppress(AttributeError, TypeError):  # TypeError: Windows has no library of the process itself
        getattr(ctypes.CDLL(None), function)(*arguments)
