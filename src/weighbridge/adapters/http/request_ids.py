"""The ids of requests, by which a client's complaint finds its line in the log."""

import re
from itertools import count
from secrets import token_hex

_SANE = re.compile(rb"[A-Za-z0-9._-]{1,64}")


class RequestIds:
    """Names requests."""

    def __init__(self) -> None:
        self._prefix = token_hex(6)
        self._made = count()

    def name(self, given: bytes | None) -> str:
        """The client's own `X-Request-ID` where that is given and sane, otherwise one that no other process makes."""
        if given is not None and _SANE.fullmatch(given):
            return given.decode()
        return f"{self._prefix}-{next(self._made)}"
