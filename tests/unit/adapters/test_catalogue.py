import pytest

from weighbridge.adapters.catalogue import entries, golden_row, wanted
from weighbridge.adapters.manifest import Manifest, Rollout
from weighbridge.adapters.repository import FoundModel, FoundVersion
from weighbridge.application.catalogue import ModelEntry, VersionEntry, VersionState
from weighbridge.domain.errors import ModelRefused

SOUND = FoundVersion()
BROKEN = FoundVersion(reason="models/churn/3/model.toml: expected a file, got nothing")
MANIFEST = """
runtime = "python"
entry = "here:Model"
inputs = [{ name = "age", type = "int" }, { name = "income", type = "float", nullable = true }]
outputs = [{ name = "prediction", type = "float" }]
"""
GOLDEN = """
[[golden]]
input = { age = 30 }
output = { prediction = 0.5 }
"""


def test_what_the_rollout_says_is_live_and_otherwise_the_highest_version() -> None:
    versions = {"1": SOUND, "2": SOUND}
    found = {
        "churn": FoundModel(Rollout(live="1"), None, versions),
        "fraud": FoundModel(None, None, versions),
    }

    assert wanted(found) == {"churn": "1", "fraud": "2"}


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (FoundModel(None, "models/churn/rollout.toml: expected TOML", {"1": SOUND}), "rollout.toml: expected TOML"),
        (FoundModel(None, None, {}), "models/churn: expected one or more versions, got none"),
    ],
)
def test_a_model_of_which_nothing_can_be_live_is_refused(model: FoundModel, why: str) -> None:
    with pytest.raises(ModelRefused, match=why):
        wanted({"churn": model})


def test_the_catalogue_has_every_version_with_its_state() -> None:
    found = {
        "churn": FoundModel(Rollout(live="2", previous="1"), None, {"1": SOUND, "2": SOUND, "3": BROKEN}),
        "fraud": FoundModel(None, "models/fraud: expected a directory", {}),
    }

    assert entries(found, {"churn": "2"}) == {
        "churn": ModelEntry(
            "churn",
            "2",
            "1",
            (
                VersionEntry("1", VersionState.AVAILABLE),
                VersionEntry("2", VersionState.LIVE),
                VersionEntry("3", VersionState.REFUSED, BROKEN.reason),
            ),
        ),
        "fraud": ModelEntry("fraud", None, None, (), "models/fraud: expected a directory"),
    }


def test_the_golden_row_has_every_input_and_null_where_the_manifest_has_none() -> None:
    manifest = Manifest.read((MANIFEST + GOLDEN).encode(), "model.toml")

    assert golden_row(manifest) == {"age": 30, "income": None}


def test_there_is_no_golden_row_without_one_in_the_manifest() -> None:
    assert golden_row(Manifest.read(MANIFEST.encode(), "model.toml")) is None
