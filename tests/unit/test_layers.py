import os
import subprocess
import sys

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


def test_nothing_is_read_or_started_by_an_import() -> None:
    program = """
import threading
import weighbridge.__main__, weighbridge.entrypoints.asgi
print(threading.active_count())
"""
    wrong = {**os.environ, "WEIGHBRIDGE_PORT": "no port"}
    imported = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, env=wrong)

    assert (imported.stdout, imported.stderr) == ("1\n", "")
