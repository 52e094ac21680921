"""Trained models that need no library, here or in runners, and those who open them."""

import asyncio
import socket
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from weighbridge.adapters.manifest import ColumnSpec, Manifest
from weighbridge.adapters.runners.terms import Board, Placed, Supervision, Terms
from weighbridge.domain.batch import DTYPES, Batch, Outputs, Rows
from weighbridge.domain.errors import ModelRefused
from weighbridge.domain.signature import Column, Kind, Signature

AGE = Column(name="age", kind=Kind.INT, minimum=18, maximum=90)
MONTH = Column(name="signup_month", kind=Kind.STRING, categories=("June", "July"))
SCORE = Column(name="prediction", kind=Kind.FLOAT)
CHURN = Signature((AGE, MONTH), (SCORE,))


def outputs(signature: Signature, *columns: list[Any]) -> Outputs:
    """Columns as a model gives them."""
    return tuple(
        np.array(values, DTYPES[column.kind]) for column, values in zip(signature.outputs, columns, strict=True)
    )


class FakeModel:
    """A Model that does what it is told, and remembers its batches."""

    def __init__(self, signature: Signature, predict: Callable[[Batch], Outputs]) -> None:
        self.signature = signature
        self.seen: list[Batch] = []
        self._predict = predict

    def predict(self, batch: Batch) -> Outputs:
        self.seen.append(batch)
        return self._predict(batch)


def constant(signature: Signature, *row: Any) -> FakeModel:
    """A model that says the same of every row."""
    return FakeModel(signature, lambda batch: outputs(signature, *([value] * len(batch) for value in row)))


class FakeLoader:
    """A ModelLoader of these models, by name and version."""

    def __init__(self, models: Mapping[tuple[str, str], FakeModel]) -> None:
        self.models = dict(models)

    def load(self, name: str, version: str, _read: Any = None) -> FakeModel:
        """Load one version. Raises ModelRefused."""
        if (name, version) not in self.models:
            raise ModelRefused(f"models/{name}/{version}: expected a directory, got nothing")
        return self.models[name, version]


class FakeClient:
    """A Scorer that answers later, when a test says so; it takes the place of a RunnerClient."""

    def __init__(self, signature: Signature = CHURN) -> None:
        self.signature = signature
        self.refusal: Exception | None = None
        self.times_left: list[float] = []
        self.asked: list[Rows] = []
        self.futures: list[asyncio.Future[Outputs]] = []
        self.retired = False

    def admit(self, time_left: float) -> None:
        self.times_left.append(time_left)
        if self.refusal is not None:
            raise self.refusal

    def ask(self, rows: Rows) -> asyncio.Future[Outputs]:
        future = asyncio.get_running_loop().create_future()
        self.asked.append(rows)
        self.futures.append(future)
        return future

    def answer(self, place: int, *row: Any) -> None:
        """Give these outputs for every row of a request, by its place among all."""
        rows = self.asked[place]
        self.futures[place].set_result(outputs(self.signature, *([value] * len(rows) for value in row)))

    def fail(self, place: int, error: Exception) -> None:
        """Have a request fail."""
        self.futures[place].set_exception(error)


class FakeClients:
    """The clients of a process, by the numbers of their openings, in the place of RunnerClients."""

    def __init__(self, clients: Mapping[int, FakeClient]) -> None:
        self.supervision: Supervision | None = None
        self.connected: list[tuple[int, int, Board]] = []
        self.out: dict[int, str] = {}
        self._clients = clients

    def open(self, terms: Terms, _signature: Signature, _waited: Callable[[float], None]) -> FakeClient:
        return self._clients[terms.number]

    def connect(self, number: int, end: socket.socket, instance: int, board: Board) -> None:
        end.close()
        self.connected.append((number, instance, board))

    def unavailable(self, number: int, reason: str) -> None:
        self.out[number] = reason

    def retire(self, client: FakeClient) -> None:
        client.retired = True

    async def close(self) -> None:
        """Nothing is left to be ended."""


def in_runners(version: str, number: int, signature: Signature = CHURN) -> Placed:
    """A version that is called in runners, by the number of its opening."""
    manifest = Manifest(
        runtime="sklearn",
        artefact="model.skops",
        sha256="0" * 64,
        inputs=[ColumnSpec.of(column) for column in signature.inputs],
        outputs=[ColumnSpec.of(column) for column in signature.outputs],
    )
    terms = Terms(number, instances=1, max_batch_rows=256, shares=True, call_seconds=0.05, row_seconds=0.0)
    return Placed(version, terms=terms, manifest=manifest.render().decode())
