"""What a process gives up, shown by processes that do."""

import json
import subprocess
import sys
from typing import Any

import pytest

from tests.waiting import DEADLINE

pytestmark = pytest.mark.usefixtures("measured")

_BEFORE = """
import ctypes, json, os, resource
from pathlib import Path
from weighbridge.adapters.system.limits import confine
from weighbridge.adapters.system.processes import end_with
"""
_AFTER = """
limits = {name: resource.getrlimit(getattr(resource, "RLIMIT_" + name)) for name in ("CORE", "DATA", "FSIZE", "NOFILE")}
signal = ctypes.c_int()
ctypes.CDLL(None).prctl(2, ctypes.byref(signal))
status = Path("/proc/self/status").read_text()
oom_score = int(Path("/proc/self/oom_score_adj").read_text())
print(json.dumps([limits, signal.value, "NoNewPrivs:\\t1" in status, oom_score]))
"""


def _run(code: str) -> "subprocess.CompletedProcess[str]":
    program = [sys.executable, "-c", _BEFORE + code + _AFTER]
    return subprocess.run(program, capture_output=True, text=True, check=False, timeout=DEADLINE)


def facts(code: str) -> Any:
    done = _run(code)
    assert done.stderr == ""
    return json.loads(done.stdout)


def test_a_process_gives_up_what_it_does_not_need() -> None:
    limits, signal, no_privileges, oom_score = facts("confine(2**30, 200); end_with(os.getppid())")

    assert limits == {"CORE": [0, 0], "DATA": [2**30] * 2, "FSIZE": [2**30] * 2, "NOFILE": [200] * 2}
    assert (signal, no_privileges, oom_score) == (9, True, 500)


def test_a_process_keeps_lower_limits_of_the_service() -> None:
    limits, *_ = facts("resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100)); confine(2**30, 200)")

    assert limits["NOFILE"] == [100, 100]


def test_a_process_whose_parent_has_gone_already_ends() -> None:
    done = _run("end_with(0)")

    assert (done.returncode, done.stdout) == (1, "")
