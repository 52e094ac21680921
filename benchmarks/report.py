"""A run as tables and as a plot: `python -m benchmarks.report` does it anew from the last run's results."""

from pathlib import Path
from statistics import median

import matplotlib as mpl
from matplotlib import pyplot as plt

from benchmarks.catalogue import SCENARIOS, SERVERS
from benchmarks.page import publish
from benchmarks.results import ROOT, WORK, Burst, Ratio, Results

FULL = WORK / "results.json"
PLOT = ROOT / "docs" / "images" / "benchmarks.png"

_OURS = "weighbridge"


def as_markdown(results: Results) -> str:
    """The whole run in Markdown."""
    conditions = "".join(f"- {name}: {value}\n" for name, value in results.conditions.items())
    shares = [burst.others_share for rounds in _all_rounds(results) for burst in rounds]
    if shares:
        conditions += (
            f"- what other processes used of the server's core during bursts: median {median(shares):.1%}, "
            f"most {max(shares):.1%}\n"
        )
    notes = "".join(f"- {note}\n" for note in results.notes)
    notes = f"### Left out\n\n{notes}" if notes else ""
    tables = [_scenario_table(results, scenario) for scenario in results.bursts]
    return "\n".join([conditions, *tables, _start_table(results), notes])


def draw(results: Results, path: Path) -> None:
    """Draw the throughput ratios of every scenario as bars, with the least and the most of the rounds."""
    mpl.use("Agg")
    heights = [len(by_server) + 1.2 for by_server in results.bursts.values()]
    figure, panels = plt.subplots(
        len(heights), 1, figsize=(8, 0.42 * sum(heights)), height_ratios=heights, squeeze=False, layout="constrained"
    )
    for panel, (scenario, by_server) in zip(panels[:, 0], results.bursts.items(), strict=True):
        baseline = by_server[SCENARIOS[scenario].baseline]
        ratios = {server: Ratio.of(bursts, baseline) for server, bursts in by_server.items()}
        servers = sorted(ratios, key=lambda server: ratios[server].median)
        medians = [ratios[server].median for server in servers]
        spread = [
            [ratios[server].median - ratios[server].least for server in servers],
            [ratios[server].most - ratios[server].median for server in servers],
        ]
        colours = ["#c2571a" if server == _OURS else "#8a9ba8" for server in servers]
        bars = panel.barh([SERVERS[server].title for server in servers], medians, xerr=spread, color=colours)
        panel.bar_label(bars, labels=[f"{value:.2f}" for value in medians], padding=6)
        panel.margins(x=0.12)
        panel.set_title(SCENARIOS[scenario].title, loc="left", fontsize=11)
        panel.set_xlabel(f"requests a second; {SERVERS[SCENARIOS[scenario].baseline].title} = 1")
        panel.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def publish_results(results: Results) -> None:
    """Write the tables and the plot into the documentation."""
    draw(results, PLOT)
    image = PLOT.relative_to(ROOT / "docs")
    publish("results", f"![Throughput beside the peers]({image})\n\n{as_markdown(results)}")


def _scenario_table(results: Results, name: str) -> str:
    scenario, by_server = SCENARIOS[name], results.bursts[name]
    against = SERVERS[scenario.baseline].title
    columns = ["server", "requests/s", f"against {against}", "CPU per request", "p50", "p99", "p99/p50"]
    rows = [f"| {' | '.join(columns)} | Weighbridge against it |", "|---" * 8 + "|"]
    for server, bursts in sorted(by_server.items(), key=lambda item: -_median(item[1], "per_second")):
        ratio = Ratio.of(bursts, by_server[scenario.baseline])
        tail = median(burst.p99_ms / burst.p50_ms for burst in bursts)
        ours = _as_text(Ratio.of(by_server[_OURS], bursts)) if _OURS in by_server and server != _OURS else ""
        rows.append(
            f"| {SERVERS[server].title} | {_median(bursts, 'per_second'):,.0f} | {_as_text(ratio)} "
            f"| {_median(bursts, 'cpu_us'):,.0f} us | {_median(bursts, 'p50_ms'):.2f} ms "
            f"| {_median(bursts, 'p99_ms'):.2f} ms | {tail:.1f} | {ours} |"
        )
    return f"### {scenario.title}\n\n" + "\n".join(rows) + "\n"


def _start_table(results: Results) -> str:
    rows = ["| server | version | start to first answer | PSS of the serving process | PSS of all | processes |"]
    rows.append("|---" * 6 + "|")
    for server, starts in results.starts.items():
        seconds, process, tree, processes = (
            median(getattr(start, name) for start in starts)
            for name in ("seconds", "process_mib", "tree_mib", "processes")
        )
        rows.append(
            f"| {SERVERS[server].title} | {results.versions[server]} | {seconds:.2f} s | {process:.0f} MiB "
            f"| {tree:.0f} MiB | {processes:.0f} |"
        )
    return "### Start and memory\n\n" + "\n".join(rows) + "\n"


def _all_rounds(results: Results) -> list[list[Burst]]:
    return [bursts for by_server in results.bursts.values() for bursts in by_server.values()]


def _median(bursts: list[Burst], figure: str) -> float:
    figures: list[float] = [getattr(burst, figure) for burst in bursts]
    return median(figures)


def _as_text(ratio: Ratio) -> str:
    return f"{ratio.median:.2f} ({ratio.least:.2f} to {ratio.most:.2f})"


if __name__ == "__main__":
    publish_results(Results.load(FULL))
