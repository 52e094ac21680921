"""A program: packages a model in a directory, and has every command and the application do what they are for."""

import json
import os
import signal
import socket
import sys
from contextlib import closing
from pathlib import Path
from threading import Thread
from typing import Any

import httpx2
from click.testing import CliRunner
from starlette.testclient import TestClient

from tests.integration.service import free_port
from tests.unit.trained import NAME, ROW, trained
from tests.waiting import until
from weighbridge.entrypoints.asgi import create_app
from weighbridge.entrypoints.cli import main
from weighbridge.entrypoints.serve import serve


def asked(client: Any) -> dict[str, Any]:
    """What a service says of the model, and of a row."""
    return {
        "prediction": client.post(f"/models/{NAME}/predict", json=ROW).json()["prediction"],
        "placement": client.get(f"/models/{NAME}").json()["calls"]["placement"],
    }


def served() -> dict[str, Any]:
    """The same of one that is served meanwhile, on a socket."""
    address, told = ("127.0.0.1", free_port()), dict[str, Any]()

    def ask() -> None:
        try:
            with httpx2.Client(base_url="http://{}:{}".format(*address)) as client:
                until(lambda: answers(address))
                told.update(asked(client))
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    Thread(target=ask, daemon=True).start()
    serve({"port": str(address[1]), "workers": "2", "drain_delay": "0"})
    return told


def answers(address: tuple[str, int]) -> bool:
    """Whether anyone is there."""
    with closing(socket.socket()) as connection:
        return connection.connect_ex(address) == 0


os.environ["WEIGHBRIDGE_MODELS"] = str(trained(Path(sys.argv[1])))
command = CliRunner().invoke
told: dict[str, Any] = {
    "predict": command(main, ["predict", "1", "2", "3", "4"]).exit_code,
    "check": command(main, ["check"]).exit_code,
}
with TestClient(create_app()) as client:
    told["create_app"] = asked(client)
sys.stdout.write(json.dumps({"event": "told", **told, "serve": served()}) + "\n")
