"""Pages of docs/: their prose is written by hand, the parts between markers by the benchmarks."""

from pathlib import Path

from benchmarks.results import ROOT, BenchmarkFailed

PAGE = ROOT / "docs" / "benchmarks.md"


def publish(part: str, markdown: str, page: Path = PAGE) -> None:
    """Put `markdown` between the markers of `part` in `page`. Raises BenchmarkFailed when they are not there."""
    begin, end = f"<!-- {part} -->", f"<!-- end of {part} -->"
    before, found, rest = page.read_text().partition(begin)
    _, found_end, after = rest.partition(end)
    if not found or not found_end:
        raise BenchmarkFailed(f"expected the lines {begin} and {end} in {page.relative_to(ROOT)}, got none")
    page.write_text(f"{before}{begin}\n\n{markdown.strip()}\n\n{end}{after}")
