"""Pages as their readers use them: the commands that they show, run against the real service."""

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

ROOT = Path(__file__).parents[2]
SHOWN_URL = "http://127.0.0.1:8000"
SECONDS = 120.0


class Example(NamedTuple):
    """A command as a page shows it, and its answer."""

    page: str
    command: str
    answer: str


class Service(NamedTuple):
    """A running `weighbridge serve`."""

    url: str
    admin_url: str
    process: subprocess.Popen[str]
    directory: Path

    def run(self, command: str) -> str:
        """What a user sees who types a command that a page shows."""
        here = command.replace(SHOWN_URL, self.url)
        admin_port = self.admin_url.rpartition(":")[2]
        return run(["bash", "-c", here], self.directory, WEIGHBRIDGE_ADMIN_PORT=admin_port)


def run(command: list[str], directory: Path, **variables: str) -> str:
    """What a command prints in a directory."""
    done = subprocess.run(
        command,
        cwd=directory,
        env={**_environment(), **variables},
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
def serving(*flags: str, directory: Path = ROOT) -> Iterator[Service]:
    """The real service on free ports, for `SECONDS` at most; its commands are run in the directory, too."""
    with subprocess.Popen(
        ["weighbridge", "serve", "--port", "0", *flags],
        cwd=directory,
        env={**_environment(), "WEIGHBRIDGE_ADMIN_PORT": "0"},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        deadline = Timer(SECONDS, process.kill)  # ends every wait for its output, too
        deadline.start()
        try:
            assert process.stdout is not None
            events = map(json.loads, iter(process.stdout.readline, ""))
            admin_url = next(event["url"] for event in events if event["event"] == "admin_listening")
            url = next(event["url"] for event in events if event["event"] == "listening")
            yield Service(url, admin_url, process, directory)
        finally:
            process.terminate()
            process.wait()
            deadline.cancel()


def blocks(text: str, *kinds: str) -> Iterator[tuple[str, str]]:
    """Kind and content of the blocks of code of these kinds, in their order."""
    for kind, block in re.findall(r"^```(\w+)\n(.+?)^```", text, re.MULTILINE | re.DOTALL):
        if kind in kinds:
            yield kind, block


def notebook_of(guide: str) -> str:
    """The section that begins in a notebook; empty where there is none."""
    _, heading, rest = guide.partition("## From a notebook\n")
    return heading + rest.partition("\n## ")[0] if heading else ""


def shown(page: str, block: str) -> Iterator[Example]:
    """The commands of a block of the kind `console`."""
    for command in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
        line, _, answer = command.partition("\n")
        yield Example(page, line, answer.strip())


def without_times(text: str) -> str:
    """What stays the same from run to run."""
    return re.sub(r'(date: |"timestamp": |"duration_ms": )(\w{3}, .+|".+?"|[\d.]+)', r"\1...", text)
