"""A trained model that opens only when a test lets it."""

import hashlib
import json
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from tests.waiting import DEADLINE

_MANIFEST = """
runtime = "python"
entry = "tests.integration.gated:Gated"
artefact = "gated.json"
sha256 = "{}"
inputs = [{{ name = "features", type = "float", width = 2 }}]
outputs = [{{ name = "prediction", type = "float" }}]
"""


class Gated:
    """Predicts a multiple of the first feature. Whoever opens it waits at the gate."""

    def __init__(self, artefact: bytes) -> None:
        self._factor, port = json.loads(artefact)
        with socket.create_connection(("127.0.0.1", port)) as gate:
            gate.sendall(str(os.getpid()).encode())
            gate.recv(1)

    def predict(self, columns: Mapping[str, Any]) -> dict[str, Any]:
        return {"prediction": columns["features"][:, 0] * self._factor}


class Gate:
    """Where the processes wait that open a version."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener

    def write(self, directory: Path, factor: float) -> None:
        """A version that opens here."""
        directory.mkdir(parents=True)
        artefact = json.dumps([factor, self._listener.getsockname()[1]]).encode()
        (directory / "gated.json").write_bytes(artefact)
        (directory / "model.toml").write_text(_MANIFEST.format(hashlib.sha256(artefact).hexdigest()))

    @contextmanager
    def opening(self) -> Iterator[int]:
        """Meanwhile the next process waits; its number."""
        connection, _ = self._listener.accept()
        with connection:
            connection.settimeout(DEADLINE)
            yield int(connection.recv(64))


@contextmanager
def gate() -> Iterator[Gate]:
    """A gate of its own."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        listener.settimeout(DEADLINE)
        yield Gate(listener)
