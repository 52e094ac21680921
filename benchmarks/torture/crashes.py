"""Models that raise, crash, hang, or turn against the service: what becomes of them, and of the others."""

import json
from array import array
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic, sleep

from benchmarks.torture.artefacts import WIDTH, write_good, write_heavy
from benchmarks.torture.clients import Crowd, Load
from benchmarks.torture.exchanges import Ask, Journal, ask_of
from benchmarks.torture.heavy import TRACE, Fault
from benchmarks.torture.report import Row
from benchmarks.torture.service import Service, serving

_FAULTY, _STEADY, _INLINE = "faulty", "steady", "inline"
_ROW = [1.0] * WIDTH
_GOOD = ask_of(_FAULTY, _ROW)
_TOGETHER = 64
_BUSY_MS = 50
_DEATHS = 5
_BACK_SECONDS = 2.0
_CALL_TIMEOUT = 2.0
_DEADLINE_MS = 1000
_SILENCE_SECONDS = 0.5
_OK, _FAILED, _OUT, _TOO_LATE = 200, 500, 503, 504


class _Others:
    """Clients of the embedded model, of one that is called inline, and of one in a runner, while something happens."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self._journal = Journal.of(array("d"))
        self._began = self._ended = 0.0
        self._same = False

    @contextmanager
    def ask(self) -> Iterator[None]:
        """They ask meanwhile."""
        asks = (Ask(), ask_of(_STEADY, _ROW), ask_of(_INLINE, _ROW))
        before = self.service.worker_pids()
        with Load(Crowd(self.service.port, kept=6, fresh=6, asks=asks, pause_seconds=0.01)) as load:
            sleep(0.5)
            self._began = monotonic()
            yield
            self._ended = monotonic()
            self._journal = load.stop()
        self._same = before == self.service.worker_pids() and self.service.is_ready()

    @property
    def are_well(self) -> bool:
        """Whether each of them got all that it asked for, from the same workers."""
        journal = self._journal
        return self._same and not len(journal.lost) and not journal.unsent and not journal.wrong

    @property
    def silence(self) -> float:
        """The longest time in which nobody had a good answer, in seconds."""
        return self._journal.longest_silence(self._began, self._ended)

    def __str__(self) -> str:
        journal = self._journal
        return (
            f"the others: of {len(journal):,} requests {len(journal.lost)} lost, {journal.unsent} not taken, "
            f"{journal.wrong} with an error, longest time without a good answer {self.silence * 1000:.0f} ms, "
            f"{'the same workers, ready' if self._same else 'other workers, or not ready'}"
        )


@contextmanager
def _faulty(name: str, options: str = "", call_ms: float = 0) -> Iterator[_Others]:
    """The service with a faulty model and two that are not."""
    with TemporaryDirectory() as directory:
        models = Path(directory)
        write_heavy(models, _FAULTY, call_ms=call_ms, options=options)
        write_heavy(models, _STEADY)
        write_good(models, _INLINE, "1")
        with serving(models, name) as service:
            yield _Others(service)


def _commit(fault: Fault, model: str = _FAULTY, deadline_ms: int | None = None) -> Ask:
    return ask_of(model, [float(fault), 0.0, 0.0, 0.0], deadline_ms=deadline_ms)


def raises() -> Iterator[Row]:
    """One of 64 requests that come together makes the model raise."""
    asks = [_GOOD] * (_TOGETHER - 1) + [_commit(Fault.RAISES)]
    with _faulty("raises", call_ms=_BUSY_MS) as others, others.ask(), ThreadPoolExecutor(_TOGETHER) as threads:
        [before] = others.service.runners(_FAULTY)
        statuses = Counter(status for status, _ in threads.map(others.service.send, asks))
        [after] = others.service.runners(_FAULTY)
    yield Row(
        f"{_TOGETHER} requests at once, of which one makes the model raise",
        f"{_TOGETHER - 1} answers, one 500",
        f"{_times(statuses)}, in {after['calls'] - before['calls']} calls of several requests; {others}",
        ok=statuses == {_OK: _TOGETHER - 1, _FAILED: 1} and before["pid"] == after["pid"] and others.are_well,
    )


def _times(statuses: Counter[int]) -> str:
    return ", ".join(f"{count} times {status}" for status, count in sorted(statuses.items()))


def crashes() -> Iterator[Row]:
    """A model that ends its process by a segmentation fault, five times."""
    with _faulty("crashes") as others, others.ask():
        service = others.service
        failures, back = Counter[int](), []
        for _ in range(_DEATHS - 1):
            failures[service.send(_commit(Fault.CRASHES))[0]] += 1
            back.append(_until_answered(service, _GOOD))
        failures[service.send(_commit(Fault.CRASHES))[0]] += 1
        at = monotonic()
        service.until(lambda: service.send(_GOOD)[0] == _OUT, "the model to be out of service", _BACK_SECONDS)
        out, body = service.send(_GOOD)
        reason = json.loads(body).get("detail", "")
        _until_answered(service, _GOOD)
        again = monotonic() - at
    yield Row(
        f"a model that crashes its process, {_DEATHS} times",
        f"back within {_BACK_SECONDS:g} s; at the fifth out of service; the others 100% available",
        f"the requests that did it got {_times(failures)}; back after at most {max(back):.2f} s; after the fifth {out} "
        f"({reason}), and in service again after {again:.1f} s; {others}",
        ok=failures == {_FAILED: _DEATHS} and max(back) <= _BACK_SECONDS and out == _OUT and others.are_well,
    )


def _until_answered(service: Service, ask: Ask) -> float:
    """Seconds until the model gives a good answer."""
    return service.until(lambda: service.send(ask)[0] == _OK, "the model to answer again")


def never_returns() -> Iterator[Row]:
    """A call that does not end."""
    with _faulty("never-returns", f"call_timeout = {_CALL_TIMEOUT}\n") as others, others.ask():
        service = others.service
        [before] = service.runners(_FAULTY)
        began = monotonic()
        status, _ = service.send(_commit(Fault.HANGS, deadline_ms=_DEADLINE_MS))
        late = monotonic() - began
        _until_answered(service, _GOOD)
        back = monotonic() - began
        [after] = service.runners(_FAULTY)
    yield Row(
        f"a call that never returns, call_timeout {_CALL_TIMEOUT:g} s",
        "504 at the deadline, its runner replaced, nobody else notices",
        f"{status} after {late:.2f} s, with a deadline of {_DEADLINE_MS / 1000:g}; "
        f"{'another' if before['pid'] != after['pid'] else 'the same'} runner answered {back:.2f} s after the call "
        f"began; {others}",
        ok=status == _TOO_LATE
        and before["pid"] != after["pid"]
        and others.are_well
        and others.silence <= _SILENCE_SECONDS,
    )


_HOSTILE = {
    Fault.GARBAGE: "sends garbage",
    Fault.PICKLE: "a pickle",
    Fault.HUGE: "a frame of 4 GB",
    Fault.SHAPE: "one of another shape",
    Fault.SHRINKS: "shrinks its shared memory",
    Fault.REWRITES: "rewrites it",
}
_IN_MEMORY = (Fault.SHRINKS, Fault.REWRITES)


def hostile_runner() -> Iterator[Row]:
    """Models that have taken their runners over."""
    with TemporaryDirectory() as directory:
        models, trace = Path(directory) / "models", Path(directory) / "trace"
        for fault in _HOSTILE:
            write_heavy(models, fault.name.lower())
        write_heavy(models, _STEADY)
        write_good(models, _INLINE, "1")
        with serving(models, "hostile-runner", {TRACE: str(trace)}) as service:
            others = _Others(service)
            with others.ask():
                outcomes = {fault: _turn(service, fault) for fault in _HOSTILE}
        ran = trace.exists()
    told = [f"{what}: {outcomes[fault][0]}" for fault, what in _HOSTILE.items()]
    yield Row(
        f"a runner that {', '.join(_HOSTILE.values())}",
        "it is replaced, or did no harm; its worker and the others answer on",
        f"{'; '.join(told)}; {'code was run' if ran else 'no code run'} in a worker; {others}",
        ok=all(well for _, well in outcomes.values()) and not ran and others.are_well,
    )


def _turn(service: Service, fault: Fault) -> tuple[str, bool]:
    """What came of it, and whether that is well."""
    model = fault.name.lower()
    [before] = service.runners(model)
    status, _ = service.send(_commit(fault, model))
    seconds = _until_answered(service, ask_of(model, _ROW))
    [after] = service.runners(model)
    replaced = before["pid"] != after["pid"]
    outcome = f"{status}, {'replaced' if replaced else 'not replaced'}, answered again after {seconds:.2f} s"
    return outcome, seconds <= _BACK_SECONDS and (replaced or fault in _IN_MEMORY)
