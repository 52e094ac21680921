"""Calls of the operating system that fail."""

import os
from collections.abc import Callable


def failing(code: int) -> Callable[..., int]:
    """A call that fails with this code of `errno`."""

    def call(*_: object) -> int:
        raise OSError(code, os.strerror(code))

    return call
