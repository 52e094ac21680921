"""What a manifest and a rollout may say, and how what they may not say is told."""

from typing import Any

import pytest
import tomli_w

from weighbridge.adapters.manifest import Manifest, Rollout, order
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
        ({"inputs": []}, "inputs: List should have at least 1 item after validation, not 0"),
        ({"inputs": [{**VECTOR, "width": "4"}]}, "inputs.0.width: Input should be a valid integer"),
        ({"inputs": [SCORE, SCORE]}, "expected inputs with names of their own, got one name twice"),
        ({"runtime": "python"}, "entry: expected module:Class for the runtime python, got none"),
        ({"entry": "shop:Model"}, "expected artefact and no entry for the runtime linear"),
        ({"artefact": None}, "expected artefact and no entry for the runtime linear"),
        ({"sha256": None}, "expected artefact and sha256 together, got one of them"),
    ],
)
def test_a_manifest_that_is_wrong_is_refused_with_key_and_expectation(changes: dict[str, Any], message: str) -> None:
    assert refusal(toml(**changes)) == message


@pytest.mark.parametrize("text", [b"runtime = ", b"\xff", b"a = " + b"[" * 100_000])
def test_what_is_no_toml_is_refused(text: bytes) -> None:
    assert refusal(text).startswith("expected TOML in UTF-8, got what is not: ")


def test_a_rollout_names_versions() -> None:
    assert Rollout.parse(b'live = "1.10"\nprevious = "2"', "rollout.toml") == Rollout(live="1.10", previous="2")
    with pytest.raises(ModelRefused, match=r"^rollout.toml: live: String should match pattern"):
        Rollout.parse(b'live = "../2"', "rollout.toml")


def test_versions_are_ordered_number_by_number() -> None:
    assert sorted(["10", "1.10", "2", "1.9", "1"], key=order) == ["1", "1.9", "1.10", "2", "10"]
