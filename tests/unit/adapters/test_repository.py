import errno
import os
import re
import socket
import stat
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from tests.starving import open_files
from weighbridge.adapters import seen
from weighbridge.adapters.artefact import sha256 as digest_of
from weighbridge.adapters.manifest import Manifest, Options, Rollout
from weighbridge.adapters.repository import FoundModel, FoundVersion, Repository
from weighbridge.domain.errors import ModelRefused

MANIFEST = """
runtime = "linear"
artefact = "weights.json"
sha256 = "{digest}"
inputs = [{{ name = "features", type = "float", width = 2 }}]
outputs = [{{ name = "prediction", type = "float" }}]
"""
PYTHON = """
runtime = "python"
entry = "shop:Model"
inputs = [{ name = "age", type = "int" }]
outputs = [{ name = "prediction", type = "float" }]
"""


def place(root: Path, version: str, artefact: bytes = b"[1.0, 2.0]") -> Path:
    """A version that is in order, `name/version`."""
    directory = root / version
    directory.mkdir(parents=True)
    (directory / "weights.json").write_bytes(artefact)
    (directory / "model.toml").write_text(MANIFEST.format(digest=sha256(artefact).hexdigest()))
    return directory


def reason(root: Path, version: str) -> str | None:
    return Repository(root).scan()["churn"].versions[version].reason


def test_versions_are_in_numeric_order_and_the_highest_is_wanted(tmp_path: Path) -> None:
    for version in ("10", "1.10", "9", "1.9", "2"):
        place(tmp_path, f"churn/{version}")

    model = Repository(tmp_path).scan()["churn"]

    assert list(model.versions) == ["1.9", "1.10", "2", "9", "10"]
    assert model.wanted == "10"


def test_one_model_is_found_as_among_all(tmp_path: Path) -> None:
    place(tmp_path, "churn/1")
    place(tmp_path, "broken/1", b"[]").joinpath("weights.json").unlink()
    repository = Repository(tmp_path)

    assert {name: repository.find(name) for name in ("churn", "broken")} == repository.scan()


@pytest.mark.parametrize("name", ["nothing", "..", "", "churn/1"])
def test_a_model_that_is_not_there_is_not_found(tmp_path: Path, name: str) -> None:
    place(tmp_path, "churn/1")

    with pytest.raises(ModelRefused, match=r"^models"):
        Repository(tmp_path).find(name)


def test_the_rollout_says_which_version_is_wanted(tmp_path: Path) -> None:
    place(tmp_path, "churn/1")
    place(tmp_path, "churn/2")
    (tmp_path / "churn/rollout.toml").write_text('live = "1"')

    model = Repository(tmp_path).scan()["churn"]

    assert (model.rollout, model.wanted) == (Rollout(live="1"), "1")


def test_without_a_live_version_in_the_rollout_the_highest_is_wanted_with_its_options(tmp_path: Path) -> None:
    place(tmp_path, "churn/1")
    place(tmp_path, "churn/2")
    (tmp_path / "churn/rollout.toml").write_text('instances = 2\n[versions."1"]\nthreads = 4')

    model = Repository(tmp_path).scan()["churn"]

    assert (model.wanted, model.options("1"), model.options("2")) == (
        "2",
        Options(instances=2, threads=4),
        Options(instances=2),
    )


def test_without_a_rollout_a_version_has_the_default_options() -> None:
    assert FoundModel(None, None, {}).options("1") == Options()


def test_a_version_in_order_has_the_digest_of_its_artefact(tmp_path: Path) -> None:
    place(tmp_path, "churn/1", b"[3.0, 4.0]")

    version = Repository(tmp_path).scan()["churn"].versions["1"]

    assert (version.sha256, version.reason) == (sha256(b"[3.0, 4.0]").hexdigest(), None)


def test_a_version_without_an_artefact_is_in_order(tmp_path: Path) -> None:
    (tmp_path / "churn/1").mkdir(parents=True)
    (tmp_path / "churn/1/model.toml").write_text(PYTHON)
    repository = Repository(tmp_path)

    version = repository.scan()["churn"].versions["1"]

    assert (version.sha256, version.reason) == (None, None)
    assert repository.artefact("churn", "1", repository.manifest("churn", "1")).read() == b""


def test_a_fingerprint_changes_with_the_manifest(tmp_path: Path) -> None:
    directory = place(tmp_path, "churn/1")
    repository = Repository(tmp_path)
    before = repository.scan()["churn"].versions["1"]
    with (directory / "model.toml").open("a") as manifest:
        manifest.write("# another day\n")

    after = repository.scan()["churn"].versions["1"]

    assert before.sha256 == after.sha256
    assert before.fingerprint != after.fingerprint


def test_an_artefact_is_the_bytes_that_were_checked(tmp_path: Path) -> None:
    place(tmp_path, "churn/1", b"[5.0, 6.0]")
    repository = Repository(tmp_path)

    assert repository.artefact("churn", "1", repository.manifest("churn", "1")).read() == b"[5.0, 6.0]"


def test_an_artefact_of_more_than_there_may_be_is_not_read(tmp_path: Path) -> None:
    directory = place(tmp_path, "churn/1", bytes(100))
    repository = Repository(tmp_path, most_bytes=100)
    manifest = repository.manifest("churn", "1")
    assert repository.artefact("churn", "1", manifest).read() == bytes(100)

    os.truncate(directory / "weights.json", 10**12)
    limit = "at most 100 bytes (WEIGHBRIDGE_LOAD_MEMORY_BYTES)"
    expected = f"models/churn/1/weights.json: expected {limit}, got 1000000000000"

    with pytest.raises(ModelRefused, match=f"^{re.escape(expected)}$"):
        repository.artefact("churn", "1", manifest)
    assert repository.scan()["churn"].versions["1"].reason == expected


def test_an_artefact_that_takes_too_long_to_read_is_given_up(tmp_path: Path) -> None:
    place(tmp_path, "churn/1")
    repository = Repository(tmp_path, most_seconds=0)

    with pytest.raises(ModelRefused, match=r"reading took longer than 0 seconds"):
        repository.artefact("churn", "1", repository.manifest("churn", "1"))


def test_an_artefact_with_another_digest_is_refused(tmp_path: Path) -> None:
    (place(tmp_path, "churn/1") / "weights.json").write_bytes(b"[6.0, 6.0]")
    repository = Repository(tmp_path)

    with pytest.raises(ModelRefused, match=r"^models/churn/1/weights.json: expected the sha256 [0-9a-f]{64}, got "):
        repository.artefact("churn", "1", repository.manifest("churn", "1"))
    assert "expected the sha256" in str(reason(tmp_path, "1"))


@pytest.fixture
def readings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are read, as long as no file counts as just changed."""
    read = list[str]()

    def noting(name: str, function: Any) -> Any:
        def note(*arguments: Any) -> Any:
            read.append(name)
            return function(*arguments)

        return note

    monkeypatch.setattr(seen, "_SETTLED_NS", -(10**9))
    monkeypatch.setattr(Manifest, "read", noting("model.toml", Manifest.read))
    monkeypatch.setattr(Rollout, "parse", noting("rollout.toml", Rollout.parse))
    monkeypatch.setattr("weighbridge.adapters.repository.sha256", noting("weights.json", digest_of))
    return read


@pytest.mark.parametrize("broken", [False, True])
def test_files_are_read_again_only_when_they_have_changed(tmp_path: Path, readings: list[str], *, broken: bool) -> None:
    version = place(tmp_path, "churn/1")
    files = {"model.toml": version, "weights.json": version, "rollout.toml": version.parent}
    (tmp_path / "churn/rollout.toml").write_text('live = "1"')
    if broken:
        del files["weights.json"]  # which nobody asks for
        for name, directory in files.items():
            (directory / name).write_text("colour = 1")
    repository = Repository(tmp_path)
    found = repository.scan()
    assert sorted(readings) == sorted(files)

    for name, directory in files.items():
        readings.clear()
        assert repository.scan() == repository.scan("churn") == found
        assert readings == []
        (directory / name).touch()
        assert repository.scan("churn") == found
        assert readings == [name]


def test_a_file_that_has_just_changed_is_read_again_for_it_may_change_once_more_at_the_same_time(
    tmp_path: Path, readings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seen, "_SETTLED_NS", 10**12)
    place(tmp_path, "churn/1")
    repository = Repository(tmp_path)
    repository.scan()
    repository.scan()

    assert readings == ["model.toml", "weights.json"] * 2


def test_a_file_that_could_not_be_read_is_tried_again(
    tmp_path: Path, readings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> str:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    place(tmp_path, "churn/1")
    repository = Repository(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("weighbridge.adapters.repository.sha256", fail)
        assert str(repository.scan()["churn"].versions["1"].reason).endswith("got Input/output error")

    assert repository.scan()["churn"].versions["1"].reason is None
    assert readings == ["model.toml", "weights.json"]


def test_a_version_that_moves_is_refused_by_its_new_name(tmp_path: Path, readings: list[str]) -> None:
    (place(tmp_path, "churn/1") / "model.toml").write_text("colour = 1")
    repository = Repository(tmp_path)
    repository.scan()
    (tmp_path / "churn/1").rename(tmp_path / "churn/2")

    assert str(repository.scan()["churn"].versions["2"].reason).startswith("models/churn/2/model.toml: ")
    assert readings == ["model.toml"] * 2


def test_what_is_gone_is_forgotten(tmp_path: Path, readings: list[str]) -> None:
    place(tmp_path, "churn/1")
    place(tmp_path, "churn/2")
    repository = Repository(tmp_path)
    repository.scan()
    (tmp_path / "churn/2").rename(tmp_path / ".2")
    repository.scan()
    assert {path for _, path in repository._seen["churn"]} == {
        "models/churn/1/model.toml",
        "models/churn/1/weights.json",
    }
    (tmp_path / "churn").rename(tmp_path / "away+")
    repository.scan()

    assert repository._seen == {}
    assert len(readings) == 4


def test_of_one_model_only_that_is_looked_at(tmp_path: Path, readings: list[str]) -> None:
    place(tmp_path, "churn/1")
    place(tmp_path, "fraud/1")
    repository = Repository(tmp_path)

    assert [*repository.scan("churn")] == ["churn"]
    assert readings == ["model.toml", "weights.json"]
    assert repository.scan("nothing") == {}


@pytest.mark.parametrize("file", ["model.toml", "weights.json"])
@pytest.mark.parametrize("kind", ["nothing", "a symbolic link", "a pipe", "a socket", "a directory"])
def test_what_is_no_plain_file_is_refused(tmp_path: Path, file: str, kind: str) -> None:
    path = place(tmp_path, "churn/1") / file
    path.rename(tmp_path / "elsewhere")
    with socket.socket(socket.AF_UNIX) as listener:
        match kind:
            case "a symbolic link":
                path.symlink_to(tmp_path / "elsewhere")
            case "a pipe":
                os.mkfifo(path)
            case "a socket":
                here = Path.cwd()
                os.chdir(path.parent)  # the address of a socket has to be short
                listener.bind(file)
                os.chdir(here)
            case "a directory":
                path.mkdir()

    assert reason(tmp_path, "1") == f"models/churn/1/{file}: expected a file, got {kind}"


@pytest.mark.parametrize("where", ["models/churn", "models/churn/1"])
def test_a_directory_behind_a_symbolic_link_is_refused(tmp_path: Path, where: str) -> None:
    place(tmp_path / "elsewhere", "churn/1")
    link = tmp_path / where
    link.parent.mkdir(parents=True)
    link.symlink_to(tmp_path / "elsewhere" / Path(where).relative_to("models"))
    repository = Repository(tmp_path / "models")

    with pytest.raises(ModelRefused, match=rf"^{where}: expected a directory, got a symbolic link$"):
        repository.manifest("churn", "1")
    assert f"{where}: expected a directory, got a symbolic link" in str(repository.scan())


def test_the_directory_of_models_may_be_a_symbolic_link(tmp_path: Path) -> None:
    place(tmp_path / "elsewhere", "churn/1")
    (tmp_path / "models").symlink_to("elsewhere")

    assert Repository(tmp_path / "models").scan()["churn"].wanted == "1"


@pytest.mark.parametrize(("file", "at", "most"), [("1/model.toml", "1", 1024**2), ("rollout.toml", None, 64 * 1024)])
def test_a_large_toml_file_is_refused(tmp_path: Path, file: str, at: str | None, most: int) -> None:
    place(tmp_path, "churn/1")
    with (tmp_path / "churn" / file).open("ab") as toml:
        toml.truncate(most + 1)

    model = Repository(tmp_path).scan()["churn"]

    told = model.problem if at is None else model.versions[at].reason
    assert told == f"models/churn/{file}: the file is larger than {most} bytes"


@pytest.mark.parametrize("part", ["a", "'a'", '"a\\""', "1 "])
def test_a_key_that_would_take_a_minute_to_read_is_refused(tmp_path: Path, part: str) -> None:
    (place(tmp_path, "churn/1") / "model.toml").write_text(".".join([part] * 100_000) + " = 1")

    assert reason(tmp_path, "1") == "models/churn/1/model.toml: a key has more than 64 parts"


def test_with_a_broken_rollout_no_version_is_wanted_but_all_are_listed(tmp_path: Path) -> None:
    place(tmp_path, "churn/1")
    (tmp_path / "churn/rollout.toml").write_text("live = 1")

    model = Repository(tmp_path).scan()["churn"]

    assert model.problem == "models/churn/rollout.toml: live: Input should be a valid string"
    assert (model.wanted, list(model.versions)) == (None, ["1"])


def test_a_rollout_that_cannot_be_read_is_not_taken_for_none(tmp_path: Path) -> None:
    (tmp_path / "churn/rollout.toml").mkdir(parents=True)

    assert Repository(tmp_path).scan()["churn"].problem == (
        "models/churn/rollout.toml: expected a file, got a directory"
    )


def test_what_is_hidden_and_plain_files_are_passed_over(tmp_path: Path) -> None:
    place(tmp_path, "churn/1")
    (tmp_path / "churn/.2.tmp").mkdir()
    (tmp_path / "churn/notes").touch()
    (tmp_path / ".git").mkdir()
    (tmp_path / "README.md").touch()
    repository = Repository(tmp_path)

    assert {name: list(model.versions) for name, model in repository.scan().items()} == {"churn": ["1"]}
    assert repository.strangers() == []


def test_what_is_no_version_by_its_name_is_refused(tmp_path: Path) -> None:
    place(tmp_path, "churn/1")
    (tmp_path / "churn/latest").mkdir()
    (tmp_path / f"churn/\N{SNOWMAN}{'x' * 100}").mkdir()

    versions = Repository(tmp_path).scan()["churn"].versions

    assert {name: version.reason for name, version in versions.items() if name != "1"} == {
        name: f"models/churn/{name}: not the name of a version, such as 2 or 1.10"
        for name in ("latest", f"\\u2603{'x' * 58}...")
    }


def test_of_two_versions_with_the_same_number_one_is_refused(tmp_path: Path) -> None:
    place(tmp_path, "churn/01")
    place(tmp_path, "churn/1")

    model = Repository(tmp_path).scan()["churn"]

    assert model.versions["1"].reason is None
    assert model.versions["01"].reason == "models/churn/01: the same number as version 1"
    assert model.wanted == "1"


def test_a_model_with_the_name_of_the_embedded_one_is_refused(tmp_path: Path) -> None:
    place(tmp_path, "default/1")

    assert Repository(tmp_path).scan() == {
        "default": FoundModel(None, "models/default: the name is taken by the embedded model; rename the directory", {})
    }


def test_what_is_no_model_by_its_name_is_told_apart(tmp_path: Path) -> None:
    (tmp_path / "lost+found").mkdir()
    repository = Repository(tmp_path)

    assert repository.scan() == {}
    [stranger] = repository.strangers()
    assert stranger.startswith("models/lost+found: the name of a model has at most 128 letters")


def test_a_model_without_versions_wants_none(tmp_path: Path) -> None:
    (tmp_path / "churn").mkdir()

    assert Repository(tmp_path).scan()["churn"] == FoundModel(None, None, {})
    assert FoundModel(None, None, {"latest": FoundVersion(reason="")}).wanted is None


@pytest.mark.parametrize(("name", "version"), [("../churn", "1"), ("churn", ".."), ("churn", "1/../1")])
def test_a_name_is_no_path(tmp_path: Path, name: str, version: str) -> None:
    place(tmp_path, "churn/1")

    with pytest.raises(ModelRefused, match=r"^models: expected (the name of a model|a version), got "):
        Repository(tmp_path).manifest(name, version)


def test_without_a_directory_there_are_no_models() -> None:
    repository = Repository(None)

    assert (repository.scan(), repository.strangers()) == ({}, [])
    with pytest.raises(ModelRefused, match=r"^models: WEIGHBRIDGE_MODELS is not set$"):
        repository.manifest("churn", "1")


def test_a_directory_of_models_that_is_not_there_or_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    for name, got in (("nowhere", "nothing"), ("file", "a file")):
        with pytest.raises(ModelRefused, match=rf"^models: expected a directory, got {got}$"):
            Repository(tmp_path / name).scan()


def test_a_version_that_vanishes_is_refused(tmp_path: Path) -> None:
    place(tmp_path, "churn/1")

    with pytest.raises(ModelRefused, match=r"^models/churn/2: expected a directory, got nothing$"):
        Repository(tmp_path).manifest("churn", "2")


def test_a_model_that_vanishes_while_it_is_looked_at_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "churn").mkdir()
    real = os.open

    def open_late(path: str | Path, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        if path == "churn":
            (tmp_path / "churn").rmdir()
        return real(path, flags, mode, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", open_late)

    assert Repository(tmp_path).scan()["churn"].problem == "models/churn: expected a directory, got nothing"


def test_an_artefact_that_memory_cannot_hold_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place(tmp_path, "churn/1")
    repository = Repository(tmp_path)
    manifest = repository.manifest("churn", "1")

    def too_large(*_: object, **__: object) -> None:
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    monkeypatch.setattr(os, "write", too_large)

    with pytest.raises(
        ModelRefused,
        match=r"^models/churn/1/weights.json: expected a file that can be read, got Cannot allocate memory$",
    ):
        repository.artefact("churn", "1", manifest)


def test_a_rollout_is_written_whole_and_read_again(tmp_path: Path) -> None:
    place(tmp_path, "churn/1")
    repository = Repository(tmp_path)

    repository.write_rollout("churn", live="1", previous="2")

    assert repository.scan()["churn"].rollout == Rollout(live="1", previous="2")
    assert sorted(path.name for path in (tmp_path / "churn").iterdir()) == ["1", "rollout.toml"]


def test_a_rollout_keeps_what_operators_have_written(tmp_path: Path) -> None:
    place(tmp_path, "churn/1")
    file = tmp_path / "churn/rollout.toml"
    file.write_text("# one for each socket\ninstances = 2\n")

    Repository(tmp_path).write_rollout("churn", live="1", previous=None)

    assert file.read_text() == '# one for each socket\ninstances = 2\nlive = "1"\n'


def test_a_broken_rollout_is_left_as_it_is(tmp_path: Path) -> None:
    place(tmp_path, "churn/1")
    file = tmp_path / "churn/rollout.toml"
    file.write_text("live = 1")

    with pytest.raises(ModelRefused, match=r"^models/churn/rollout.toml: live: Input should be a valid string$"):
        Repository(tmp_path).write_rollout("churn", live="1", previous=None)

    assert file.read_text() == "live = 1"


def test_a_rollout_that_would_be_too_large_to_be_read_again_is_not_written(tmp_path: Path) -> None:
    place(tmp_path, "churn/1")
    file = tmp_path / "churn/rollout.toml"
    file.write_text("#" * 64 * 1024)

    with pytest.raises(ModelRefused, match=r"^models/churn/rollout.toml: the file is larger than 65536 bytes$"):
        Repository(tmp_path).write_rollout("churn", live="1", previous=None)

    assert file.read_text() == "#" * 64 * 1024


def test_a_rollout_keeps_its_permissions(tmp_path: Path) -> None:
    place(tmp_path, "churn/1")
    file = tmp_path / "churn/rollout.toml"
    file.touch()
    file.chmod(0o664)

    Repository(tmp_path).write_rollout("churn", live="1", previous=None)

    assert stat.S_IMODE(file.stat().st_mode) == 0o664


def test_a_rollout_that_cannot_be_written_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "churn").mkdir()

    def no_space(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", no_space)

    with pytest.raises(OSError, match="No space left"):
        Repository(tmp_path).write_rollout("churn", live="1", previous=None)

    assert not [*(tmp_path / "churn").iterdir()]


def test_descriptors_are_given_back(tmp_path: Path) -> None:
    (place(tmp_path, "churn/1") / "weights.json").unlink()
    repository = Repository(tmp_path)
    descriptors = open_files()
    repository.scan()
    repository.write_rollout("churn", live="1", previous=None)

    assert open_files() == descriptors
