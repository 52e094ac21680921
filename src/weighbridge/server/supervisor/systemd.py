"""The side of systemd's protocols that a service speaks: sockets that it passes on, and what it wants to be told.

sd_listen_fds(3) and sd_notify(3) describe them. Where nobody passes sockets or listens, nothing happens.
"""

import asyncio
import os
import socket
import time
from contextlib import suppress

from weighbridge.settings import InvalidSettings

_FIRST_DESCRIPTOR = 3
_LISTEN_VARIABLES = ("LISTEN_PID", "LISTEN_PIDFDID", "LISTEN_FDS", "LISTEN_FDNAMES")
_NOTIFY_SECONDS = 1.0


def inherited_listener() -> socket.socket | None:
    """The listening socket that this process was started with, None when there is none. Raises InvalidSettings.

    The variables that tell of it are gone afterwards: no child takes the socket for its own.
    """
    passed = {name: os.environ.pop(name, "") for name in _LISTEN_VARIABLES}
    if passed["LISTEN_PID"] != str(os.getpid()) or not passed["LISTEN_FDS"]:
        return None
    if passed["LISTEN_FDS"] != "1":
        raise InvalidSettings(f"LISTEN_FDS: expected 1 socket, that of the service's port, got {passed['LISTEN_FDS']}")
    try:
        listener = socket.socket(fileno=_FIRST_DESCRIPTOR)
    except OSError as exc:
        raise InvalidSettings(f"LISTEN_FDS: the descriptor is not a socket: {exc.strerror}") from exc
    listens = listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    if listener.family not in (socket.AF_INET, socket.AF_INET6) or not listens:
        listener.close()
        raise InvalidSettings("LISTEN_FDS: the socket is not a listening TCP socket; check its ListenStream=")
    listener.set_inheritable(False)
    return listener


def notify(*assignments: str) -> None:
    """Tell systemd of a change, such as `READY=1`, if it wants to know. Failures are ignored: serving matters more."""
    address = os.fsencode(os.environ.get("NOTIFY_SOCKET", ""))
    if not address:
        return
    if address.startswith(b"@"):  # an abstract address
        address = b"\0" + address[1:]
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.settimeout(_NOTIFY_SECONDS)
        channel.sendto("\n".join(assignments).encode(), address)


def notify_reloading() -> None:
    """Tell systemd that settings are read anew; `READY=1` ends that."""
    notify("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")


def watchdog_interval() -> float | None:
    """Seconds after which `WATCHDOG=1` is due again, half of what systemd allows; None when it watches nothing."""
    microseconds = os.environ.get("WATCHDOG_USEC", "")
    if not microseconds.isdecimal() or os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    return int(microseconds) / 2_000_000


async def feed_watchdog() -> None:
    """Tell systemd's watchdog that the event loop runs, for as long as it watches."""
    while (interval := watchdog_interval()) is not None:
        notify("WATCHDOG=1")
        await asyncio.sleep(interval)
