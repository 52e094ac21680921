"""`python -m benchmarks.stages`: what each stage of a request costs inside the process, with no network at all.

The stages are timed by the project's own functions, one by one, and so is the whole compiled route: what it takes
beyond their sum is the joining of them. Transport, HTTP parsing and the writing of the head come on top.
"""

import argparse
import sys
from collections.abc import Callable
from statistics import median
from time import perf_counter
from timeit import Timer

from pydantic import TypeAdapter

from benchmarks.catalogue import SCENARIOS, SERVERS
from benchmarks.page import publish
from weighbridge.adapters.http import prediction
from weighbridge.adapters.http.fast_route import FastRoute, check_is_json, joined
from weighbridge.adapters.http.prediction import BatchInput, BatchOutput, ModelInput, ModelOutput
from weighbridge.adapters.http.rows import read_batch
from weighbridge.container import Container
from weighbridge.entrypoints.asgi import create_app
from weighbridge.settings import Settings

_REPEATS = 15
_DEADLINE_SECONDS = 30.0
_STAGES = ("read", "validate", "score", "render", "telemetry")
_WHOLE = "whole compiled route"

_HEADERS = [
    (b"host", b"127.0.0.1:8000"),
    (b"content-type", b"application/json"),
    (b"content-length", b"38"),
]

Stages = dict[str, Callable[[], object]]


def main() -> None:
    """Print the table of stages, and publish it if that was asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stages")
    parser.add_argument("--publish", action="store_true", help="write docs/benchmarks.md")
    publishing = parser.parse_args().publish
    container = Container(settings=Settings())
    routes = {"single": _single_row(container), "batch": _batch(container)}
    table = _as_markdown({name: _microseconds(stages) for name, stages in routes.items()})
    container.shutdown_resources()
    sys.stdout.write(table)
    if publishing:
        publish("stages", table)


def _single_row(container: Container) -> Stages:
    body, use_case = _body("single"), container.predict()
    value = ModelInput.__pydantic_validator__.validate_json(body)
    score = use_case(value.features, value.scale_factor)
    to_json = TypeAdapter(ModelOutput).serializer.to_json
    return {
        "validate": lambda: ModelInput.__pydantic_validator__.validate_json(body),
        "score": lambda: use_case(value.features, value.scale_factor),
        "render": lambda: to_json(ModelOutput(score)),
        **_of_every_route(container, "/predict", body),
    }


def _batch(container: Container) -> Stages:
    body, use_case = _body("batch"), container.predict()
    value = BatchInput.read(dict(_HEADERS), body)
    scores = use_case.batch(value.instances, value.scale_factor)
    return {
        "validate": lambda: read_batch(body),
        "score": lambda: use_case.batch(value.instances, value.scale_factor),
        "render": lambda: BatchOutput(scores).write({}),
        **_of_every_route(container, "/predict/batch", body),
    }


def _of_every_route(container: Container, path: str, body: bytes) -> Stages:
    telemetry, headers = container.telemetry(), joined(_HEADERS)
    metrics = telemetry.metrics.route(path)
    [route] = [route for route in prediction.router.routes if isinstance(route, FastRoute) and route.path == path]
    call = route.compile(create_app(container))

    def observe() -> None:
        telemetry.finished(metrics, telemetry.request_id(None), b"POST", path.encode(), (200, b"", b""), 0.001)

    return {
        "read": lambda: check_is_json(joined(_HEADERS)),
        "telemetry": observe,
        _WHOLE: lambda: call(headers, body, "1", perf_counter() + _DEADLINE_SECONDS),
    }


def _body(scenario: str) -> bytes:
    return SERVERS["weighbridge"].requests[scenario].encode(SCENARIOS[scenario].rows)


def _microseconds(stages: Stages) -> dict[str, float]:
    """Median time of one call of each stage."""
    figures = {}
    for name, stage in stages.items():
        timer = Timer(stage)
        number, _ = timer.autorange()
        number = max(1, number // 10)  # autorange aims at 0.2 s; many short repeats show the median better
        figures[name] = median(timer.repeat(_REPEATS, number)) / number * 1e6
    return figures


def _as_markdown(figures: dict[str, dict[str, float]]) -> str:
    names = list(figures)
    rows = [["stage", *(SCENARIOS[name].title for name in names)], ["---"] * (len(names) + 1)]
    rows += [[stage, *(f"{figures[name][stage]:,.2f} us" for name in names)] for stage in (*_STAGES, _WHOLE)]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


if __name__ == "__main__":
    main()
