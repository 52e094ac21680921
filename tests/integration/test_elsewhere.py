"""Systems other than Linux, shown on Linux by what they do not have."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.integration import elsewhere
from tests.unit.trained import ANSWER
from tests.waiting import DEADLINE

pytestmark = pytest.mark.usefixtures("measured")


def run(program: str, system: str, models: Path) -> "subprocess.CompletedProcess[str]":
    """A program that is given a directory of models, on another system."""
    [path] = elsewhere.__path__
    return subprocess.run(
        [sys.executable, "-m", f"{elsewhere.__name__}.{program}", models],
        capture_output=True,
        text=True,
        check=False,
        timeout=3 * DEADLINE,
        env={**os.environ, "ELSEWHERE": system, "PYTHONPATH": path, "WEIGHBRIDGE_ADMIN_PORT": "off"},
    )


@pytest.mark.parametrize("system", ["posix", "musl"])
def test_every_command_works_without_what_only_linux_has(system: str, tmp_path: Path) -> None:
    done = run("all_commands", system, tmp_path)
    assert done.stderr == ""
    events: list[dict[str, Any]] = [json.loads(line) for line in done.stdout.splitlines()]

    in_process = {"prediction": pytest.approx(ANSWER), "placement": "thread"}
    assert {name: value for name, value in events[-1].items() if name != "event"} == {
        "predict": 0,
        "check": 0,
        "create_app": in_process,
        "serve": in_process,
    }
    told = [event["event"] for event in events]
    assert told.count("workers_not_started") == 1
    assert told.count("models_not_confined") == 2  # by the application of either server


def test_a_model_is_packaged_on_windows(tmp_path: Path) -> None:
    done = run("packaging", "windows", tmp_path)
    assert done.stderr == ""

    assert {file.name for file in tmp_path.glob("*/*/*")} == {"model.toml", "model.skops"}
    heavy = ("weighbridge.server", "weighbridge.adapters.http", "weighbridge.adapters.repository", "fastapi", "uvicorn")
    assert [module for module in json.loads(done.stdout) if module.startswith(heavy)] == []
