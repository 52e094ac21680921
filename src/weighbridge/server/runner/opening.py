"""What a runner does first: opens a version, at low priority, and measures what a call of it takes."""

import os
import threading
from collections.abc import Callable
from contextlib import nullcontext, suppress
from importlib import import_module
from time import monotonic
from typing import Any, TypeVar

from weighbridge.adapters.loading import Loader
from weighbridge.adapters.manifest import MANIFEST, Manifest, row_of
from weighbridge.adapters.repository import Repository
from weighbridge.adapters.runtimes import Trust
from weighbridge.adapters.system.priority import giving_way
from weighbridge.application.ports import Model
from weighbridge.domain.batch import Batch
from weighbridge.server.runner.orders import Order, Report
from weighbridge.settings import Settings

_REPEATS = 5
_BUDGET_SECONDS = 0.25
_MANY_ROWS = 64

ResultT = TypeVar("ResultT")


def open_version(order: Order, settings: Settings) -> tuple[Model, Report]:
    """A version, once it is warm and its golden rows came out, and what it takes. Raises ModelRefused.

    In a thread, since of Linux' threads each has a priority of its own, which it can lower but not raise again.
    """
    manifest = Manifest.read(order.manifest.encode(), f"models/{order.name}/{order.version}/{MANIFEST}")
    trust = Trust(settings.trusted_types, settings.python_models, order.threads)
    loader = Loader(Repository(settings.models, settings.load_memory_bytes), trust)

    def opened() -> tuple[Model, Report]:
        # Threads that a library starts have the priority of the one that does, for as long as they live.
        with giving_way() if order.threads == 1 else nullcontext():
            compute_with(order.threads)
            model = loader.load(order.name, order.version, manifest)
            return model, _measured(model, manifest)

    compute_with(order.threads)  # for OpenMP each thread has a number of its own
    return _in_thread(opened)


def compute_with(threads: int) -> None:
    """Have the libraries compute with so many threads: those that are imported already, and those that are yet to be.

    They were imported with one, so that the nursery has no other thread.
    """
    os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(threads)))
    with suppress(ImportError):  # it comes with scikit-learn
        import_module("threadpoolctl").threadpool_limits(threads)


def _measured(model: Model, manifest: Manifest) -> Report:
    """What calls of the golden rows take: the least of a few, for what comes in between takes time of its own."""
    rows = [row_of(model.signature, golden.input) for golden in manifest.golden]
    if not rows:
        return Report(0, 0.0, 0.0)
    many = (rows * _MANY_ROWS)[:_MANY_ROWS]
    one = _least(lambda: model.predict(Batch(model.signature, rows[:1])))
    if one > _BUDGET_SECONDS:
        many = rows
    all_of_them = _least(lambda: model.predict(Batch(model.signature, many)))
    row = max(0.0, (all_of_them - one) / (len(many) - 1)) if len(many) > 1 else 0.0
    return Report(len(rows), max(0.0, one - row), row)


def _least(call: Callable[[], Any]) -> float:
    """Seconds of the quickest of some calls."""
    least, end = float("inf"), monotonic() + _BUDGET_SECONDS
    for _ in range(_REPEATS):
        began = monotonic()
        call()
        now = monotonic()
        least = min(least, now - began)
        if now > end:
            break
    return least


def _in_thread(function: Callable[[], ResultT]) -> ResultT:
    """What a function gives, or raises, in a thread of its own."""
    results: list[ResultT] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(function())
        except BaseException as exc:  # noqa: BLE001  # it is raised where it is waited for
            errors.append(exc)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    for error in errors:
        raise error
    return results[0]
