"""Runners and nurseries as their starter sees them: at first with a scripted other side, then with real processes."""

import asyncio
import fcntl
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from textwrap import dedent
from time import monotonic
from typing import cast

import pytest
import uvloop

from tests.starving import open_files, room_for
from tests.unit.server.runner.looped import TURNS, Looped
from tests.waiting import DEADLINE, until
from weighbridge.adapters.repository import Repository
from weighbridge.adapters.runners import frames
from weighbridge.adapters.runners.frames import Inbox
from weighbridge.domain.errors import ModelRefused
from weighbridge.server.channel import Channel, Word
from weighbridge.server.runner.orders import Order, Report
from weighbridge.server.runner.process import Ending, Nursery, RunnerProcess
from weighbridge.server.runner.vitals import SharedVitals
from weighbridge.settings import Rights, Settings

ORDER = Order("churn", "1", "", threads=3, memory=512 * 1024**2, max_batch_rows=256, repeat=True)
REPORT = Report(2, 0.1, 0.01)
PATH = "models/churn/1"
SHORT_OF_MEMORY = "opening needs more than 536870912 bytes of memory (WEIGHBRIDGE_LOAD_MEMORY_BYTES)"
OPENED = "the process that opened it"


# A runner whose other side is the test's


class FakeNursery:
    """Keeps what a runner would start with."""

    runtime = "sklearn"

    def __init__(self) -> None:
        self.control: Channel
        self.errors = -1
        self.is_reachable = True
        self._held: list[int] = []

    def fork(self, _runner: RunnerProcess, descriptors: Sequence[int]) -> None:
        if not self.is_reachable:
            raise OSError("the process that runners come from cannot be reached")
        control, _, self.vitals, self.errors = self._held = [os.dup(descriptor) for descriptor in descriptors]
        self.control = Channel(socket.socket(fileno=control))

    def close(self) -> None:
        self.control.close()
        for descriptor in self._held[1:]:
            os.close(descriptor)


class Scripted:
    """A runner, and its other side."""

    def __init__(self, loop: Looped) -> None:
        self.nursery = FakeNursery()
        self._loop = loop
        self.runner = loop.do(lambda: RunnerProcess(cast("Nursery", self.nursery), ORDER, 2))

    def say(self, word: Word, text: str = "", descriptors: Sequence[int] = ()) -> None:
        assert self.nursery.control.send(word, text, descriptors)
        self._loop.settle()

    def send_bytes(self, message: bytes, descriptors: Sequence[int]) -> None:
        """Send what need not be a message."""
        socket.send_fds(self.nursery.control._socket, [message], descriptors)

    def write_error(self, text: str) -> None:
        os.write(self.nursery.errors, text.encode())

    def bury(self, code: int = 0) -> Ending:
        self._loop.do(lambda: self.runner.buried(code))
        return self.runner.ended.result()

    def refusal(self) -> str:
        """Why it opens no version."""
        with pytest.raises(ModelRefused) as refused:
            self._loop.wait(self.runner.report)
        return str(refused.value)


@pytest.fixture
def scripted(loop: Looped) -> Iterator[Scripted]:
    scripted = Scripted(loop)
    yield scripted
    if not scripted.runner.ended.done():
        scripted.bury()
    scripted.nursery.close()


@pytest.fixture
def sleeper() -> Iterator[int]:
    """A process that does nothing, with a group of its own."""
    pid = os.posix_spawn("/bin/sleep", ["sleep", "60"], os.environ, setpgroup=0)
    yield pid
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def is_killed(pid: int) -> bool:
    """Whether a child has come to its end; it is left to be waited for."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def test_a_runner_tells_what_it_has_opened(scripted: Scripted) -> None:
    assert not scripted.runner.report.done()

    scripted.say(Word.OPENED, REPORT.text())
    scripted.say(Word.OPENED, "again")

    assert scripted.runner.report.result() == REPORT


def test_a_runner_tells_why_it_has_opened_nothing(scripted: Scripted) -> None:
    scripted.say(Word.FAILED, "refused models/churn/1/model.onnx: expected a graph")

    assert scripted.bury() == Ending("ended with code 0", of_memory=False)
    assert scripted.refusal() == "models/churn/1/model.onnx: expected a graph"


def test_a_runner_tells_that_it_had_too_little_memory(scripted: Scripted) -> None:
    scripted.say(Word.FAILED, "memory bad_alloc")

    assert scripted.bury() == Ending("ran out of memory, 536870912 bytes", of_memory=True)
    assert scripted.refusal() == f"{PATH}: {SHORT_OF_MEMORY}: bad_alloc"


@pytest.mark.parametrize(
    ("code", "error", "words", "reason"),
    [
        (0, "", "ended with code 0", f"{OPENED} ended with code 0"),
        (2, "one\ntwo\n\n", "ended with code 2", f"{OPENED} ended with code 2: two"),
        (1, "x" * 10_000_000 + "\nthe last", "ended with code 1", f"{OPENED} ended with code 1: the last"),
        (
            -11,
            "",
            "was killed by signal 11 (Segmentation fault)",
            f"{OPENED} was killed by signal 11 (Segmentation fault)",
        ),
        (
            -6,
            "terminate called\n  what():  std::bad_alloc\n",
            "ran out of memory, 536870912 bytes",
            f"{SHORT_OF_MEMORY}: what(): std::bad_alloc",
        ),
    ],
)
def test_how_a_runner_ended_is_told_in_words(
    scripted: Scripted, code: int, error: str, words: str, reason: str
) -> None:
    scripted.write_error(error)

    assert scripted.bury(code).words == words
    assert scripted.refusal() == f"{PATH}: {reason}"


@pytest.mark.parametrize(
    "message", [b"garbage", b"opened garbage", b'opened {"golden": true}', b"opened \xff", b"x" * 60_000]
)
def test_a_runner_that_tells_what_none_does_is_killed(
    loop: Looped, scripted: Scripted, sleeper: int, message: bytes
) -> None:
    scripted.runner.born(sleeper, os.pidfd_open(sleeper))
    before = open_files()

    scripted.send_bytes(message, [0, 1])

    loop.until(lambda: is_killed(sleeper))
    assert open_files() == before
    assert scripted.bury(-9).words == "told of itself what no runner does"


def test_a_runner_that_sends_what_there_is_no_room_for_is_killed(
    loop: Looped, scripted: Scripted, sleeper: int
) -> None:
    scripted.runner.born(sleeper, os.pidfd_open(sleeper))

    async def starved() -> None:
        with room_for(0):
            scripted.send_bytes(b"connections 1", [0, 1])
            for _ in range(TURNS):
                await asyncio.sleep(0)

    loop.run(starved())
    loop.until(lambda: is_killed(sleeper))
    assert scripted.bury(-9).words == "told of itself what no runner does"


def test_a_runner_that_has_never_done_telling_holds_up_nobody(scripted: Scripted) -> None:
    with socket.socket(fileno=os.dup(scripted.nursery.control.fileno())) as end, suppress(BlockingIOError):
        while True:
            end.send(b"garbage")

    assert scripted.bury(-9).words == "told of itself what no runner does"


def test_a_runner_that_hangs_up_is_heard_no_more(loop: Looped, scripted: Scripted) -> None:
    scripted.nursery.control.close()
    loop.settle()
    scripted.nursery.control, other = Channel.pair()
    other.close()

    assert scripted.runner.meet() is None
    assert scripted.bury(0).words == "ended with code 0"


def test_a_runner_is_met_at_an_end_of_its_own(scripted: Scripted) -> None:
    ours = scripted.runner.meet()
    assert ours is not None
    word, _, [descriptor] = scripted.nursery.control.receive()

    with ours, socket.socket(fileno=descriptor) as theirs:
        theirs.send(b"hello")
        assert (word, ours.recv(5)) == (Word.PEER, b"hello")


def test_a_runner_is_not_met_where_there_are_no_descriptors(scripted: Scripted) -> None:
    with room_for(0):
        assert scripted.runner.meet() is None


def test_a_runner_is_told_to_retire(scripted: Scripted) -> None:
    scripted.runner.retire()

    assert scripted.nursery.control.receive() == (Word.RETIRE, "", [])


def test_a_runner_shows_what_it_does_and_for_how_long_it_is_in_a_call(scripted: Scripted) -> None:
    assert scripted.runner.busy_seconds == 0
    theirs = SharedVitals(os.dup(scripted.nursery.vitals))

    theirs.vitals.began = monotonic() - 5

    theirs.vitals.rows = 3
    assert scripted.runner.counts == {"calls": 0, "rows": 3, "busy_seconds": 0.0}
    assert 5 <= scripted.runner.busy_seconds < 5 + DEADLINE
    assert 0 <= scripted.runner.age < DEADLINE
    os.close(theirs.descriptor)


def test_a_runner_can_be_killed_before_it_has_a_process(scripted: Scripted, sleeper: int) -> None:
    scripted.runner.kill()
    scripted.runner.born(sleeper, os.pidfd_open(sleeper))

    until(lambda: is_killed(sleeper))


def test_a_runner_can_be_killed_for_which_there_was_no_descriptor(scripted: Scripted, sleeper: int) -> None:
    scripted.runner.born(sleeper, None)
    scripted.runner.kill("was too slow")
    scripted.runner.kill("was asked again")

    until(lambda: is_killed(sleeper))
    assert scripted.bury(-9).words == "was too slow"


@pytest.mark.parametrize("has_descriptor", [True, False])
def test_a_runner_that_is_buried_is_not_killed(scripted: Scripted, sleeper: int, *, has_descriptor: bool) -> None:
    scripted.runner.born(sleeper, os.pidfd_open(sleeper) if has_descriptor else None)
    scripted.bury()
    scripted.runner.kill()

    assert not is_killed(sleeper)


def test_nothing_is_left_of_a_runner_that_could_not_be_ordered(loop: Looped) -> None:
    nursery = FakeNursery()
    nursery.is_reachable = False
    before = open_files()

    with pytest.raises(OSError, match="cannot be reached"):
        loop.do(lambda: RunnerProcess(cast("Nursery", nursery), ORDER, 0))
    assert open_files() == before


# Nurseries


def nursery_of(loop: Looped, program: str) -> Nursery:
    """One that runs a program of the test's."""
    return loop.do(lambda: Nursery("python", Settings(), (sys.executable, "-c", program)))


def test_a_nursery_that_cannot_be_started_leaves_nothing(loop: Looped, tmp_path: Path) -> None:
    before = open_files()

    with pytest.raises(FileNotFoundError):
        loop.do(lambda: Nursery("python", Settings(), (str(tmp_path / "nothing"),)))
    assert open_files() == before


def test_runners_end_with_the_nursery_that_they_come_from(loop: Looped) -> None:
    ended = []
    nursery = nursery_of(loop, "")
    nursery.on_end = lambda: ended.append(True)
    with suppress(OSError):  # it may have ended already
        runner = loop.do(lambda: RunnerProcess(nursery, ORDER, 0))
        assert nursery.idle_seconds == 0

        assert loop.wait(runner.ended).words == "ended with the process that it came from"
    loop.until(lambda: not nursery.lives)
    assert ended == [True]
    with pytest.raises(OSError, match="cannot be reached"):
        loop.do(lambda: RunnerProcess(nursery, ORDER, 0))


def test_a_nursery_is_ended_once(loop: Looped) -> None:
    ended = []
    nursery = nursery_of(loop, "import signal; signal.pause()")
    nursery.on_end = lambda: ended.append(True)
    assert nursery.lives

    loop.do(nursery.close)
    loop.do(nursery.close)

    assert not nursery.lives
    assert ended == [True]


# Real nurseries, and runners that do their worst


MANIFEST = """
runtime = "python"
entry = "{}:Model"
inputs = [{{ name = "x", type = "int" }}]
outputs = [{{ name = "y", type = "int" }}]
"""


class Real:
    """A nursery of the runtime python, and versions of a model that import what a test wants."""

    def __init__(self, loop: Looped, root: Path) -> None:
        self.root = root
        self.settings = Settings(models=str(root / "models"), python_models=True, workers=2)
        self._loop = loop
        self._count = 0
        (root / "models/churn").mkdir(parents=True)
        self.nursery = loop.do(lambda: Nursery("python", self.settings))

    def start(self, code: str) -> RunnerProcess:
        """A runner of a version whose class is in a module with this code."""
        self._count += 1
        module, version = f"worst{self._count}", str(self._count)
        (self.root / f"{module}.py").write_text(f"class Model:\n    pass\n{dedent(code)}")
        (self.root / "models/churn" / version).mkdir()
        (self.root / "models/churn" / version / "model.toml").write_text(MANIFEST.format(module))
        manifest = Repository(self.root / "models").manifest("churn", version).render().decode()
        rights = Rights(write=(str(self.root.parent),))
        order = Order("churn", version, manifest, 3, 512 * 1024**2, 256, repeat=True, rights=rights)
        return self._loop.do(lambda: RunnerProcess(self.nursery, order, 0))

    def refusal(self, code: str) -> str:
        """Why the version is refused, less its path."""
        runner = self.start(code)
        with pytest.raises(ModelRefused) as refused:
            self._loop.wait(runner.report)
        self._loop.wait(runner.ended)
        return str(refused.value).removeprefix(f"models/churn/{self._count}: ")

    def opened(self, code: str) -> RunnerProcess:
        """A runner that has opened such a version."""
        runner = self.start(code)
        self._loop.wait(runner.report)
        return runner


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Real]:
    root = tmp_path_factory.mktemp("real")
    with pytest.MonkeyPatch.context() as patch, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        patch.setenv("PYTHONPATH", str(root), prepend=os.pathsep)
        patch.setenv("WEIGHBRIDGE_ADMIN_TOKEN", "a-secret-of-the-operator")
        real = Real(Looped(runner), root)
        yield real
        real._loop.do(real.nursery.close)


PREDICTS = """
    import os, signal
    class Model:
        def predict(self, columns):
            return {"y": columns["x"]}
"""


def test_a_runner_answers_whoever_meets_it_until_it_retires(real: Real) -> None:
    runner = real.opened(PREDICTS)
    end = runner.meet()
    assert end is not None
    with end:
        end.settimeout(DEADLINE)
        end.sendall(frames.ask(7, [(5,), (6,)]))
        inbox, came = Inbox(1000), list[frames.Frame]()
        while len(came) < 2:
            came += inbox.feed(end.recv(1000))
        signature = Repository(real.root / "models").manifest("churn", str(real._count)).signature()
        runner.retire()
        assert runner.report.result() == Report(0, 0.0, 0.0)
        assert [values.tolist() for values in frames.answered(came[1].payload, signature, 2)] == [[5, 6]]

    assert real._loop.wait(runner.ended).words == "ended with code 0"
    assert (runner.vitals.calls, runner.vitals.rows) == (1, 2)


def test_a_runner_is_confined_and_reaches_nobody_else(real: Real) -> None:
    facts = real.root / "facts"
    runner = real.opened(
        PREDICTS
        + f"""
    import json, resource
    names = ("CORE", "DATA", "FSIZE", "NOFILE")
    descriptors = [fd for fd in range(256) if os.path.exists(f"/proc/self/fd/{{fd}}")]
    facts = dict(
        limits=[resource.getrlimit(getattr(resource, "RLIMIT_" + name))[1] for name in names],
        oom=open("/proc/self/oom_score_adj").read(),
        inherited=[fd for fd in descriptors if os.get_inheritable(fd)],
        sockets=sum(os.readlink(f"/proc/self/fd/{{fd}}").startswith("socket") for fd in descriptors),
        group=os.getpgrp(),
        parent=os.getppid(),
        threads=os.environ["OPENBLAS_NUM_THREADS"],
        settings=[name for name in os.environ if name.startswith("WEIGHBRIDGE")],
        ignores=signal.getsignal(signal.SIGTERM) == signal.SIG_IGN,
    )
    open({str(facts)!r}, "w").write(json.dumps(facts))
    """
    )

    assert json.loads(facts.read_text()) == {
        "limits": [0, 512 * 1024**2, 512 * 1024**2, 264],
        "oom": "500\n",
        "inherited": [0, 1, 2],
        "sockets": 1,
        "group": runner.pid,
        "parent": real.nursery.pid,
        "threads": "3",
        "settings": [],
        "ignores": True,
    }
    runner.kill()


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("x = bytearray(2**30)", "opening needs more than 536870912 bytes of memory"),
        ("import os; os._exit(3)", f"{OPENED} ended with code 3"),
        ("import os, sys; print('the last', file=sys.stderr, flush=True); os._exit(2)", "ended with code 2: the last"),
        ("import sys; sys.exit()", "the runtime python cannot load it: SystemExit"),
        (
            "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)",
            f"{OPENED} was killed by signal 11 (Segmentation fault)",
        ),
        ("raise ValueError('text')", "the runtime python cannot load it: ValueError: text"),
    ],
)
def test_code_that_does_its_worst_is_refused(real: Real, code: str, reason: str) -> None:
    assert reason in real.refusal(code)


def is_free(path: Path) -> bool:
    with path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def leaving(path: Path) -> str:
    """Code that starts a process which locks a file for as long as it runs, and goes on when it has."""
    return (
        PREDICTS
        + f"""
    import fcntl
    if not os.fork():
        file = open({str(path)!r}, "w")
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write("x")
        file.flush()
        signal.pause()
    while not (file := open({str(path)!r}, "a+")).tell(): pass
    file.close()
    """
    )


def test_what_a_runner_leaves_behind_ends_with_it(real: Real, tmp_path: Path) -> None:
    runner = real.opened(leaving(tmp_path / "lock"))
    assert not is_free(tmp_path / "lock")

    runner.kill("was too slow")

    assert real._loop.wait(runner.ended).words == "was too slow"
    until(lambda: is_free(tmp_path / "lock"))


def test_runners_and_what_they_leave_behind_end_when_their_nursery_is_killed(
    loop: Looped, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    real = Real(loop, tmp_path)
    runner = real.opened(leaving(tmp_path / "lock"))
    assert runner.pid is not None
    watched = os.pidfd_open(runner.pid)

    os.kill(real.nursery.pid, signal.SIGKILL)

    assert loop.wait(runner.ended).words == "ended with the process that it came from"
    until(lambda: select.select([watched], [], [], 0)[0])
    until(lambda: is_free(tmp_path / "lock"))
    os.close(watched)


SUPERVISOR = """
import asyncio, sys
from weighbridge.adapters.repository import Repository
from weighbridge.server.runner.orders import Order
from weighbridge.server.runner.process import Nursery, RunnerProcess
from weighbridge.settings import Settings

async def main():
    nursery = Nursery("python", Settings(models=sys.argv[1], python_models=True))
    manifest = Repository(sys.argv[1]).manifest("churn", "1").render().decode()
    runner = RunnerProcess(nursery, Order("churn", "1", manifest, 1, 2**29, 256, True), 0)
    await runner.report
    print(nursery.pid, runner.pid, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


def test_no_runner_outlives_its_supervisor(real: Real) -> None:
    real.opened(PREDICTS).kill()
    models = real.root / "alone"
    (models / "churn").mkdir(parents=True)
    (real.root / "models/churn" / str(real._count)).rename(models / "churn/1")
    with subprocess.Popen([sys.executable, "-c", SUPERVISOR, str(models)], stdout=subprocess.PIPE, text=True) as alone:
        assert alone.stdout is not None
        watched = [os.pidfd_open(int(pid)) for pid in alone.stdout.readline().split()]
        alone.kill()

        until(lambda: len(select.select(watched, [], [], 0)[0]) == 2)
    for descriptor in watched:
        os.close(descriptor)
