"""The real service: a process of its own, on a port that it picks itself."""

import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import IO, Any
from urllib.parse import urlsplit

import httpx2

from tests.conftest import MEASURED
from tests.waiting import DEADLINE, until

COMMAND = (sys.executable, "-m", "weighbridge")
SERVE = (*COMMAND, "serve", "--port", "0")
PLAIN = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # each client reads all authorities otherwise, which takes it 20 ms


def environment(settings: Mapping[str, str], *, measured: bool = True) -> dict[str, str]:
    """The environment of the tests with these settings, and without that of coverage where nothing is `measured`."""
    ours = {name: value for name, value in os.environ.items() if measured or name != MEASURED}
    return {**ours, **{f"WEIGHBRIDGE_{name}": value for name, value in settings.items()}}


def run(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    return subprocess.run(
        [*COMMAND, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=DEADLINE,
        env=environment(settings),
    )


def free_port() -> int:
    """A port that nobody listens on, below those from which the system gives clients theirs."""
    return next(filter(_is_free, range(20_000 + os.getpid() % 10_000, 32_000)))


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


class Lines:
    """The lines that come out of a pipe: read as they come, as far as the first that holds `last`."""

    def __init__(self, pipe: IO[bytes], *, last: bytes | None = None) -> None:
        self._pipe = pipe
        self._last = last
        self.so_far: list[bytes] = []
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self) -> None:
        for line in self._pipe:
            self.so_far.append(line)
            if self._last is not None and self._last in line:
                return


class Service:
    """`weighbridge serve`, as a process; its log is read on, or only as far as the line that says that it listens."""

    def __init__(
        self,
        *flags: str,
        command: Sequence[str] = SERVE,
        reads_on: bool = True,
        measured: bool = True,
        **settings: str,
    ) -> None:
        self.process = subprocess.Popen(
            [*command, *flags],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment({"ADMIN_PORT": "0", **settings}, measured=measured),
        )
        assert self.process.stdout is not None
        self._log = Lines(self.process.stdout, last=None if reads_on else b'"listening"')
        until(lambda: self.of("listening") or not self._log.reader.is_alive())
        self.url = str(self.of("listening")[0]["url"])

    @property
    def events(self) -> list[dict[str, Any]]:
        """Every line of standard output so far, each of which is a JSON object."""
        events = [json.loads(line) for line in self._log.so_far]
        assert all(isinstance(event, dict) for event in events)
        return events

    def of(self, event: str) -> list[dict[str, Any]]:
        """The lines of one kind."""
        return [line for line in self.events if line["event"] == event]

    @property
    def admin_url(self) -> str:
        """Where the admin listener answers."""
        return str(self.of("admin_listening")[0]["url"])

    def client(self) -> httpx2.Client:
        """An HTTP client of the service."""
        return httpx2.Client(base_url=self.url, timeout=DEADLINE, verify=PLAIN)

    def connect(self) -> socket.socket:
        """A connection to the service."""
        address = urlsplit(self.url)
        assert address.hostname is not None
        assert address.port is not None
        return socket.create_connection((address.hostname, address.port), timeout=DEADLINE)

    def exchange(self, request: bytes) -> bytes:
        """Everything that comes back for what is sent, until the service closes the connection."""
        with self.connect() as connection:
            # From a thread: a service that waits for its replies to be read reads no further requests.
            sender = threading.Thread(target=_send, args=(connection, request), daemon=True)
            sender.start()
            received = read_to_the_end(connection)
            sender.join(DEADLINE)
        return received

    def refuses(self) -> bool:
        """Whether nobody listens on the port any more."""
        try:
            self.connect().close()
        except ConnectionError:
            return True
        return False

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal; the exit code, once the process has ended."""
        self.process.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        """The exit code, once the process has ended and all that it wrote has been read."""
        code = self.process.wait(DEADLINE)
        self._log.reader.join(DEADLINE)
        return code

    def complaints(self) -> str:
        """What it wrote to standard error."""
        assert self.process.stderr is not None
        return self.process.stderr.read().decode()


def _send(connection: socket.socket, request: bytes) -> None:
    with suppress(ConnectionError):  # a service that refuses a request need not read all of it
        connection.sendall(request)


def read_to_the_end(connection: socket.socket) -> bytes:
    """Everything that comes until the other side closes."""
    received = b""
    while chunk := connection.recv(65536):
        received += chunk
    return received


@contextmanager
def serving(
    *flags: str, command: Sequence[str] = SERVE, reads_on: bool = True, measured: bool = True, **settings: str
) -> Iterator[Service]:
    """The service, from when it listens; whatever happens, its process has ended afterwards.

    One that is not `measured` is so neither in a module whose processes are.
    """
    service = Service(*flags, command=command, reads_on=reads_on, measured=measured, **settings)
    try:
        yield service
    finally:
        # Only a process that ends in order leaves behind what was measured in it; that takes it half a second.
        service.stop(signal.SIGTERM if measured and os.environ.get(MEASURED) else signal.SIGKILL)
        for stream in (service.process.stdout, service.process.stderr):
            assert stream is not None
            stream.close()
