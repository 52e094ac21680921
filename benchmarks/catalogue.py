"""What is measured: the scenarios, the servers, and what each server is asked."""

import json
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from random import Random

from benchmarks.servers import WEIGHTS

Rows = list[list[float]]

_ONE_ROW: Rows = [[1.5, 2.25, -0.75, 4.0]]


def _random_rows(count: int, digits: int = 17) -> Rows:
    """Doubles with so many digits behind the point, or all that they have; the same in every run."""
    random = Random(0)
    return [[round(random.gauss(0, 1), digits) for _ in WEIGHTS] for _ in range(count)]


@dataclass(frozen=True, slots=True)
class Scenario:
    """A load: the rows that every request carries, in which form, and the server against which others are compared."""

    name: str
    form: str
    title: str
    rows: Rows
    baseline: str
    expected: list[float]
    """The right predictions."""
    tolerance: float = 1e-9
    """By which predictions may differ from them, relative to their size."""


def _linear(name: str, form: str, title: str, rows: Rows, baseline: str) -> Scenario:
    expected = [sum(feature * weight for feature, weight in zip(row, WEIGHTS, strict=True)) for row in rows]
    return Scenario(name, form, title, rows, baseline, expected)


SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        _linear("single", "single", "One row as JSON", _ONE_ROW, baseline="fastapi"),
        _linear("batch", "batch", "1,000 rows of 4 as JSON, 4 digits", _random_rows(1000, 4), baseline="fastapi"),
        _linear("digits", "batch", "1,000 rows of 4 as JSON, all digits", _random_rows(1000), baseline="fastapi"),
        _linear("binary", "binary", "1,000 rows of 4 as little-endian float64", _random_rows(1000), baseline="dot"),
    )
}


@dataclass(frozen=True, slots=True)
class Request:
    """What a server is asked, and how its reply is read."""

    path: str
    encode: Callable[[Rows], bytes]
    decode: Callable[[bytes], list[float]]
    headers: Mapping[str, str] = field(default_factory=lambda: {"Content-Type": "application/json"})


@dataclass(frozen=True, slots=True)
class Server:
    """A server: how it is started, and its request in each form of load that it takes part in.

    The command's first word is looked up in the environment: `.venv` for the project's own, which is `weighbridge`, and
    otherwise a folder under .bench/environments, or the path of one elsewhere. `{port}`, `{port_2}` and `{port_3}` in
    the command and in the variables become free ports.
    """

    name: str
    title: str
    environment: str
    package: str
    command: tuple[str, ...]
    requests: Mapping[str, Request]
    variables: Mapping[str, str] = field(default_factory=dict)
    optional: bool = False


def compact(value: object) -> bytes:
    """JSON without spaces."""
    return json.dumps(value, separators=(",", ":")).encode()


def _doubles(body: bytes) -> list[float]:
    return [value for (value,) in struct.iter_unpack("<d", body)]


_ROW = Request(
    "/predict",
    encode=lambda rows: compact({"features": rows[0]}),
    decode=lambda body: [json.loads(body)["prediction"]],
)
_ROWS = Request(
    "/predict/batch",
    encode=lambda rows: compact({"instances": rows}),
    decode=lambda body: json.loads(body)["predictions"],
)
_BINARY = Request(
    "/predict/batch",
    encode=lambda rows: b"".join(struct.pack(f"<{len(row)}d", *row) for row in rows),
    decode=_doubles,
    headers={"Content-Type": "application/octet-stream", "Accept": "application/octet-stream"},
)
_V2 = Request(
    "/v2/models/linear/infer",
    encode=lambda rows: compact(
        {
            "inputs": [
                {
                    "name": "rows",
                    "shape": [len(rows), len(WEIGHTS)],
                    "datatype": "FP64",
                    "data": [value for row in rows for value in row],
                }
            ]
        }
    ),
    decode=lambda body: json.loads(body)["outputs"][0]["data"],
)


def uvicorn(module: str) -> tuple[str, ...]:
    """The command that has uvicorn serve the application of a module of `servers`."""
    options = ("--port", "{port}", "--no-access-log", "--log-level", "warning")
    return ("python", "-m", "uvicorn", f"benchmarks.servers.{module}:app", *options)


SERVERS = {
    server.name: server
    for server in (
        Server(
            "weighbridge",
            "Weighbridge",
            environment="weighbridge",
            package="weighbridge",
            command=("weighbridge", "serve"),
            requests={"single": _ROW, "batch": _ROWS, "binary": _BINARY},
            variables={
                "WEIGHBRIDGE_PORT": "{port}",
                "WEIGHBRIDGE_ADMIN_PORT": "{port_2}",
                "WEIGHBRIDGE_LOG_FORMAT": "json",
            },
        ),
        Server(
            "fastapi",
            "bare FastAPI with numpy",
            environment="fastapi",
            package="fastapi",
            command=uvicorn("fastapi_app"),
            requests={"single": _ROW, "batch": _ROWS},
        ),
        Server(
            "constant",
            "uvicorn, constant reply",
            environment="fastapi",
            package="uvicorn",
            command=uvicorn("constant_app"),
            requests={"single": _ROW},
        ),
        Server(
            "dot",
            "uvicorn, receive and np.dot",
            environment="fastapi",
            package="uvicorn",
            command=uvicorn("dot_app"),
            requests={"binary": _BINARY},
        ),
        Server(
            "bentoml",
            "BentoML",
            environment="bentoml",
            package="bentoml",
            command=(
                *("bentoml", "serve", "benchmarks.servers.bentoml_service:Linear"),
                *("--host", "127.0.0.1", "--port", "{port}"),
            ),
            requests={
                "single": Request(_ROW.path, _ROW.encode, decode=lambda body: [json.loads(body)]),
                "batch": Request(_ROWS.path, _ROWS.encode, decode=json.loads),
            },
            variables={"BENTOML_HOME": ".bench/bentoml", "BENTOML_DO_NOT_TRACK": "true"},
        ),
        Server(
            "litserve",
            "LitServe",
            environment="litserve",
            package="litserve",
            command=("python", "-m", "benchmarks.servers.litserve_server", "{port}"),
            requests=dict.fromkeys(("single", "batch"), Request("/predict", _ROWS.encode, _ROWS.decode)),
        ),
        Server(
            "mlserver",
            "MLServer",
            environment="mlserver",
            package="mlserver",
            command=("mlserver", "start", "benchmarks/servers"),
            requests={"single": _V2, "batch": _V2},
            variables={
                "MLSERVER_HOST": "127.0.0.1",
                "MLSERVER_HTTP_PORT": "{port}",
                "MLSERVER_GRPC_PORT": "{port_2}",
                "MLSERVER_METRICS_PORT": "{port_3}",
                "MLSERVER_DEBUG": "false",
                "MLSERVER_PARALLEL_WORKERS": "0",
                "MLSERVER_MODEL_NAME": "linear",
                "MLSERVER_MODEL_IMPLEMENTATION": "benchmarks.servers.mlserver_model.Linear",
            },
        ),
        Server(
            "kserve",
            "KServe",
            environment="kserve",
            package="kserve",
            command=("python", "-m", "benchmarks.servers.kserve_server", "{port}"),
            requests={"single": _V2, "batch": _V2},
        ),
        Server(
            "ray",
            "Ray Serve",
            environment="ray",
            package="ray",
            command=("python", "-m", "benchmarks.servers.ray_app", "{port}"),
            requests={"single": _ROW, "batch": _ROWS},
            variables={"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"},
            optional=True,
        ),
    )
}
