"""What the pages show is what the service does: their commands are run, and the answers compared.

A block of the kind `console` has commands after a `$` and their answers below; those of the kind `sh` are not run.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Timer
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
PAGES = ("README.md", "docs/guide.md", "docs/settings.md")
SHOWN_URL = "http://127.0.0.1:8000"
SECONDS = 60.0


class Example(NamedTuple):
    """A command as a page shows it, and its answer."""

    page: str
    command: str
    answer: str


class Service(NamedTuple):
    """A running `weighbridge serve`."""

    url: str
    process: subprocess.Popen[str]

    def run(self, command: str) -> str:
        """What a user sees who types a command that a page shows."""
        here = command.replace(SHOWN_URL, self.url)
        done = subprocess.run(
            ["bash", "-c", here],
            cwd=ROOT,
            env=_environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        return done.stdout.strip()


def _environment() -> dict[str, str]:
    """That of a user with no settings of their own, whose environment for Python is activated."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("WEIGHBRIDGE_")}
    return {**ours, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


@contextmanager
def _serving() -> Iterator[Service]:
    """The real service on a free port, for `SECONDS` at most."""
    with subprocess.Popen(
        ["weighbridge", "serve", "--port", "0"],
        env={**_environment(), "WEIGHBRIDGE_ADMIN_PORT": "0"},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        deadline = Timer(SECONDS, process.kill)  # ends every wait for its output, too
        deadline.start()
        try:
            assert process.stdout is not None
            events = map(json.loads, iter(process.stdout.readline, ""))
            yield Service(next(event["url"] for event in events if event["event"] == "listening"), process)
        finally:
            process.terminate()
            process.wait()
            deadline.cancel()


def _examples(page: str) -> Iterator[Example]:
    text = (ROOT / page).read_text("utf-8")
    for block in re.findall(r"^```console\n(.+?)^```", text, re.MULTILINE | re.DOTALL):
        for shown in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, answer = shown.partition("\n")
            yield Example(page, command, answer.strip())


def _without_times(text: str) -> str:
    return re.sub(r'(date: |"timestamp": |"duration_ms": )(\w{3}, .+|".+?"|[\d.]+)', r"\1...", text)


EXAMPLES = [example for page in PAGES for example in _examples(page)]


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    """One service for all the commands of the pages."""
    with _serving() as running:
        yield running


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: f"{example.page}: {example.command[:60]}")
def test_a_command_gives_the_answer_that_the_page_shows(example: Example, service: Service) -> None:
    assert _without_times(service.run(example.command)) == _without_times(example.answer)


def test_the_readme_shows_a_prediction() -> None:
    [example] = _examples("README.md")

    assert example.command.startswith(f"curl -s {SHOWN_URL}/predict ")
    assert json.loads(example.answer) == {"prediction": -1.6875, "status": "success"}


def test_a_failed_request_leaves_the_log_line_that_the_guide_shows() -> None:
    [shown] = re.findall(r'^\{"request_id".+$', (ROOT / "docs/guide.md").read_text("utf-8"), re.MULTILINE)
    [command] = [example.command for example in _examples("docs/guide.md") if "try-1" in example.command]

    with _serving() as service:
        service.run(command)
        service.process.terminate()
        assert service.process.stdout is not None
        log = service.process.stdout.read()

    assert _without_times(shown) in _without_times(log).splitlines()
