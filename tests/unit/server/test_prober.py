"""The prober with real processes: programs that end in every way, and the probe itself."""

import asyncio
import errno
import fcntl
import json
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import uvloop

from tests.starving import open_artefacts, uncollected
from tests.waiting import DEADLINE, until
from weighbridge.adapters.artefact import Artefact
from weighbridge.domain.errors import ModelRefused
from weighbridge.server import yielding
from weighbridge.server.prober import PROBE, Prober
from weighbridge.settings import Settings

LINEAR = """
runtime = "linear"
artefact = "weights.json"
sha256 = "{digest}"
inputs = [{{ name = "features", type = "float", width = 2 }}]
outputs = [{{ name = "prediction", type = "float" }}]
golden = [{{ input = {{ features = [1.0, 2.0] }}, output = {{ prediction = 5.0 }} }}]
"""
PYTHON = """
runtime = "python"
entry = "shop:Model"
inputs = [{ name = "x", type = "int" }]
outputs = [{ name = "y", type = "int" }]
"""
SPEAKS = "import json, os, signal, sys\ndef say(text): os.write(int(sys.argv[1]), text)\n"
SHORT_OF_MEMORY = "expected to be opened within 1048576 bytes of memory, WEIGHBRIDGE_LOAD_MEMORY_BYTES, got more"
OPENS = SPEAKS + "say(b'{\"opened\": true}\\n')"


@dataclass
class Models:
    """A directory with one version, churn/1, and what becomes of it."""

    root: Path

    def linear(self, artefact: bytes = b'{"weights": [1.0, 2.0]}') -> None:
        self._place(LINEAR.format(digest=sha256(artefact).hexdigest()))
        (self.root / "churn/1/weights.json").write_bytes(artefact)

    def python(self, code: str) -> str:
        """Have the version import `code`, and give why it is refused."""
        (self.root.parent / "shop.py").write_text(code)
        self._place(PYTHON)
        return self.refusal(python_models=True, load_memory_bytes=512 * 1024**2)

    def _place(self, manifest: str) -> None:
        (self.root / "churn/1").mkdir(parents=True, exist_ok=True)
        (self.root / "churn/1/model.toml").write_text(manifest)

    def prober(self, program: str | None = None, **settings: Any) -> Prober:
        """One that runs the probe, or another program."""
        given = Settings(models=str(self.root), **settings)
        return Prober(given, PROBE if program is None else (sys.executable, "-c", program))

    def prove(self, program: str | None = None, **settings: Any) -> None:
        prove(self.prober(program, **settings))

    def refusal(self, program: str | None = None, **settings: Any) -> str:
        with pytest.raises(ModelRefused) as refused:
            self.prove(program, **settings)
        return str(refused.value)


def prove(*probers: Prober) -> list[Artefact]:
    """Have them prove churn/1, all at once."""

    async def main() -> list[Artefact]:
        return await asyncio.gather(*(prober.prove("churn", "1") for prober in probers))

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main())


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Models:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    models = Models(tmp_path / "models")
    models.linear()
    return models


def test_a_version_that_can_be_served_is_proven(models: Models) -> None:
    models.prove()


def test_the_process_opens_what_was_read_before_and_others_get_the_same(models: Models) -> None:
    program = f"""
import os, sys
os.unlink({str(models.root / "churn/1/weights.json")!r})
os.execv({PROBE[0]!r}, [*{PROBE!r}, sys.argv[1]])
"""

    [artefact] = prove(models.prober(program))

    assert artefact.read() == b'{"weights": [1.0, 2.0]}'


@pytest.mark.parametrize("program", ["", OPENS])
def test_nothing_is_kept_of_what_was_read(models: Models, program: str) -> None:
    async def main() -> None:
        before = open_artefacts()
        with suppress(ModelRefused):
            read = await models.prober(program).prove("churn", "1")
            assert open_artefacts() == before + 1
            del read
        assert open_artefacts() == before

    with uncollected():
        asyncio.run(main())


def test_no_more_is_read_than_may_be_opened(models: Models) -> None:
    os.truncate(models.root / "churn/1/weights.json", 2**40)

    assert models.refusal("", load_memory_bytes=1024**2) == (
        "models/churn/1/weights.json: expected at most 1048576 bytes, WEIGHBRIDGE_LOAD_MEMORY_BYTES, got 1099511627776"
    )


def test_what_takes_too_long_to_read_is_not_waited_for(models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    go_on = threading.Event()

    def hanging(*_: object) -> None:
        assert go_on.wait(DEADLINE)
        raise OSError

    monkeypatch.setattr(Artefact, "copy", hanging)

    assert models.refusal("", load_timeout=0.2) == (
        "models/churn/1: expected to be read within 0.2 seconds, WEIGHBRIDGE_LOAD_TIMEOUT, got no end"
    )
    go_on.set()


def test_a_version_is_refused_when_there_is_no_descriptor_to_read_it_with(
    models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_descriptor(*_: object) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(os, "memfd_create", no_descriptor)
    (models.root / "churn/1/model.toml").write_text(PYTHON)

    assert models.refusal("") == "models/churn/1: expected to be read, got OSError: [Errno 24] Too many open files"


def test_the_reason_of_the_loader_is_told(models: Models) -> None:
    models.linear(b'{"weights": [1.0, 3.0]}')

    assert models.refusal() == ("models/churn/1/model.toml: golden.0.output.prediction: expected 5.0, got 7.0")


def test_a_manifest_that_is_wrong_needs_no_process(models: Models) -> None:
    (models.root / "churn/1/model.toml").unlink()

    assert models.refusal("") == "models/churn/1/model.toml: expected a file, got nothing"


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("", "expected to be opened, got a process that ended with code 0 and said nothing"),
        (
            "import sys; print('one', file=sys.stderr); sys.exit('two\\n')",
            "expected to be opened, got a process that ended with code 1 and said nothing: two",
        ),
        (
            SPEAKS + "os.kill(os.getpid(), signal.SIGSEGV)",
            "expected to be opened, got a process that was killed by signal 11 (Segmentation fault)",
        ),
        (
            "raise MemoryError",
            f"{SHORT_OF_MEMORY}: MemoryError",
        ),
        (
            SPEAKS + 'say(b\'{"out_of_memory": "bad_alloc"}\\n\')',
            f"{SHORT_OF_MEMORY}: bad_alloc",
        ),
    ],
)
def test_a_process_that_ends_otherwise_refuses_the_version(models: Models, program: str, reason: str) -> None:
    assert models.refusal(program, load_memory_bytes=1024**2) == f"models/churn/1: {reason}"


def test_a_process_that_takes_too_long_is_ended(models: Models) -> None:
    assert models.refusal("import signal; signal.pause()", load_timeout=0.2) == (
        "models/churn/1: expected to be opened within 0.2 seconds, WEIGHBRIDGE_LOAD_TIMEOUT, got no end"
    )


@pytest.mark.parametrize(
    "program",
    [
        "print('{\"opened\": true}', flush=True)",
        SPEAKS + "say(b'{\"opened\": true}')",
        SPEAKS + "say(b'{\"opened\": \\n')",
        SPEAKS + "say(b'[' * 10_000 + b'\\n')",
        SPEAKS + "say(b'{\"opened\": false}\\n')",
    ],
)
def test_what_is_no_whole_verdict_in_its_place_counts_for_nothing(models: Models, program: str) -> None:
    assert "ended with code 0 and said nothing" in models.refusal(program)


def test_a_flood_of_errors_is_not_waited_for(models: Models) -> None:
    program = "import os\nos.write(2, b'x' * 10_000_000 + b'\\nthe last')"

    assert models.refusal(program).endswith("said nothing: the last")


def test_a_process_that_cannot_be_started_refuses_the_version(models: Models) -> None:
    prober = Prober(Settings(models=str(models.root)), [str(models.root / "nothing")])

    with pytest.raises(
        ModelRefused, match=r"^models/churn/1: expected a process to open it in, got none: No such file"
    ):
        prove(prober)


def test_a_process_that_cannot_be_watched_is_not_left_alone(models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_descriptor(_: int) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(os, "pidfd_open", no_descriptor)

    assert models.refusal("import signal; signal.pause()").endswith("got none: Too many open files")


def counting(path: Path) -> str:
    """A program that opens whatever it is asked to, and counts in a file how often."""
    return f"{OPENS}\nwith open({str(path)!r}, 'a') as file: file.write('x')"


def test_a_version_is_opened_once(models: Models, tmp_path: Path) -> None:
    prober = models.prober(counting(tmp_path / "count"))

    prove(prober, prober)
    prove(prober)
    assert (tmp_path / "count").read_text() == "x"

    models.linear(b"other")
    prove(prober)
    assert (tmp_path / "count").read_text() == "xx"


def test_a_version_whose_code_may_change_is_opened_each_time(models: Models, tmp_path: Path) -> None:
    (models.root / "churn/1/model.toml").write_text(PYTHON)
    prober = models.prober(counting(tmp_path / "count"))

    prove(prober)
    prove(prober)

    assert (tmp_path / "count").read_text() == "xx"


def locking(path: Path) -> str:
    """A program that locks a file for as long as it runs, and says so with a byte in it."""
    return f"""
import fcntl, signal
file = open({str(path)!r}, "w")
fcntl.flock(file, fcntl.LOCK_EX)
file.write("x")
file.flush()
"""


def is_free(path: Path) -> bool:
    with path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def test_what_a_process_leaves_behind_is_ended_with_it(models: Models, tmp_path: Path) -> None:
    child = f"{locking(tmp_path / 'lock')}signal.pause()"
    models.prove(
        f"""
import subprocess, sys
subprocess.Popen([sys.executable, "-c", {child!r}])
while not (file := open({str(tmp_path / "lock")!r}, "a+")).tell(): pass
{OPENS}
"""
    )

    until(lambda: is_free(tmp_path / "lock"))


def test_who_waits_no_longer_ends_the_process(models: Models, tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    lock.touch()

    async def main() -> None:
        proving = asyncio.ensure_future(models.prober(f"{locking(lock)}signal.pause()").prove("churn", "1"))
        while not lock.stat().st_size:
            await asyncio.wait({proving}, timeout=0.01)
        assert not is_free(lock)
        proving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await proving

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())

    assert is_free(lock)


def test_a_process_knows_none_of_the_settings_of_the_environment(
    models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WEIGHBRIDGE_ADMIN_TOKEN", "a secret of the operator")
    program = SPEAKS + "say(json.dumps({'refused': repr(sorted(os.environ))}).encode() + b'\\n')"

    known = models.refusal(program)

    assert "WEIGHBRIDGE" not in known


@pytest.mark.parametrize(("is_idle", "niceness"), [(True, 19), (False, os.getpriority(os.PRIO_PROCESS, 0))])
def test_a_process_gives_way_from_its_start_where_the_machine_has_anything_left(
    models: Models, monkeypatch: pytest.MonkeyPatch, *, is_idle: bool, niceness: int
) -> None:
    monkeypatch.setattr(yielding, "_is_idle", lambda: is_idle)

    models.prove(f"import os\nwhile os.getpriority(os.PRIO_PROCESS, 0) != {niceness}: pass\n{OPENS}", load_timeout=10.0)


def test_a_process_computes_in_one_thread(models: Models) -> None:
    program = SPEAKS + "say(json.dumps({'refused': os.environ['OPENBLAS_NUM_THREADS']}).encode() + b'\\n')"

    assert models.refusal(program) == "1"


def test_a_process_has_its_memory_on_huge_pages(models: Models) -> None:
    program = SPEAKS + "say(json.dumps({'refused': os.environ['GLIBC_TUNABLES']}).encode() + b'\\n')"

    assert models.refusal(program).startswith("glibc.malloc.hugetlb=1")


CONFINED = """
import ctypes, json, os, resource
signal = ctypes.c_int()
ctypes.CDLL(None).prctl(2, ctypes.byref(signal))
facts = {name: resource.getrlimit(getattr(resource, "RLIMIT_" + name)) for name in ("CORE", "DATA", "FSIZE", "NOFILE")}
facts["signal"] = signal.value
facts["privileges"] = [line.split() for line in open("/proc/self/status") if line.startswith("NoNewPrivs")]
facts["inherited"] = [fd for fd in range(256) if os.path.exists(f"/proc/self/fd/{fd}") and os.get_inheritable(fd)]
facts["gives_way"] = os.sched_getscheduler(0) == os.SCHED_BATCH
facts["has_group"] = os.getpgrp() == os.getpid()
facts["has_session"] = os.getsid(0) != os.getsid(os.getppid())  # where niceness would not count
raise ValueError(json.dumps(facts))
"""


def facts(refusal: str) -> Any:
    return json.loads(refusal.partition("ValueError: ")[2])


def test_a_probe_has_given_up_what_it_does_not_need(models: Models) -> None:
    assert facts(models.python(CONFINED)) == {
        "CORE": [0, 0],
        "DATA": [512 * 1024**2] * 2,
        "FSIZE": [512 * 1024**2] * 2,
        "NOFILE": [256, 256],
        "signal": 9,
        "privileges": [["NoNewPrivs:", "1"]],
        "inherited": [0, 1, 2],
        "gives_way": True,
        "has_group": True,
        "has_session": False,
    }


def test_a_probe_keeps_lower_limits_of_the_service(models: Models) -> None:
    models.python(CONFINED)
    lower = f"""
import os, resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))
os.execv({PROBE[0]!r}, [*{PROBE!r}, sys.argv[1]])
"""

    assert facts(models.refusal(lower, python_models=True))["NOFILE"] == [100, 100]


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("x = bytearray(2**30)", "expected to be opened within 536870912 bytes of memory"),
        ("import os; os._exit(0)", "ended with code 0 and said nothing"),
        ("print('{\"opened\": true}', flush=True)\nimport os\nos._exit(0)", "ended with code 0 and said nothing"),
        ("import sys; sys.exit()", "expected what the runtime python loads, got SystemExit"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "killed by signal 11 (Segmentation fault)"),
    ],
)
def test_code_that_does_its_worst_is_refused(models: Models, code: str, reason: str) -> None:
    assert reason in models.python(code)


def test_code_is_not_run_unless_the_operator_allows_it(models: Models) -> None:
    models.python("raise ValueError")

    assert "set WEIGHBRIDGE_PYTHON_MODELS=true" in models.refusal()


class Touch:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return Path.touch, (self._path,)


def test_a_pickle_in_disguise_is_never_unpickled(models: Models, tmp_path: Path) -> None:
    models.linear(pickle.dumps(Touch(tmp_path / "touched")))

    assert models.refusal().startswith("models/churn/1/weights.json: ")
    assert not (tmp_path / "touched").exists()


def test_a_probe_whose_parent_is_gone_says_nothing(models: Models) -> None:
    artefact = Artefact.of(b"")
    request = {
        "settings": models.prober()._settings.snapshot(),
        "name": "churn",
        "version": "1",
        "artefact": [artefact.descriptor, artefact.sha256()],
        "parent": 0,
    }
    reading, writing = os.pipe()
    done = subprocess.run(
        [*PROBE, str(writing)],
        input=json.dumps(request),
        text=True,
        pass_fds=[writing, artefact.descriptor],
        check=False,
        timeout=DEADLINE,
    )
    os.close(writing)

    with os.fdopen(reading) as said:
        assert (done.returncode, said.read()) == (1, "")
