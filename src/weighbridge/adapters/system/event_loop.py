"""The event loop of the service."""

import asyncio


def new_event_loop() -> asyncio.AbstractEventLoop:
    """uvloop's, which is written in C; asyncio's own where uvloop is not installed."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()
