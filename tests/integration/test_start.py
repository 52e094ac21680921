import json
import os
import re
import shlex
import subprocess
import sysconfig
from pathlib import Path

import httpx2
import pytest

from tests.integration.service import COMMAND, PLAIN, Lines, environment, free_port, run, serving
from tests.waiting import DEADLINE, until
from weighbridge import __version__

pytestmark = pytest.mark.usefixtures("measured")


def test_a_service_that_cannot_start_says_why_in_one_line() -> None:
    result = run("serve", PORT="http")

    assert (result.returncode, result.stdout) == (3, "")
    assert result.stderr == "weighbridge: WEIGHBRIDGE_PORT: expected an integer from 0 to 65535, got 'http'\n"


def test_a_start_is_logged_as_json_with_the_url() -> None:
    with serving(measured=False, WEIGHTS="[2, 3]") as service, service.client() as client:
        assert client.post("/predict", json={"features": [1, 1]}).json()["prediction"] == 5.0
        service.stop()

    assert [event["event"] for event in service.events] == [
        "worker_started",
        "service_started",
        "admin_listening",
        "listening",
        "service_stopped",
    ]
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+", service.url)


def test_the_command_and_the_module_are_the_same() -> None:
    command = Path(sysconfig.get_path("scripts")) / "weighbridge"

    by_command = subprocess.run([command, "--help"], capture_output=True, text=True, check=False)

    assert by_command.stdout == run("--help").stdout
    assert by_command.stdout.startswith("Usage: weighbridge ")


def test_a_service_starts_with_its_standard_streams_closed() -> None:
    port = free_port()
    command = shlex.join([*COMMAND, "serve", "--port", str(port), "--log-requests", "all"])

    process = subprocess.Popen(["sh", "-c", f"exec {command} <&- >&- 2>&-"], env=environment({"ADMIN_PORT": "off"}))
    try:
        until(lambda: is_healthy(f"http://127.0.0.1:{port}"))
        [worker] = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        streams = {str(Path(f"/proc/{pid}/fd/{fd}").readlink()) for pid in (process.pid, worker) for fd in range(3)}
        assert streams == {os.devnull}
    finally:
        process.terminate()

    assert process.wait(DEADLINE) == 0


def is_healthy(url: str) -> bool:
    try:
        return httpx2.get(f"{url}/health", timeout=DEADLINE, verify=PLAIN).status_code == 200
    except httpx2.ConnectError:
        return False


def test_on_a_terminal_it_prints_where_it_is_and_a_request_to_try() -> None:
    screen, terminal = os.openpty()
    process = subprocess.Popen(
        [*COMMAND, "serve", "--port", "0"],
        stdout=terminal,
        stderr=subprocess.PIPE,
        env=environment({"ADMIN_PORT": "off", "WORKERS": "0"}),
    )
    os.close(terminal)
    assert process.stderr is not None
    printed = Lines(process.stderr, last=b"Try:")
    try:
        printed.reader.join(DEADLINE)
        _, name, docs, attempt = b"".join(printed.so_far).decode().splitlines()
        url = name.split()[-1]
        _, command, address, _, header, _, row = shlex.split(attempt)
        field, value = header.split(": ")
        reply = httpx2.post(address, content=row, headers={field: value}, timeout=DEADLINE, verify=PLAIN)
    finally:
        process.terminate()
    code = process.wait(DEADLINE)
    log = os.read(screen, 65536).decode()
    os.close(screen)
    process.stderr.close()

    assert code == 0
    assert name == f"  Weighbridge {__version__} answers at {url}"
    assert docs == f"  Docs: {url}/docs"
    assert (command, address) == ("curl", f"{url}/predict")
    assert reply.json() == {"prediction": 1.0, "status": "success"}
    assert "service_started" in log
    assert "{" not in log


@pytest.mark.parametrize(
    ("python_models", "trusted_types"), [("true", "[]"), ("false", '["shop.Scaler"]')], ids=["python", "types"]
)
def test_a_start_that_lets_models_run_code_is_warned_about(python_models: str, trusted_types: str) -> None:
    with serving(PYTHON_MODELS=python_models, TRUSTED_TYPES=trusted_types, WORKERS="0") as service:
        [warning] = service.of("models_may_run_code")

    assert [warning["python_models"], warning["trusted_types"]] == [
        json.loads(python_models),
        json.loads(trusted_types),
    ]
