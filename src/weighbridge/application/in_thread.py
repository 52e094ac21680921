"""A model that is called in the process that was asked, beside its event loop."""

import asyncio
import weakref
from concurrent.futures import Future
from queue import SimpleQueue
from threading import Thread

from weighbridge.application.ports import Model
from weighbridge.domain.batch import Batch, Outputs, Rows
from weighbridge.domain.signature import Signature

_Calls = SimpleQueue[tuple[Batch, "Future[Outputs]"] | None]


class InThread:
    """Calls a model in a thread of its own, one call at a time.

    Where no process can be started that would call it. The thread ends with this object. It is no executor's: those are
    waited for when the interpreter ends, even in a call that never does.
    """

    def __init__(self, model: Model) -> None:
        self.signature: Signature = model.signature
        self._calls: _Calls = SimpleQueue()
        Thread(target=_call_all, args=(model, self._calls), daemon=True).start()
        weakref.finalize(self, self._calls.put, None)

    def ask(self, rows: Rows) -> "asyncio.Future[Outputs]":
        """The outputs, once they are there; to cancel the future takes the rows back, unless they are being scored.

        The future raises whatever the model does.
        """
        future: Future[Outputs] = Future()
        self._calls.put((Batch(self.signature, rows), future))
        return asyncio.wrap_future(future)


def _call_all(model: Model, calls: _Calls) -> None:
    while (call := calls.get()) is not None:
        _call(model, *call)
        del call  # until the next one comes nobody needs the rows


def _call(model: Model, batch: Batch, future: "Future[Outputs]") -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        outputs = model.predict(batch)
    except BaseException as exc:  # noqa: BLE001  # the thread has others to call for
        future.set_exception(_passable(exc))
    else:
        future.set_result(outputs)


def _passable(exc: BaseException) -> Exception:
    """An error that can be raised on an event loop: by SystemExit it would end, and StopIteration a future refuses."""
    if isinstance(exc, Exception) and not isinstance(exc, StopIteration):
        return exc
    error = RuntimeError(f"the model raised {type(exc).__name__}")
    error.__cause__ = exc
    return error
