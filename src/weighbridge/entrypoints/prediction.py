"""`weighbridge predict MODEL FILE`: the reply of the service, given without one."""

import asyncio
from time import perf_counter

from weighbridge.adapters import catalogue
from weighbridge.adapters.http.fast_route import Call
from weighbridge.adapters.http.model_description import LIVE
from weighbridge.adapters.http.problems import Reply
from weighbridge.adapters.runners.terms import Placed
from weighbridge.container import Container
from weighbridge.settings import Settings

_STANDARD_ERROR = 2


def predict(settings: Settings, name: str, body: bytes) -> Reply:
    """The reply to `POST /models/{name}/predict` with this body; no other model is opened. Raises ModelRefused."""
    quiet = settings.model_copy(update={"log_level": "error"})
    container = Container(settings=quiet, log_descriptor=_STANDARD_ERROR)
    container.init_resources()
    try:
        found = container.repository().find(name)
        version = catalogue.wanted({name: found})[name]
        opened = container.models().open(name, Placed(version, found.options(version).max_batch_rows))
        return asyncio.run(_answer(opened.routes[LIVE].call, body, settings.deadline_ms / 1000))
    finally:
        container.shutdown_resources()


async def _answer(call: Call, body: bytes, seconds: float) -> Reply:
    reply = call({b"content-type": b"application/json"}, body, "predict", perf_counter() + seconds)
    return reply if isinstance(reply, tuple) else await reply
