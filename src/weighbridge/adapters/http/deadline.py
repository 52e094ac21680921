"""How long a request may take: what the client asks for, and the reply when that has passed. Both roads use it."""

import re

from weighbridge.adapters.http.problems import Problem, RefusedRequest, Reply

HEADER = b"x-request-timeout-ms"
_MILLISECONDS = re.compile(rb"0*[1-9][0-9]{0,8}")
_LONGEST = 9


def time_limit(asked: bytes | None, deadline_ms: int) -> float:
    """Seconds from its first byte within which a request must be answered.

    `asked` is the value of the client's header, which can only shorten the `deadline_ms` of the service. Raises
    RefusedRequest.
    """
    if asked is None:
        return deadline_ms / 1000
    if len(asked) > _LONGEST or not _MILLISECONDS.fullmatch(asked):
        raise RefusedRequest(Problem.BAD_REQUEST, "X-Request-Timeout-Ms must be a positive integer of at most 9 digits")
    return min(int(asked), deadline_ms) / 1000


def too_late(request_id: str) -> Reply:
    """The reply to a request whose time has passed."""
    detail = "The reply was not ready by the deadline; send fewer rows, or allow more time"
    return Problem.DEADLINE_EXCEEDED.reply(detail, request_id)
