"""A directory that is crowded: operations on a model beside hundreds of others, some with hostile manifests."""

import shutil
from collections.abc import Iterator
from itertools import cycle, islice
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import monotonic, sleep
from typing import NamedTuple

from benchmarks.results import BenchmarkFailed
from benchmarks.torture.artefacts import FACTORS, hostile_manifests, rollout, write_good
from benchmarks.torture.models import activate
from benchmarks.torture.report import Row
from benchmarks.torture.service import Service, private_mb, serving

_NAME = "scored"
_OTHERS, _HOSTILE = 500, 20
_TIMES = 11
_TWICE = 2
_SETTLED_SECONDS = 3.0  # so that the scan which the watch makes of one activation does not meet the next
_NOTICED_SECONDS = 0.5
_START_SECONDS = 300.0
_OK = 200


class _Found(NamedTuple):
    """Seconds that operations took in a directory, and the supervisor's private memory in MB."""

    start: float
    first: float
    later: list[float]
    changed: float
    memory: float


def crowded() -> Iterator[Row]:
    """Activations of a model alone in its directory, and beside many others."""
    alone, beside = _measured(0, 0), _measured(_OTHERS, _HOSTILE)
    usual = median(alone.later)
    ratios = {
        "the first after the start": beside.first / alone.first,
        f"the median of {_TIMES} more": median(beside.later) / usual,
        "one while hostile manifests that have just changed are read": beside.changed / usual,
    }
    yield Row(
        f"activating a model beside {_HOSTILE} hostile manifests of 1 MB and {_OTHERS} other models",
        f"at most {_TWICE} times the usual time",
        f"{'; '.join(f'{what}: {ratio:.2f} times' for what, ratio in ratios.items())}. Usual are "
        f"{usual * 1000:.0f} ms ({alone.first * 1000:.0f} the first time), beside the others "
        f"{median(beside.later) * 1000:.0f} ms ({beside.first * 1000:.0f}, at most {max(beside.later) * 1000:.0f}, and "
        f"{beside.changed * 1000:.0f} after the change); ready after {alone.start:.1f} s, and {beside.start:.1f}; "
        f"private memory of the supervisor {alone.memory:.1f} MB, and {beside.memory:.1f}",
        ok=max(ratios.values()) <= _TWICE,
    )


def _measured(others: int, hostile: int) -> _Found:
    with TemporaryDirectory() as directory:
        models = Path(directory) / "models"
        for version in FACTORS:
            write_good(models, _NAME, version)
        for number in range(others):
            shutil.copytree(models / _NAME / "1", models / f"other-{number}" / "1")
        texts = islice(cycle(hostile_manifests()), hostile)
        manifests = [_write_hostile(models, number, text) for number, text in enumerate(texts)]
        sleep(_SETTLED_SECONDS)
        began = monotonic()
        watched = {"WEIGHBRIDGE_MODELS_WATCH": "events"}
        with serving(models, "crowded", watched, seconds=_START_SECONDS) as service:
            start = monotonic() - began
            first, *later = [_seconds(service, version) for version in islice(cycle(FACTORS), 1 + _TIMES)]
            sleep(_SETTLED_SECONDS)
            memory = private_mb(service.pid)
            for manifest in manifests:
                manifest.write_bytes(manifest.read_bytes())
            return _Found(start, first, later, _seconds(service, "1", _NOTICED_SECONDS), memory)


def _write_hostile(models: Path, number: int, text: bytes) -> Path:
    """The manifest of a version that is not live, of a model with another one that is."""
    model = models / f"hostile-{number}"
    shutil.copytree(models / _NAME / "1", model / "1")
    rollout(models, model.name, 'live = "1"\n')
    manifest = model / "2" / "model.toml"
    manifest.parent.mkdir()
    manifest.write_bytes(text)
    return manifest


def _seconds(service: Service, version: str, after: float = _SETTLED_SECONDS) -> float:
    """How long it takes, after a while, until a version is live. Raises BenchmarkFailed."""
    sleep(after)
    began = monotonic()
    status, reason = activate(service, _NAME, version)
    if status != _OK:
        raise BenchmarkFailed(f"expected version {version} to be live, got {status} {reason}")
    return monotonic() - began
