"""A model that does whatever a row says, as a directory that the service can be given."""

import os
import signal
import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

SLOW, QUITE_SLOW, CRASHING, HANGING, RAISING, HOSTILE = range(101, 107)

_MANIFEST = """
runtime = "python"
entry = "tests.integration.faulty:Faulty"
inputs = [{ name = "x", type = "int" }]
outputs = [{ name = "y", type = "int" }]
golden = [{ input = { x = 1 }, output = { y = 1 } }, { input = { x = 2 }, output = { y = 2 } }]
"""


class Faulty:
    """Predicts the row itself, unless that is a fault."""

    def predict(self, columns: Mapping[str, Any]) -> dict[str, Any]:
        for x in columns["x"]:
            match int(x):
                case 101:
                    time.sleep(4)  # longer than a worker may hang
                case 102:
                    time.sleep(0.5)
                case 103:
                    os.kill(os.getpid(), signal.SIGSEGV)
                case 104:
                    signal.pause()
                case 105:
                    raise ZeroDivisionError("the needle")
                case 106:
                    _write_garbage()
        return {"y": columns["x"]}


def _write_garbage() -> None:
    """Into every socket that there is, as an artefact might that has taken over its process."""
    for link in Path("/proc/self/fd").iterdir():
        with suppress(OSError), socket.socket(fileno=os.dup(int(link.name))) as end:
            end.send(b"garbage" * 10)


def write_models(directory: Path, *names: str, **rollouts: str) -> str:
    """A directory of models that are all like that, some with a rollout; its path."""
    for name in names:
        (directory / name / "1").mkdir(parents=True)
        (directory / name / "1" / "model.toml").write_text(_MANIFEST)
        (directory / name / "rollout.toml").write_text(rollouts.get(name, ""))
    return str(directory)
