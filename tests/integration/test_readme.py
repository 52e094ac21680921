"""What the pages show is what the service does: their commands are run, and the answers compared.

A block of the kind `console` has commands after a `$` and their answers below; those of the kind `sh` are not run.
"""

import json
import re
from collections.abc import Iterator

import pytest

from tests.integration.pages import (
    ROOT,
    SHOWN_URL,
    Example,
    Service,
    blocks,
    notebook_of,
    serving,
    shown,
    without_times,
)

PAGES = ("README.md", "docs/guide.md", "docs/settings.md")


def _examples(page: str) -> Iterator[Example]:
    text = (ROOT / page).read_text("utf-8")
    for _, block in blocks(text.replace(notebook_of(text), ""), "console"):
        yield from shown(page, block)


EXAMPLES = [example for page in PAGES for example in _examples(page)]


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    """One service for all the commands of the pages."""
    with serving() as running:
        yield running


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: f"{example.page}: {example.command[:60]}")
def test_a_command_gives_the_answer_that_the_page_shows(example: Example, service: Service) -> None:
    assert without_times(service.run(example.command)) == without_times(example.answer)


def test_the_readme_shows_a_prediction() -> None:
    [example] = _examples("README.md")

    assert example.command.startswith(f"curl -s {SHOWN_URL}/predict ")
    assert json.loads(example.answer) == {"prediction": -1.6875, "status": "success"}


def test_a_failed_request_leaves_the_log_line_that_the_guide_shows(service: Service) -> None:
    [line] = re.findall(r'^\{"request_id".+$', (ROOT / "docs/guide.md").read_text("utf-8"), re.MULTILINE)
    [command] = [example.command for example in _examples("docs/guide.md") if "try-1" in example.command]

    service.run(command)
    assert service.process.stdout is not None
    logged = next(found for found in service.process.stdout if '"try-1"' in found)

    assert without_times(logged) == without_times(line) + "\n"
