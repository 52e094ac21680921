"""The process that runners of one runtime are forked from: it has imported the library, and holds nothing else.

A fork takes milliseconds, and shares the library's memory with its parent; to start an interpreter and to import a
library takes seconds. It must have one thread when it forks, so it calls nothing of the library.
"""

import gc
import os
import select
import signal
import socket
import sys
from contextlib import suppress
from importlib import import_module
from typing import NoReturn

from weighbridge.domain.errors import ModelRefused
from weighbridge.server.channel import Channel, Word
from weighbridge.server.runner.confinement import confine, end_with, is_of_memory
from weighbridge.server.runner.opening import open_version
from weighbridge.server.runner.orders import Order
from weighbridge.server.runner.runner import OutOfMemory, Runner
from weighbridge.server.runner.vitals import SharedVitals
from weighbridge.settings import Settings

_LONGEST_REASON = 4096  # characters
_MOST_DESCRIPTORS = 256  # of a runner, and one for each worker
_LIBRARIES = {"sklearn": ("pandas",)}


def nurse(channel: Channel, runtime: str, settings: Settings) -> None:
    """Fork a runner whenever that is asked for, and tell of its end, for as long as the other end is there."""
    with suppress(ImportError):  # the runner says which package is missing
        for module in (f"weighbridge.adapters.runtimes.{runtime}", *_LIBRARIES.get(runtime, ())):
            import_module(module)
    gc.collect()
    gc.freeze()  # so that the collector writes to no page that runners share
    channel.send(Word.READY)
    looks = select.poll()
    looks.register(channel.fileno(), select.POLLIN)
    runners: dict[int, tuple[int, str]] = {}
    while True:
        for descriptor, _ in looks.poll():
            if descriptor in runners:
                looks.unregister(descriptor)
                pid, number = runners.pop(descriptor)
                channel.send(Word.ENDED, f"{number} {_bury(pid)}")
                os.close(descriptor)
        while True:
            try:
                _, number, descriptors = channel.receive()
            except BlockingIOError:
                break
            except EOFError:
                return
            parent = os.getpid()
            pid = os.fork()
            if not pid:
                channel.close()
                for descriptor in runners:
                    os.close(descriptor)
                _be_runner(parent, settings, descriptors)
            pidfd = os.pidfd_open(pid)
            for descriptor in descriptors:
                os.close(descriptor)
            runners[pidfd] = pid, number
            looks.register(pidfd, select.POLLIN)
            channel.send(Word.FORKED, f"{number} {pid}", [pidfd])


def _bury(pid: int) -> int:
    """How a process has ended, whose group ends with it."""
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    with suppress(ProcessLookupError, PermissionError):  # before it is waited for, so that the group is surely its own
        os.killpg(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status)


def _be_runner(parent: int, settings: Settings, descriptors: list[int]) -> NoReturn:
    """Open a version, say so, and answer. Never returns: what is on the stack is the parent's."""
    code = 1
    try:
        control, order, vitals, errors = descriptors
        os.setpgid(0, 0)
        end_with(parent)
        os.dup2(errors, 2)
        os.close(errors)
        code = _answer(Channel(socket.socket(fileno=control)), Order.read(order), SharedVitals(vitals), settings)
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
        model, report = open_version(order, settings)
    except ModelRefused as exc:
        control.send(Word.FAILED, f"{'memory' if is_of_memory(exc) else 'refused'} {str(exc)[:_LONGEST_REASON]}")
        return 0
    control.send(Word.OPENED, report.text())
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
    except OutOfMemory as exc:
        control.send(Word.FAILED, f"memory {str(exc)[-_LONGEST_REASON:]}")
    return 0


def main() -> None:
    """Be the nursery whose channel is the descriptor that the command line names."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):  # a terminal, or systemd, sends them to all processes
        signal.signal(number, signal.SIG_IGN)
    end_with(int(sys.argv[2]))
    channel = Channel(socket.socket(fileno=int(sys.argv[1])))
    _, text, _ = channel.receive()  # it was sent before this process began
    runtime, _, snapshot = text.partition(" ")
    nurse(channel, runtime, Settings.restore(snapshot))
