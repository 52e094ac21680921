"""The models of one process as HTTP has them: opened in any thread, and swapped in between two requests."""

import asyncio
import mmap
import os
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import orjson
from fastapi import FastAPI

from weighbridge.adapters.http.fast_route import CompiledRoute
from weighbridge.adapters.http.model_call import steps
from weighbridge.adapters.http.model_description import LIVE, VERSIONED, describe_model
from weighbridge.adapters.http.openapi import Described, describe
from weighbridge.adapters.http.signature_types import SignatureTypes
from weighbridge.adapters.manifest import MANIFEST, About, Manifest
from weighbridge.adapters.metrics import SERIES_KEPT_SECONDS, ModelLabel
from weighbridge.adapters.repository import Repository
from weighbridge.adapters.runners.client import RunnerClient, RunnerClients
from weighbridge.adapters.runners.terms import Board, Placed, Supervision
from weighbridge.adapters.telemetry import RequestTelemetry
from weighbridge.application.admission import ServiceTime
from weighbridge.application.catalogue import Entries, ModelEntry, VersionEntry, VersionState
from weighbridge.application.in_thread import InThread
from weighbridge.application.inline import Inline
from weighbridge.application.live import LiveModels, Served
from weighbridge.application.ports import ModelLoader, Scorer
from weighbridge.domain.errors import ModelRefused, VersionNotFound, VersionNotLive
from weighbridge.domain.signature import Signature


@dataclass(frozen=True, slots=True)
class Opened:
    """A version of a model that can answer requests: `routes` by the templates of their paths.

    It is freed with the last request that holds it: nothing of it is in a cycle, which only the collector would break.
    """

    served: Served
    routes: Mapping[str, CompiledRoute]
    described: Described
    about: About
    client: RunnerClient | None = None

    @property
    def label(self) -> ModelLabel:
        """By what its requests are counted."""
        return ModelLabel(self.served.name, self.served.version)

    def path(self, template: str) -> str:
        """One of its paths."""
        return template.format(name=self.served.name, version=self.served.version)


class ModelHost:
    """Opens versions of models and makes them live; all but `open` is for the event loop alone."""

    def __init__(
        self,
        live: LiveModels,
        telemetry: RequestTelemetry,
        repository: Repository,
        loader: ModelLoader,
        clients: RunnerClients,
        *,
        max_rows: int,
    ) -> None:
        self._served = live
        self._telemetry = telemetry
        self._repository = repository
        self._loader = loader
        self._max_rows = max_rows
        self.clients = clients
        self._opened: Mapping[str, Opened] = {}
        self._document: bytes | None = None
        self._told: Entries = {}
        self._ended: dict[ModelLabel, asyncio.TimerHandle] = {}
        self.on_install: Callable[[Opened], None] = lambda _: None

    @property
    def live(self) -> dict[str, str]:
        """The versions that answer requests, by the names of their models."""
        return {name: served.version for name, served in sorted(self._served.live.items())}

    def open(self, name: str, placed: Placed) -> Opened:
        """Make ready to answer for a version: load it, or have its runners asked; in any thread.

        Raises ModelRefused.
        """
        version, label = placed.version, ModelLabel(name, placed.version)
        manifest: Manifest | None
        waits = self._telemetry.metrics.queue_wait(label)
        client = None
        if placed.terms is None:
            manifest = self._manifest(name, version)
            model = self._loader.load(name, version)
            scorer: Scorer = InThread(model) if placed.in_thread else Inline(model, placed.slice_rows)
        else:
            manifest = Manifest.read(placed.manifest.encode(), f"models/{name}/{version}/{MANIFEST}")
            scorer = client = self.clients.open(placed.terms, manifest.signature(), waits.observe)
        served = Served(name, version, scorer, max_rows=self._max_rows)
        types = SignatureTypes(name, version, served.signature)
        done = steps(served, types, None if client is None else client.admit)
        service_time = ServiceTime()
        routes = {
            template: CompiledRoute(
                done.compiled(template, label, self._telemetry),
                self._telemetry.metrics.route(template, label),
                label,
                waits,
                is_remote=client is not None,
                service_time=service_time,
            )
            for template in (LIVE, VERSIONED)
        }
        about = About() if manifest is None else About.of(manifest)
        return Opened(served, routes, describe_model(name, version, served.signature, manifest), about, client)

    def _manifest(self, name: str, version: str) -> Manifest | None:
        """That of a version, which the embedded model does not have."""
        try:
            return self._repository.manifest(name, version)
        except ModelRefused:
            return None

    def install(self, opened: Opened) -> None:
        """Have a version answer all requests that begin from now on."""
        former = self._opened.get(opened.served.name)
        self._served.install(opened.served)
        self._opened = {**self._opened, opened.served.name: opened}
        self._document = None
        self.on_install(opened)
        if opened.label in self._ended:  # it is live again
            self._ended.pop(opened.label).cancel()
        if former is not None:
            self.drop(former)
            if former.label != opened.label:
                loop = asyncio.get_running_loop()
                self._ended[former.label] = loop.call_later(SERIES_KEPT_SECONDS, self._forget, former.label)

    def _forget(self, label: ModelLabel) -> None:
        """Give up the series of a version that has ended some time ago."""
        del self._ended[label]
        self._telemetry.metrics.forget(label)

    def drop(self, opened: Opened) -> None:
        """Ask the runners of a version no more, once what they have in hand is answered."""
        if opened.client is not None:
            self.clients.retire(opened.client)

    def connect(self, number: int, end: socket.socket, instance: int, board: int, slot: int) -> None:
        """Ask a runner of an opening, at this end, and count in a slot of the board, a descriptor."""
        memory = mmap.mmap(board, 0)
        os.close(board)
        self.clients.connect(number, end, instance, Board(memory, slot))

    def put_out(self, number: int, reason: str) -> None:
        """The version of an opening is out of service."""
        self.clients.unavailable(number, reason)

    def supervise(self, broken: Supervision) -> None:
        """Who is told of runners that must go."""
        self.clients.supervision = broken

    def tell(self, entries: Entries) -> None:
        """What is known of all models from now on."""
        self._told = entries

    @property
    def entries(self) -> Entries:
        """What is known of all models: of one of which nothing was told, that its version is live."""
        untold = {
            name: ModelEntry(name, version, None, (VersionEntry(version, VersionState.LIVE),))
            for name, version in self.live.items()
        }
        return {**untold, **self._told}

    def find(self, name: str, version: str | None = None) -> Opened:
        """The version that is live. Raises ModelNotFound; VersionNotFound, VersionNotLive if another was asked for."""
        try:
            served = self._served.find(name, version)
        except VersionNotFound as exc:
            entry = self.entries.get(name)
            if entry is not None and version in {known.version for known in entry.versions}:
                raise VersionNotLive(live=self._served.live[name].version) from exc
            raise
        return self._opened[served.name]

    def signature(self, name: str) -> Signature | None:
        """What the live version of a model takes and gives; None where no version is live."""
        opened = self._opened.get(name)
        return None if opened is None else opened.served.signature

    def about(self, name: str) -> About:
        """What people are told of the live version of a model."""
        opened = self._opened.get(name)
        return About() if opened is None else opened.about

    def document(self, app: FastAPI) -> bytes:
        """The OpenAPI document of `app` and of all that is live; it is made once for each change."""
        if self._document is None:
            self._document = orjson.dumps(describe(app, [opened.described for opened in self._opened.values()]))
        return self._document
