"""The process that runners of one runtime are forked from: it has imported the library, and holds nothing else.

A fork takes milliseconds, and shares the library's memory with its parent; to start an interpreter and to import a
library takes seconds. It must have one thread when it forks, so it calls nothing of the library.
"""

import gc
import os
import select
import socket
import sys
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import NoReturn

from weighbridge.adapters.system.lending import borrowed
from weighbridge.adapters.system.limits import confine
from weighbridge.adapters.system.priority import wake_at_once
from weighbridge.adapters.system.processes import bury, end_with, leave_signals_to_parent, watch
from weighbridge.adapters.system.sandbox import Sandbox
from weighbridge.domain.errors import ModelRefused
from weighbridge.server.channel import Channel, Word
from weighbridge.server.runner.opening import open_version
from weighbridge.server.runner.orders import Order
from weighbridge.server.runner.out_of_memory import is_of_memory
from weighbridge.server.runner.runner import OutOfMemory, Runner
from weighbridge.server.runner.vitals import SharedVitals
from weighbridge.settings import Settings

_LONGEST_REASON = 4096  # characters
_MOST_DESCRIPTORS = 256  # of a runner, and one for each worker
_LIBRARIES = {"sklearn": ("pandas",)}


class _Nursery:
    """Forks a runner whenever that is asked for, and tells of its end."""

    def __init__(self, channel: Channel, settings: Settings) -> None:
        self._channel = channel
        self._settings = settings
        self._runners: dict[int, tuple[int, str]] = {}
        self._looks = select.poll()
        self._looks.register(channel.fileno(), select.POLLIN)

    def run(self) -> None:
        """Go on for as long as the other end is there."""
        self._channel.send(Word.READY)
        with suppress(EOFError):
            while True:
                for descriptor, _ in self._looks.poll():
                    if descriptor in self._runners:
                        self._end(descriptor)
                with suppress(BlockingIOError):
                    while True:
                        _, number, descriptors = self._channel.receive()
                        self._fork(number, descriptors)

    def _fork(self, number: str, descriptors: list[int]) -> None:
        parent = os.getpid()
        try:
            pid = os.fork()
        except OSError as exc:  # the limit on processes, say
            for descriptor in descriptors[-1:]:
                os.write(descriptor, f"OSError: {exc}\n".encode())
            _close(descriptors)
            self._channel.send(Word.ENDED, f"{number} 1")
            return
        if not pid:
            self._channel.close()
            _close(self._runners)
            _be_runner(parent, self._settings, descriptors)
        pidfd = watch(pid)
        _close(descriptors)
        self._runners[pidfd] = pid, number
        self._looks.register(pidfd, select.POLLIN)
        self._channel.send(Word.FORKED, f"{number} {pid}", [pidfd])

    def _end(self, pidfd: int) -> None:
        """See a runner off that has ended, with its group."""
        self._looks.unregister(pidfd)
        pid, number = self._runners.pop(pidfd)
        os.close(pidfd)
        self._channel.send(Word.ENDED, f"{number} {bury(pid)}")


def _close(descriptors: Iterable[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def _be_runner(parent: int, settings: Settings, descriptors: list[int]) -> NoReturn:
    """Open a version, say so, and answer. Never returns: what is on the stack is the parent's."""
    code = 1
    try:
        control, order, vitals, errors = descriptors
        os.setpgid(0, 0)
        end_with(parent)
        os.dup2(errors, 2)
        os.close(errors)
        code = _answer(Channel(socket.socket(fileno=control)), borrowed(Order, order), SharedVitals(vitals), settings)
        os.close(order)
    except BaseException as exc:  # noqa: BLE001  # there is nobody above
        with suppress(Exception):
            sys.stderr.write(f"{type(exc).__name__}: {exc}\n")
            sys.stderr.flush()
    finally:
        os._exit(code)


def _answer(control: Channel, order: Order, shared: SharedVitals, settings: Settings) -> int:
    confine(order.memory, _MOST_DESCRIPTORS + 4 * settings.workers)
    try:
        _enter_sandbox(order, settings)
        model, report = open_version(order, settings)
    except ModelRefused as exc:
        control.send(Word.FAILED, f"{'memory' if is_of_memory(exc) else 'refused'} {str(exc)[:_LONGEST_REASON]}")
        return 0
    control.send(Word.OPENED, report.text())
    with Path(os.devnull).open("wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)  # where errors went is memory, which a model could fill from now on
    runner = Runner(
        model,
        control,
        shared.vitals,
        shares=report.golden > 1,
        max_batch_rows=order.max_batch_rows,
        repeat=order.repeat,
    )
    try:
        runner.run()
    except (OutOfMemory, MemoryError) as exc:
        control.send(Word.FAILED, f"memory {str(exc)[-_LONGEST_REASON:]}")
    return 0


def _enter_sandbox(order: Order, settings: Settings) -> None:
    """Keep only the rights of the order, and to read the version. Raises ModelRefused."""
    if order.scratch is not None:
        os.environ.update(HOME=order.scratch, TMPDIR=order.scratch)
        tempfile.tempdir = None  # it is looked for once
    if settings.sandbox == "off":
        return
    path, sandbox = f"models/{order.name}/{order.version}", Sandbox.offered()
    if settings.sandbox == "require" and sandbox.lacking:
        raise ModelRefused(
            f"{path}: WEIGHBRIDGE_SANDBOX requires {' and '.join(sandbox.lacking)}, which this machine does not have"
        )
    version = Path(settings.models or "").resolve() / order.name / order.version
    rights = order.rights
    read = (*rights.read, *([str(version)] if version.is_dir() else ()))  # what is wrong with it, the loader says
    write = rights.write if order.scratch is None else (*rights.write, order.scratch)
    try:
        sandbox.enter(replace(order.rights, read=read, write=write))
    except OSError as exc:
        raise ModelRefused(f"{path}: its rights cannot be restricted: {exc.strerror}: {exc.filename}") from exc


def main() -> None:
    """Be the nursery whose channel is the descriptor that the command line names."""
    leave_signals_to_parent()
    wake_at_once()
    end_with(int(sys.argv[2]))
    channel = Channel(socket.socket(fileno=int(sys.argv[1])))
    _, text, _ = channel.receive()  # it was sent before this process began
    runtime, _, snapshot = text.partition(" ")
    settings = Settings.restore(snapshot)
    with suppress(ImportError):  # the runner says which package is missing
        for module in (f"weighbridge.adapters.runtimes.{runtime}", *_LIBRARIES.get(runtime, ())):
            import_module(module)
    Sandbox.offered()  # imports what is needed of it, too
    gc.collect()
    gc.freeze()  # so that the collector writes to no page that runners share
    _Nursery(channel, settings).run()
