"""The models of an application, as whoever runs it sees them."""

import os
import socket
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

from fastapi import FastAPI

from tests.waiting import DEADLINE
from weighbridge.adapters.runners.terms import Placed, Supervision
from weighbridge.application.catalogue import Entries
from weighbridge.application.readiness import Readiness
from weighbridge.domain.errors import ModelRefused


class Asked(NamedTuple):
    """A runner that is asked: what it says of itself, and what is on the board."""

    opening: int
    instance: int
    slot: int
    runner: bytes
    board: bytes


class FakeModels:
    """Models of an application, of which version 2 of m cannot be opened and version 3 takes until it is told."""

    def __init__(self) -> None:
        self.installed: list[str] = []
        self.dropped: list[str] = []
        self.told: list[Entries] = []
        self.placed: list[Placed] = []
        self.connected: list[Asked] = []
        self.out: list[tuple[int, str]] = []
        self.opening, self.go_on = threading.Event(), threading.Event()

    def open(self, name: str, placed: Placed) -> str:
        self.placed.append(placed)
        if placed.version == "2":
            raise ModelRefused(f"models/{name}/{placed.version}: it is broken")
        if placed.version == "3":
            self.opening.set()
            assert self.go_on.wait(DEADLINE)
        return f"{name} {placed.version}"

    def install(self, opened: str) -> None:
        self.installed.append(opened)

    def drop(self, opened: str) -> None:
        self.dropped.append(opened)

    def connect(self, number: int, end: socket.socket, instance: int, board: int, slot: int) -> None:
        with end:
            self.connected.append(Asked(number, instance, slot, end.recv(100), os.pread(board, 100, 0)))
        os.close(board)

    def put_out(self, number: int, reason: str) -> None:
        self.out.append((number, reason))

    def supervise(self, broken: Supervision) -> None:
        self.broken = broken

    def tell(self, entries: Entries) -> None:
        self.told.append(entries)


@dataclass
class _Lane:
    """As much of a lane as a service that ends asks for."""

    readiness: Readiness


def application(models: FakeModels) -> FastAPI:
    """An application that has these models, and answers nothing."""

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[dict[str, Any]]:
        yield {"models": models, "lane": _Lane(Readiness())}

    return FastAPI(lifespan=lifespan)
