import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import weighbridge

PROGRAM = """
import pkgutil, sys
from importlib import import_module

FRAMEWORKS = {
    "dependency_injector", "fastapi", "prometheus_client", "pydantic", "pydantic_settings", "starlette", "structlog",
    "uvicorn",
}

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in FRAMEWORKS:
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Absent())
for layer in ("weighbridge.domain", "weighbridge.application"):
    package = import_module(layer)
    for module in pkgutil.walk_packages(package.__path__, layer + "."):
        print(import_module(module.name).__name__)
"""


def test_domain_and_application_need_no_framework() -> None:
    imported = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)

    assert imported.stderr == ""
    assert {"weighbridge.domain.scoring", "weighbridge.application.predict"} <= set(imported.stdout.split())


@pytest.mark.usefixtures("measured")
def test_nothing_is_read_or_started_by_an_import() -> None:
    program = """
import threading
import weighbridge.__main__, weighbridge.entrypoints.asgi
print(threading.active_count())
"""
    wrong = {**os.environ, "WEIGHBRIDGE_PORT": "no port"}
    imported = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, env=wrong)

    assert (imported.stdout, imported.stderr) == ("1\n", "")


def test_only_the_system_wing_asks_for_what_an_operating_system_may_not_have() -> None:
    asked = re.compile(
        r"os\.(memfd|pidfd|sched|setpriority|killpg|waitid|sysconf)|pidfd_send|prctl|CDLL\(|F_(ADD_)?SEAL|RLIMIT|/proc/"
        r"|SOCK_SEQPACKET|MSG_(MORE|DONTWAIT|CMSG)"
    )
    [root] = map(Path, weighbridge.__path__)

    assert {path.relative_to(root).parts[:2] for path in root.rglob("*.py") if asked.search(path.read_text())} == {
        ("adapters", "system")
    }
