"""How the service stands up to clients that mean it ill, for longer than a test may take: `make abuse`.

A good client is measured with 1,000 connections that trickle and without, by turns. The service's memory is followed
under floods, and what is left in it counted after 100,000 connections were reset. The service keeps its defaults.
"""

import asyncio
import json
import os
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from statistics import median
from time import monotonic, sleep
from typing import IO, Self, cast

_HOST = "127.0.0.1"
_ROUNDS = 3
_MEASURED_SECONDS = 2.0
_TRICKLERS = 1000
_FLOODERS = 64
_FLOOD_SECONDS = 6.0
_RESETS = 100_000
_AT_ONCE = 100
_MIB = 1024 * 1024
_ONE_PROCESS = {"WEIGHBRIDGE_LOG_REQUESTS": "none", "WEIGHBRIDGE_WORKERS": "0", "WEIGHBRIDGE_ADMIN_PORT": "off"}
_RESET = struct.pack("ii", 1, 0)

_BODY = b'{"features":[1.5,2.25,-0.75,4.0]}'
_TYPE = b"Host: x\r\nContent-Type: application/json\r\n"
_GOOD = b"POST /predict HTTP/1.1\r\n%bContent-Length: %d\r\n\r\n%b" % (_TYPE, len(_BODY), _BODY)
_HEAD = b"POST /predict HTTP/1.1\r\n" + _TYPE
_CHUNKED = _HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
_ORDINARY = b"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n"
_LARGE = b"GET /docs/assets/swagger-ui-bundle.js HTTP/1.1\r\nHost: x\r\n\r\n"
_ROWS = b"\x11" * 32_000
_BATCH = b"POST /predict/batch HTTP/1.1\r\nHost: x\r\nContent-Type: application/octet-stream\r\n"
_LARGE_BATCH = b"%bContent-Length: %d\r\n\r\n%b" % (_BATCH, len(_ROWS), _ROWS)


class Service:
    """`weighbridge serve`, on a core of its own where there are two."""

    def __init__(self) -> None:
        ours = {name: value for name, value in os.environ.items() if not name.startswith("WEIGHBRIDGE_")}
        self._process = subprocess.Popen(
            ["taskset", "-c", "0", sys.executable, "-m", "weighbridge", "serve", "--port", "0"],
            stdout=subprocess.PIPE,
            env=ours | _ONE_PROCESS,
        )
        self._log = cast("IO[bytes]", self._process.stdout)
        events = map(json.loads, iter(self._log.readline, b""))
        url = next(event["url"] for event in events if event["event"] == "listening")
        self.port = int(url.rpartition(":")[2])
        self._proc = Path(f"/proc/{self._process.pid}")

    def memory(self, which: str = "VmRSS") -> float:
        """Resident memory in MiB, now or, as `VmHWM`, at most since `forget_peak`."""
        lines = (self._proc / "status").read_text("ascii").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(which)) / 1024

    def forget_peak(self) -> None:
        """Measure the peak of memory from now on."""
        (self._proc / "clear_refs").write_text("5", "ascii")

    def descriptors(self) -> int:
        """How many files and sockets are open."""
        return len(list((self._proc / "fd").iterdir()))

    def stop(self) -> None:
        """End the service; what it has logged since it listened is an error, and is shown."""
        self._process.terminate()
        for line in self._log:
            if b'"service_stopped"' not in line:
                sys.stdout.write(f"logged: {line.decode()}")
        self._process.wait()


@contextmanager
def serving() -> Iterator[Service]:
    """A service that has answered some requests."""
    service = Service()
    try:
        throughput(service, 0.5)
        yield service
    finally:
        service.stop()


def throughput(service: Service, seconds: float = _MEASURED_SECONDS) -> float:
    """Requests a second of one client that waits for each reply."""
    answered, end = 0, monotonic() + seconds
    with socket.create_connection((_HOST, service.port), timeout=30) as connection:
        while monotonic() < end:
            connection.sendall(_GOOD)
            if not connection.recv(4096).startswith(b"HTTP/1.1 200 "):
                raise SystemExit("expected the good client to get 200")
            answered += 1
    return answered / seconds


class Tricklers:
    """Connections that send a byte of a head or a body each second, for as long as they are let."""

    def __init__(self, service: Service) -> None:
        self._starts = (b"GET /health HTTP/1.1\r\nA: ", _HEAD + b"Content-Length: 9999\r\n\r\n", _CHUNKED, b"")
        self._connections: list[tuple[socket.socket, bytes]] = []
        self._service = service
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        for number in range(_TRICKLERS):
            connection = socket.create_connection((_HOST, self._service.port))
            start = self._starts[number % len(self._starts)]
            connection.sendall(start)
            self._connections.append((connection, b"1\r\n \r\n" if start is _CHUNKED else b"n"))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()
        for connection, _piece in self._connections:
            connection.close()

    def _run(self) -> None:
        while not self._stopped.is_set():
            for connection, piece in self._connections:
                with suppress(OSError):
                    connection.send(piece)
                if self._stopped.wait(1 / _TRICKLERS):
                    return


def trickle() -> None:
    """A good client beside 1,000 that trickle."""
    with_them, without, gone_after = [], [], []
    with serving() as service:
        idle = service.descriptors()
        for _ in range(_ROUNDS):
            without.append(throughput(service))
            begun = monotonic()
            with Tricklers(service):
                with_them.append(throughput(service))
                until_at_most(service, idle)
                gone_after.append(monotonic() - begun)
    ratio = median(a / b for a, b in zip(with_them, without, strict=True))
    show("good client alone", f"{median(without):.0f} requests/s")
    show(f"good client beside {_TRICKLERS} that trickle", f"{median(with_them):.0f} requests/s", f"{ratio:.0%}")
    show("the last of those that trickle is gone after", f"{max(gone_after):.1f} s")


def until_at_most(service: Service, descriptors: int) -> None:
    """Wait until the service has at most as many open, but not for ever."""
    end = monotonic() + 60
    while service.descriptors() > descriptors and monotonic() < end:
        sleep(0.01)


Flooder = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def _send_without_end(writer: asyncio.StreamWriter, data: bytes) -> None:
    while True:
        writer.write(data)
        await writer.drain()


async def _endless_body(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(_CHUNKED + b"ffffffff\r\n")
    await _send_without_end(writer, b" " * 65536)


async def _announced_body(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(_HEAD + b"Content-Length: %d\r\n\r\n" % (1024 * _MIB))
    await _send_without_end(writer, b" " * 65536)


async def _almost_whole_body(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(_HEAD + b"Content-Length: %d\r\n\r\n" % (16 * _MIB))
    for _piece in range(255):
        writer.write(b" " * 65536)
        await writer.drain()
    await asyncio.sleep(_FLOOD_SECONDS)


async def _large_header(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(_HEAD + b"A: ")
    await _send_without_end(writer, b"n" * 65536)


async def _many_headers(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(_HEAD)
    await _send_without_end(writer, b"A: n\r\n" * 1000)


async def _large_heads_that_stop(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(_HEAD + b"".join(b"A%d: %b\r\n" % (number, b"n" * 320) for number in range(95)))
    await asyncio.sleep(_FLOOD_SECONDS)


async def _endless_chunks(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(_CHUNKED)
    await _send_without_end(writer, b"1\r\n \r\n" * 1000)


async def _endless_extension(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(_CHUNKED + b"1;")
    await _send_without_end(writer, b"x" * 65536)


async def _unread_files(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await _send_without_end(writer, _LARGE * 10)


async def _unread_predictions(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await _send_without_end(writer, _LARGE_BATCH)


FLOODS: dict[str, Flooder] = {
    "bodies without end": _endless_body,
    "bodies announced as 1 GiB": _announced_body,
    "bodies of 16 MiB that stop at the last": _almost_whole_body,
    "a header without end": _large_header,
    "headers without end": _many_headers,
    "large heads that stop": _large_heads_that_stop,
    "chunks of a byte without end": _endless_chunks,
    "a chunk extension without end": _endless_extension,
    "files that nobody reads": _unread_files,
    "predictions that nobody reads": _unread_predictions,
}


async def _flood(service: Service, flooder: Flooder) -> None:
    async def again_and_again() -> None:
        while True:
            connection = socket.socket()
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.setblocking(False)
            await asyncio.get_running_loop().sock_connect(connection, (_HOST, service.port))
            reader, writer = await asyncio.open_connection(sock=connection, limit=4096)
            with suppress(OSError):
                await flooder(reader, writer)
            writer.close()

    with suppress(TimeoutError):
        async with asyncio.timeout(_FLOOD_SECONDS), asyncio.TaskGroup() as group:
            for _ in range(_FLOODERS):
                group.create_task(again_and_again())


def flood() -> None:
    """Memory under each kind of flood."""
    for name, flooder in FLOODS.items():
        with serving() as service:
            before = service.memory()
            service.forget_peak()
            asyncio.run(_flood(service, flooder))
            peak = service.memory("VmHWM")
            throughput(service, 0.5)  # it still answers
            show(f"{_FLOODERS} times {name}", f"{before:.0f} MiB, at most {peak:.0f}", f"+{peak - before:.1f} MiB")


def reset() -> None:
    """What 100,000 connections leave behind that were reset in mid-request."""
    sent = (_GOOD[:40], _GOOD[:-3], _CHUNKED + b"21\r\n{", _GOOD, _ORDINARY, _LARGE, _GOOD + _ORDINARY + _GOOD[:50])
    with serving() as service:
        descriptors, memory = service.descriptors(), 0.0
        begun = monotonic()
        for number in range(_RESETS):
            connection = socket.create_connection((_HOST, service.port))
            connection.sendall(sent[number % len(sent)])
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            connection.close()
            if number % _AT_ONCE == 0:  # no more are to wait than the listener has room for
                until_at_most(service, descriptors + _AT_ONCE)
            if number == _RESETS // 10:  # by then the allocator has what it needs
                memory = service.memory()
        seconds = monotonic() - begun
        until_at_most(service, descriptors)
        left = service.descriptors() - descriptors
        growth = service.memory() - memory
        show(f"{_RESETS} resets in mid-request", f"{seconds:.0f} s")
        show("descriptors left", str(left))
        show("memory left by the last 90%", f"{growth:+.1f} MiB", f"{growth * _MIB / _RESETS / 0.9:+.0f} bytes each")
        show("good client afterwards", f"{throughput(service):.0f} requests/s")


def show(what: str, figure: str, remark: str = "") -> None:
    """Write a line of the table."""
    sys.stdout.write(f"{what:<55} {figure:>24} {remark:>18}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    if (os.cpu_count() or 1) > 1:
        os.sched_setaffinity(0, range(1, os.cpu_count() or 1))
    trickle()
    flood()
    reset()
