"""The nursery in this process: forks are told of by the test, and so is what a child would do."""

import gc
import os
import runpy
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

import pytest

import weighbridge
from tests.starving import open_files
from tests.waiting import DEADLINE, until
from weighbridge.adapters.repository import Repository
from weighbridge.adapters.runners import frames
from weighbridge.adapters.system.lending import lent
from weighbridge.adapters.system.sandbox import Sandbox
from weighbridge.domain.errors import ModelRefused
from weighbridge.server.channel import Channel, Message, Word
from weighbridge.server.runner import nursery, opening
from weighbridge.server.runner.orders import Order, Report
from weighbridge.server.runner.vitals import SharedVitals
from weighbridge.settings import Rights, Settings


def next_of(channel: Channel) -> Message:
    """The next message on a channel, in time."""
    message: list[Message] = []

    def came() -> bool:
        with suppress(BlockingIOError):
            message.append(channel.receive())
        return bool(message)

    until(came)
    return message[0]


class Ended(BaseException):
    """The process would have ended with this code."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


@contextmanager
def running() -> Iterator[Channel]:
    """A nursery, in a thread, that has said that it is ready."""
    ours, theirs = Channel.pair()
    thread = threading.Thread(target=nursery._Nursery(theirs, Settings()).run)
    thread.start()
    assert next_of(ours)[0] is Word.READY
    yield ours
    ours.close()
    thread.join(DEADLINE)
    assert not thread.is_alive()
    theirs.close()


# As the parent


@pytest.fixture
def children(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The children that are forked: processes that do nothing."""
    pids: list[int] = []

    def fork() -> int:
        pids.append(os.posix_spawn("/bin/sleep", ["sleep", "60"], os.environ, setpgroup=0))
        return pids[-1]

    monkeypatch.setattr(os, "fork", fork)
    return pids


def test_a_nursery_tells_of_runners_that_it_has_forked_and_of_how_they_ended(children: list[int]) -> None:
    with running() as channel:
        channel.send(Word.FORK, "7", [0])
        channel.send(Word.FORK, "8", [0])
        for number in (7, 8):
            word, text, [pidfd] = next_of(channel)
            assert (word, text) == (Word.FORKED, f"{number} {children[number - 7]}")
            signal.pidfd_send_signal(pidfd, signal.SIGKILL if number == 7 else signal.SIGTERM)
            os.close(pidfd)
        ended = {next_of(channel)[:2] for _ in range(2)}

    assert ended == {(Word.ENDED, "7 -9"), (Word.ENDED, "8 -15")}


def test_a_nursery_keeps_nothing_of_runners_that_have_ended(children: list[int]) -> None:
    with running() as channel:
        before = open_files()
        channel.send(Word.FORK, "7", [0, 1])
        _, _, [pidfd] = next_of(channel)
        os.kill(children[0], signal.SIGKILL)
        next_of(channel)
        os.close(pidfd)

        assert open_files() == before


def test_a_nursery_that_may_not_fork_tells_of_a_runner_that_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused() -> int:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(os, "fork", refused)
    reading, writing = os.pipe()
    with running() as channel:
        channel.send(Word.FORK, "7", [writing])
        channel.send(Word.FORK, "8")
        os.close(writing)

        assert [next_of(channel)[:2] for _ in range(2)] == [(Word.ENDED, "7 1"), (Word.ENDED, "8 1")]
    with os.fdopen(reading) as said:
        assert said.read() == "OSError: [Errno 11] Resource temporarily unavailable\n"


# As the child


def test_a_child_gives_up_what_is_its_parents(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = Channel.pair()
    one = nursery._Nursery(theirs, Settings())
    other_runner = os.dup(0)
    one._runners[other_runner] = 1, "6"
    became: list[Any] = []

    def be_runner(*given: Any) -> NoReturn:
        became.extend(given)
        raise Ended(0)

    monkeypatch.setattr(os, "fork", lambda: 0)
    monkeypatch.setattr(nursery, "_be_runner", be_runner)
    with pytest.raises(Ended):
        one._fork("7", [3, 4, 5, 6])

    assert became == [os.getpid(), one._settings, [3, 4, 5, 6]]
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(other_runner)
    with pytest.raises(EOFError):
        ours.receive()
    ours.close()


def noting(did: list[tuple[Any, ...]], name: str) -> Callable[..., None]:
    """A function that only notes how it was called."""
    return lambda *given: did.append((name, *given))


@contextmanager
def closing_channels(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Close the channels of what would be another process, as its end would do."""
    made: list[Channel] = []

    def channel(end: socket.socket) -> Channel:
        made.append(Channel(end))
        return made[-1]

    monkeypatch.setattr(nursery, "Channel", channel)
    yield
    for one in made:
        one.close()


class Harmless:
    """The module os, less what would change this process."""

    def __init__(self, did: list[tuple[Any, ...]]) -> None:
        self.setpgid = noting(did, "setpgid")
        self.dup2 = noting(did, "dup2")

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    @staticmethod
    def _exit(code: int) -> NoReturn:
        raise Ended(code)


class Child:
    """What a runner starts with, and what it would have done to its process."""

    def __init__(self, root: Path, patch: pytest.MonkeyPatch) -> None:
        self.control, self._theirs = Channel.pair()
        self.vitals = SharedVitals.create()
        self.errors = os.memfd_create("errors")
        self.did: list[tuple[Any, ...]] = []
        self._root = root
        self._before = (Settings(models=str(root)), os.getppid())
        patch.setattr(nursery, "os", Harmless(self.did))
        for module, name in ((nursery, "end_with"), (nursery, "confine"), (opening, "compute_with")):
            patch.setattr(module, name, noting(self.did, name))

    def set(self, **settings: Any) -> None:
        """Have it live with other settings, too."""
        self._before = (Settings(models=str(self._root), **settings), self._before[1])

    def order(self, version: str = "1", **changed: Any) -> Order:
        text = Repository(self._root).manifest("churn", "1").render().decode()
        given = {"threads": 3, "memory": 2**30, "max_batch_rows": 256, "repeat": True, **changed}
        return Order("churn", version, text, **given)

    def live(self, order: Order, meanwhile: Callable[[], None] = lambda: None) -> int:
        """Have it open a version and answer, and the code that it ends with."""
        codes: list[int] = []
        with lent(order) as memory:
            descriptors = [
                os.dup(descriptor)
                for descriptor in (self._theirs.fileno(), memory, self.vitals.descriptor, self.errors)
            ]
        self._theirs.close()

        def be_runner() -> None:
            try:
                nursery._be_runner(self._before[1], self._before[0], descriptors)
            except Ended as ended:
                codes.append(ended.code)

        thread = threading.Thread(target=be_runner)
        thread.start()
        meanwhile()
        thread.join(DEADLINE)
        assert not thread.is_alive()
        return codes[0]

    def close(self) -> None:
        self.control.close()
        os.close(self.errors)
        os.close(self.vitals.descriptor)


@pytest.fixture
def child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Child]:
    weighbridge.package([2.0, 0.0], tmp_path / "models/churn/1", example=[[1.0, 1.0], [2.0, 1.0]])
    child = Child(tmp_path / "models", monkeypatch)
    with closing_channels(monkeypatch):
        yield child
    child.close()


def test_a_runner_opens_its_version_and_answers_until_its_supervisor_is_gone(child: Child) -> None:
    said: list[Message] = []

    def asked() -> None:
        said.append(next_of(child.control))
        ours, theirs = socket.socketpair()
        child.control.send(Word.PEER, "", [theirs.fileno()])
        theirs.close()
        with ours:
            ours.settimeout(DEADLINE)
            ours.sendall(frames.ask(7, [[3.0, 0.0]]))
            inbox, came = frames.Inbox(1000), list[frames.Frame]()
            while len(came) < 2:
                came += inbox.feed(ours.recv(1000))
        assert came[1].word is frames.Word.ANSWER
        child.control.close()

    assert child.live(child.order(), asked) == 0
    [(word, text, _)] = said
    assert (word, Report.read(text).golden) == (Word.OPENED, 2)
    assert (child.vitals.vitals.calls, child.vitals.vitals.rows) == (1, 1)
    assert [done[0] for done in child.did] == [
        "setpgid",
        "end_with",
        "dup2",
        "confine",
        "compute_with",
        "compute_with",
        "dup2",
    ]
    assert child.did[3:5] == [("confine", 2**30, 260), ("compute_with", 3)]


def test_a_runner_tells_why_it_opens_nothing(child: Child) -> None:
    assert child.live(child.order("2")) == 0

    assert child.control.receive()[:2] == (Word.FAILED, "refused models/churn/2: expected a directory, got nothing")


def test_a_runner_tells_that_it_lacks_memory(child: Child, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> NoReturn:
        raise ModelRefused("models/churn/1: got MemoryError") from MemoryError()

    monkeypatch.setattr(nursery, "open_version", refused)

    assert child.live(child.order()) == 0
    assert child.control.receive()[:2] == (Word.FAILED, "memory models/churn/1: got MemoryError")


def test_a_runner_tells_that_a_call_lacked_memory(child: Child, monkeypatch: pytest.MonkeyPatch) -> None:
    class Greedy:
        def __init__(self, *_: object, **__: object) -> None:
            """Like a runner."""

        def run(self) -> NoReturn:
            raise MemoryError("in a call")

    monkeypatch.setattr(nursery, "Runner", Greedy)

    assert child.live(child.order()) == 0
    assert [child.control.receive()[0] for _ in range(2)] == [Word.OPENED, Word.FAILED]


def test_whatever_else_befalls_a_runner_is_what_it_says_last(
    child: Child, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def raising(*_: object) -> NoReturn:
        raise ZeroDivisionError("the needle")

    monkeypatch.setattr(nursery, "open_version", raising)

    assert child.live(child.order()) == 1
    assert capfd.readouterr().err == "ZeroDivisionError: the needle\n"


@pytest.mark.parametrize(
    ("offered", "mode", "reason"),
    [
        (Sandbox(5, filters=True), "require", "Landlock of version 6 or later in the kernel"),
        (Sandbox(0, filters=False), "require", "Landlock of version 6 or later in the kernel and libseccomp"),
        (Sandbox(0, filters=False), "auto", None),
        (Sandbox.offered(), "off", None),
        (Sandbox.offered(), "require", None),
    ],
)
def test_a_runner_gives_up_its_rights_or_opens_nothing_where_that_is_required(
    child: Child, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offered: Sandbox, mode: str, reason: str | None
) -> None:
    monkeypatch.setattr(Sandbox, "offered", lambda: offered)
    child.set(sandbox=mode)
    free: list[bool] = []

    def opening_what_it_may_not(*_: object) -> NoReturn:
        free.append(_can_list(tmp_path))
        raise ModelRefused("it was tried")

    monkeypatch.setattr(nursery, "open_version", opening_what_it_may_not)

    assert child.live(child.order()) == 0
    lacking = f"models/churn/1: WEIGHBRIDGE_SANDBOX requires {reason}, which this machine does not have"
    assert child.control.receive()[1] == f"refused {lacking if reason else 'it was tried'}"
    assert free == ([] if reason else [not (offered.landlock and mode == "require")])


def _can_list(directory: Path) -> bool:
    try:
        return any(directory.iterdir())
    except PermissionError:
        return False


def test_a_runner_whose_rights_cannot_be_restricted_opens_nothing(child: Child, tmp_path: Path) -> None:
    order = child.order(rights=Rights(read=(str(tmp_path / "nothing"),)))

    assert child.live(order) == 0
    refusal = f"its rights cannot be restricted: No such file or directory: {tmp_path / 'nothing'}"
    assert child.control.receive()[1] == f"refused models/churn/1: {refusal}"


def test_a_runner_of_code_has_a_directory_to_write_to(
    child: Child, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HOME", "TMPDIR"):
        monkeypatch.setenv(name, "/")
    monkeypatch.setattr(tempfile, "tempdir", None)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    written: list[Path] = []

    def opening_that_writes(*_: object) -> NoReturn:
        with tempfile.NamedTemporaryFile() as file:
            written.append(Path(file.name).parent)
        raise ModelRefused(str(Path.home()))

    monkeypatch.setattr(nursery, "open_version", opening_that_writes)

    assert child.live(child.order(scratch=str(scratch))) == 0
    assert child.control.receive()[1] == f"refused {scratch}"
    assert written == [scratch]


# From the start


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], list[Any]]]:
    """Has a nursery of a runtime start and end, and tells what it did to its process."""
    did: list[Any] = []

    def imported(name: str) -> None:
        did.append(name)
        if "nothing" in name:
            raise ImportError

    def started(runtime: str) -> list[Any]:
        ours, theirs = Channel.pair()
        ours.send(Word.START, f"{runtime} {Settings(workers=5).snapshot()}")
        ours.close()
        monkeypatch.setattr(sys, "argv", ["nursery", str(os.dup(theirs.fileno())), "4711"])
        theirs.close()
        monkeypatch.setattr(signal, "signal", lambda *given: did.append(given))
        monkeypatch.setattr(nursery, "wake_at_once", lambda: did.append("wakes"))
        monkeypatch.setattr(nursery, "end_with", did.append)
        monkeypatch.setattr(nursery, "import_module", imported)
        monkeypatch.setattr(gc, "freeze", lambda: did.append("froze"))
        monkeypatch.setattr(gc, "collect", lambda: 0)
        runpy.run_module("weighbridge.entrypoints.nursery", run_name="__main__")
        return did

    with closing_channels(monkeypatch):
        yield started


def test_a_nursery_imports_its_library_and_leaves_signals_to_its_parent(start: Callable[[str], list[Any]]) -> None:
    assert start("sklearn") == [
        *((number, signal.SIG_IGN) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)),
        "wakes",
        4711,
        "weighbridge.adapters.runtimes.sklearn",
        "pandas",
        "froze",
    ]


def test_a_nursery_of_a_library_that_is_not_there_leaves_it_to_runners_to_say_so(
    start: Callable[[str], list[Any]],
) -> None:
    assert start("nothing")[-2:] == ["weighbridge.adapters.runtimes.nothing", "froze"]


def test_nothing_happens_when_the_program_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nursery, "main", Ended)

    runpy.run_module("weighbridge.entrypoints.nursery", run_name="imported")
