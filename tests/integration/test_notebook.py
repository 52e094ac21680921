"""The guide's way from a notebook to an answer, walked as it stands there: every cell, and every command after it."""

import re
from contextlib import ExitStack
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from runpy import run_path

import pytest

from tests.integration.pages import ROOT, SHOWN_URL, Service, blocks, notebook_of, serving, shown, without_times

PAGE = "docs/guide.md"
REQUESTS = "import sys, httpx2; sys.modules['requests'] = httpx2"  # which has the same functions and is installed


def rounded(text: str) -> str:
    """With three digits of each number that has many: the last ones are the processor's."""
    return re.sub(r"\d+\.\d{5,}(e-?\d+)?", lambda number: f"{float(number[0]):.3g}", without_times(text))


def test_every_step_from_a_notebook_to_an_answer_does_what_the_guide_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    service: Service | None = None
    steps = 0
    with ExitStack() as stack:
        shown_in_order = blocks(notebook_of((ROOT / PAGE).read_text("utf-8")), "python", "console")
        for kind, group in groupby(shown_in_order, itemgetter(0)):
            block = "".join(text for _, text in group)
            if kind == "python":  # cells one after the other, which one interpreter runs
                here = block if service is None else block.replace(SHOWN_URL, service.url)
                (tmp_path / "cells.py").write_text(f"{REQUESTS}\n{here}")
                run_path("cells.py")
                assert capfd.readouterr() == ("", "")
                continue
            if service is None:  # as the guide says, once all models are packaged
                service = stack.enter_context(serving("--models", "models", directory=tmp_path))
            for command, answer in ((example.command, example.answer) for example in shown(PAGE, block)):
                assert rounded(service.run(command)) == rounded(answer)
                steps += 1

    assert steps > 0
