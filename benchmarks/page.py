"""docs/benchmarks.md: its prose is written by hand, the parts between markers by the benchmarks."""

from benchmarks.results import ROOT, BenchmarkFailed

PAGE = ROOT / "docs" / "benchmarks.md"


def publish(part: str, markdown: str) -> None:
    """Put `markdown` between the markers of `part`. Raises BenchmarkFailed when they are not there."""
    begin, end = f"<!-- {part} -->", f"<!-- end of {part} -->"
    before, found, rest = PAGE.read_text().partition(begin)
    _, found_end, after = rest.partition(end)
    if not found or not found_end:
        raise BenchmarkFailed(f"expected the lines {begin} and {end} in {PAGE.relative_to(ROOT)}, got none")
    PAGE.write_text(f"{before}{begin}\n\n{markdown.strip()}\n\n{end}{after}")
