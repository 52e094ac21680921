"""What a manifest and a rollout may say, and how what they may not say is told."""

import re
from typing import Any

import pytest
import tomli_w
from pydantic import ValidationError

from weighbridge.adapters.manifest import Manifest, Options, Rollout, order, pinned
from weighbridge.domain.errors import ModelRefused
from weighbridge.domain.signature import Column, Kind, Signature

VECTOR = {"name": "features", "type": "float", "width": 4}
SCORE = {"name": "prediction", "type": "float"}
GOOD = {
    "runtime": "linear",
    "artefact": "weights.json",
    "sha256": "0" * 64,
    "inputs": [VECTOR],
    "outputs": [SCORE],
}


def toml(**changes: Any) -> bytes:
    """The good manifest, with these changes; None takes a key away."""
    return tomli_w.dumps({key: value for key, value in {**GOOD, **changes}.items() if value is not None}).encode()


def refusal(text: bytes) -> str:
    with pytest.raises(ModelRefused) as caught:
        Manifest.read(text, "models/churn/1/model.toml")
    return str(caught.value).removeprefix("models/churn/1/model.toml: ")


def test_a_manifest_states_a_signature() -> None:
    manifest = Manifest.read(toml(), "model.toml")

    assert manifest.signature() == Signature(
        (Column(name="features", kind=Kind.FLOAT, width=4),), (Column(name="prediction", kind=Kind.FLOAT),)
    )


def test_what_is_written_is_read_again() -> None:
    manifest = Manifest.read(toml(libraries={"python": "3.11"}), "model.toml")

    assert Manifest.read(manifest.render(), "model.toml") == manifest


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"colour": 1}, "colour: Extra inputs are not permitted"),
        (
            {"runtime": "pickle"},
            "runtime: Input should be 'linear', 'onnx', 'sklearn', 'xgboost', 'lightgbm' or 'python'",
        ),
        ({"title": ""}, "title: String should have at least 1 character"),
        ({"title": "t" * 101}, "title: String should have at most 100 characters"),
        ({"title": "two\nlines"}, "title: it must be one line of printable characters"),
        ({"owner": "\u202eus"}, "owner: it must be one line of printable characters"),
        ({"description": "d" * 1001}, "description: String should have at most 1000 characters"),
        ({"description": "\x1b[2J"}, "description: it must be one line of printable characters"),
        ({"inputs": []}, "inputs: List should have at least 1 item after validation, not 0"),
        ({"inputs": [{**VECTOR, "width": "4"}]}, "inputs.0.width: Input should be a valid integer"),
        ({"inputs": [SCORE, SCORE]}, "two inputs have the same name"),
        ({"runtime": "python"}, "entry: the runtime python needs module:Class"),
        ({"entry": "shop:Model"}, "the runtime linear needs an artefact, and takes no entry"),
        ({"artefact": None}, "the runtime linear needs an artefact, and takes no entry"),
        ({"sha256": None}, "artefact and sha256 must be given together"),
    ],
)
def test_a_manifest_that_is_wrong_is_refused_with_key_and_expectation(changes: dict[str, Any], message: str) -> None:
    assert refusal(toml(**changes)) == message


@pytest.mark.parametrize(
    ("cell", "told"),
    [
        ([True], None),
        ([1, 2.5], None),
        ([], None),
        ([1, "a"], ".ints.1: Input should be a valid integer"),
        ([[]], ": Input should be a boolean, a number, a string or an array of one of these"),
        ({}, ": Input should be a boolean, a number, a string or an array of one of these"),
    ],
)
def test_a_cell_of_a_golden_row_is_of_one_type(cell: Any, told: str | None) -> None:
    text = toml(golden=[{"input": {"features": cell}, "output": {}}])

    if told is None:
        assert Manifest.read(text, "model.toml").golden[0].input == {"features": cell}
    else:
        assert refusal(text) == f"golden.0.input.features{told}"


@pytest.mark.parametrize(
    "changes",
    [
        {"inputs": [{}, {}]},
        {"inputs": [{**VECTOR, "categories": [1, 2]}]},
        {"golden": [1, 2]},
        {"golden": [{"input": {"features": [[], []]}, "output": {}}]},
        {"golden": [{"input": {"features": [1, "a", "b"]}, "output": {}}]},
    ],
)
def test_in_an_array_no_more_is_looked_at_than_the_first_value_that_is_wrong(changes: dict[str, Any]) -> None:
    with pytest.raises(ModelRefused) as caught:
        Manifest.read(toml(**changes), "model.toml")

    assert isinstance(caught.value.__cause__, ValidationError)
    assert caught.value.__cause__.error_count() <= 2  # of one column, that name and type are missing


@pytest.mark.parametrize("changes", [{"k" * 10_000: 1}, {"inputs": [{**VECTOR, "name": "k" * 10_000, "width": 0}]}])
def test_a_reason_is_of_bounded_length_whatever_it_quotes(changes: dict[str, Any]) -> None:
    assert refusal(toml(**changes)).endswith("kkk...")


@pytest.mark.parametrize("text", [b"runtime = ", b"\xff", b"a = " + b"[" * 100_000])
def test_what_is_no_toml_is_refused(text: bytes) -> None:
    assert refusal(text).startswith("not valid TOML in UTF-8: ")


def test_a_rollout_names_versions() -> None:
    assert Rollout.parse(b'live = "1.10"\nprevious = "2"', "rollout.toml") == Rollout(live="1.10", previous="2")


def test_options_are_those_at_the_top_unless_a_version_has_its_own() -> None:
    rollout = Rollout.parse(
        b"""
placement = "runner"
instances = 2
threads = 4
repeat = false

[versions."1.2"]
instances = 1
call_timeout = 5
""",
        "rollout.toml",
    )

    assert rollout.options("1") == Options(placement="runner", instances=2, threads=4, repeat=False)
    assert rollout.options("1.2") == Options(placement="runner", threads=4, call_timeout=5.0, repeat=False)


def test_an_option_that_is_written_with_its_default_is_like_one_that_is_left_out() -> None:
    assert Rollout.parse(b"instances = 1", "rollout.toml").options("1") == Rollout().options("1")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('live = "../2"', "live: String should match pattern"),
        ("live = 1", "live: Input should be a valid string"),
        ("colour = 1", "colour: Extra inputs are not permitted"),
        ("repeat = 0", "repeat: Input should be a valid boolean"),
        ("threads = true", "threads: Input should be a valid integer"),
        ("instances = 65", "instances: Input should be less than or equal to 64"),
        ("memory = 1048575", "memory: Input should be greater than or equal to 1048576"),
        ("memory = 9223372036854775808", "memory: Input should be less than or equal to 9223372036854775807"),
        ("call_timeout = 0", "call_timeout: Input should be greater than 0"),
        ("call_timeout = inf", "call_timeout: Input should be a finite number"),
        ('placement = "gpu"', "placement: Input should be 'inline' or 'runner'"),
        ("[versions.latest]", "versions.latest.[key]: String should match pattern"),
        (
            '[versions."1.2"]\nmax_batch_rows = 0',
            "versions.1.2.max_batch_rows: Input should be greater than or equal to 1",
        ),
        ('[versions."1.2"]\nlive = "2"', "versions.1.2.live: Extra inputs are not permitted"),
    ],
)
def test_a_rollout_that_is_wrong_is_refused_with_key_and_expectation(text: str, message: str) -> None:
    with pytest.raises(ModelRefused, match=f"^{re.escape(f'rollout.toml: {message}')}"):
        Rollout.parse(text.encode(), "rollout.toml")


def test_what_operators_have_written_stays_when_other_versions_are_pinned() -> None:
    before = b"""# Ask Ada before you change this
instances = 2  # one for each socket

live = "1"  # the old one
[versions."2"]
threads = 4
"""

    assert (
        pinned(before, "rollout.toml", live="2", previous="1").decode()
        == """# Ask Ada before you change this
instances = 2  # one for each socket

live = "2"  # the old one
previous = "1"

[versions."2"]
threads = 4
"""
    )


def test_a_version_that_is_pinned_with_none_before_it_leaves_none_in_the_file() -> None:
    assert pinned(b'live = "2"\nprevious = "1"\n', "rollout.toml", live="1", previous=None) == b'live = "1"\n'


def test_a_rollout_without_a_line_break_at_its_end_is_still_one_when_versions_are_pinned() -> None:
    after = pinned(b'versions."1".threads = 2', "rollout.toml", live="1", previous=None)

    assert Rollout.parse(after, "rollout.toml") == Rollout(live="1", versions={"1": Options(threads=2)})


def test_no_version_is_pinned_in_a_file_that_is_no_rollout() -> None:
    with pytest.raises(ModelRefused, match=r"^rollout.toml: live: Input should be a valid string$"):
        pinned(b"live = 1", "rollout.toml", live="1", previous=None)


def test_versions_are_ordered_number_by_number() -> None:
    assert sorted(["10", "1.10", "2", "1.9", "1"], key=order) == ["1", "1.9", "1.10", "2", "10"]
