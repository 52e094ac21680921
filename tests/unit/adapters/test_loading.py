from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from weighbridge.adapters.artefact import Artefact
from weighbridge.adapters.loading import Loader
from weighbridge.adapters.manifest import ColumnSpec, Golden, Manifest, RuntimeName, Value
from weighbridge.adapters.repository import Repository
from weighbridge.adapters.runtimes import Runtime, Trust
from weighbridge.application.ports import Model
from weighbridge.domain.batch import Batch, Outputs
from weighbridge.domain.errors import ModelRefused
from weighbridge.domain.signature import Column, Kind, Signature

INPUTS = [
    ColumnSpec(name="age", type="int"),
    ColumnSpec(name="plan", type="string", categories=["basic", "plus"], nullable=True),
    ColumnSpec(name="visits", type="float", width=2),
]
OUTPUTS = [
    ColumnSpec(name="label", type="string"),
    ColumnSpec(name="probabilities", type="float", width=2),
    ColumnSpec(name="rank", type="int"),
]
CELLS: dict[str, Value] = {"age": 30, "plan": "plus", "visits": [1.0, 2]}
ANSWER: dict[str, Value] = {"label": "stays", "probabilities": [0.25, 0.75], "rank": 3}


def answers(count: int) -> Outputs:
    return (
        np.array(["stays"] * count, np.object_),
        np.tile([0.25, 0.75], (count, 1)),
        np.full(count, 3, np.int64),
    )


@dataclass
class FakeModel:
    signature: Signature
    answer: Callable[[int], Outputs] = answers
    sizes: list[int] = field(default_factory=list)

    def predict(self, batch: Batch) -> Outputs:
        self.sizes.append(len(batch))
        return self.answer(len(batch))


class FakeRuntime:
    """Loads anything, as what `opening` gives."""

    def __init__(self, opening: Callable[[Manifest], Model]) -> None:
        self._opening = opening
        self.loaded: list[tuple[bytes, Trust]] = []

    def load(self, artefact: Artefact, manifest: Manifest, trust: Trust) -> Model:
        self.loaded.append((artefact.read(), trust))
        return self._opening(manifest)


@dataclass
class Models:
    """A repository of one version, churn/1, of a runtime that is no more than a function."""

    root: Path

    def place(self, *golden: Golden, runtime: RuntimeName = "sklearn", **manifest: Any) -> Manifest:
        artefact = {"artefact": "model.bin", "sha256": sha256(b"bytes").hexdigest()}
        stated = {"inputs": INPUTS, "outputs": OUTPUTS, **artefact, **manifest}
        made = Manifest(runtime=runtime, golden=list(golden), **stated)
        directory = self.root / "churn/1"
        directory.mkdir(parents=True)
        (directory / "model.toml").write_bytes(made.render())
        (directory / "model.bin").write_bytes(b"bytes")
        return made

    def load(self, opening: Callable[[Manifest], Model]) -> Model:
        """What comes of it when the runtime gives what `opening` does."""
        runtime: Any = FakeRuntime(opening)  # a loader packs nothing
        return Loader(Repository(self.root), Trust(), lambda _: runtime).load("churn", "1")

    def refusal(self, opening: Callable[[Manifest], Model]) -> str:
        with pytest.raises(ModelRefused) as refused:
            self.load(opening)
        return str(refused.value)


@pytest.fixture
def models(tmp_path: Path) -> Models:
    return Models(tmp_path)


def fine(manifest: Manifest) -> FakeModel:
    return FakeModel(manifest.signature())


def answering(*outputs: Any) -> Callable[[Manifest], Model]:
    """Opens a model whose golden row gets these outputs."""
    return lambda manifest: FakeModel(manifest.signature(), lambda count: tuple(np.stack([o] * count) for o in outputs))


def failing(exc: BaseException) -> Callable[[Manifest], Model]:
    def opening(_: Manifest) -> Model:
        raise exc

    return opening


def test_the_runtime_gets_the_artefact_and_what_the_operator_trusts(models: Models) -> None:
    models.place()
    runtime: Any = FakeRuntime(fine)
    asked: list[RuntimeName] = []

    def runtimes(name: RuntimeName) -> Runtime:
        asked.append(name)
        found: Runtime = runtime
        return found

    Loader(Repository(models.root), Trust(types=("a.B",)), runtimes).load("churn", "1")

    assert (asked, runtime.loaded) == (["sklearn"], [(b"bytes", Trust(types=("a.B",)))])


def test_a_manifest_that_was_read_already_counts_whatever_has_become_of_the_file(models: Models) -> None:
    manifest = models.place()
    (models.root / "churn/1/model.toml").unlink()
    runtime: Any = FakeRuntime(fine)

    model = Loader(Repository(models.root), Trust(), lambda _: runtime).load("churn", "1", manifest)

    assert model.signature == manifest.signature()


def test_a_model_is_warmed_by_its_golden_rows_together_and_alone(models: Models) -> None:
    models.place(*[Golden(input=CELLS, output=ANSWER)] * 10)

    model = models.load(fine)

    assert isinstance(model, FakeModel)
    assert model.sizes == [10, *[1] * 8] * 3


def test_a_single_golden_row_is_asked_for_twice_as_well(models: Models) -> None:
    models.place(Golden(input=CELLS, output=ANSWER))

    model = models.load(fine)

    assert isinstance(model, FakeModel)
    assert model.sizes == [2, 1] * 3


@pytest.mark.parametrize("count", [1, 2])
def test_a_model_that_gives_another_number_of_rows_than_it_was_given_is_refused(models: Models, count: int) -> None:
    models.place(*[Golden(input=CELLS, output=ANSWER)] * count)

    assert models.refusal(lambda manifest: FakeModel(manifest.signature(), lambda _: answers(1))).startswith(
        "models/churn/1/model.toml: expected 2 predictions, one for each row, got 1; a model has to take any number of"
    )


def test_without_golden_rows_a_model_is_asked_nothing(models: Models) -> None:
    models.place()

    model = models.load(fine)

    assert isinstance(model, FakeModel)
    assert model.sizes == []


def test_numbers_may_differ_by_rounding(models: Models) -> None:
    models.place(Golden(input=CELLS, output=ANSWER))

    models.load(answering(np.array("stays", np.object_), np.array([0.250001, 0.75]), np.int64(3)))


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        (("goes", [0.25, 0.75], 3), "golden.0.output.label: expected 'stays', got 'goes'"),
        (("stays", [0.2501, 0.75], 3), "golden.0.output.probabilities: expected [0.25, 0.75], got [0.2501, 0.75]"),
        (("stays", [0.25, 0.75], 4), "golden.0.output.rank: expected 3, got 4"),
        (
            ("stays", [0.25], 3),
            "expected probabilities of type float and shape (2, 2), got float64 and (2, 1)",
        ),
        (("stays", [0.25, 0.75], 3.0), "expected rank of type int and shape (2,), got float64 and (2,)"),
    ],
)
def test_a_golden_row_that_is_predicted_otherwise_is_refused(
    models: Models, outputs: tuple[str, list[float], float], message: str
) -> None:
    models.place(Golden(input=CELLS, output=ANSWER))
    label, probabilities, rank = outputs

    refusal = models.refusal(answering(np.array(label, np.object_), np.array(probabilities), np.array(rank)))

    assert refusal == f"models/churn/1/model.toml: {message}"


def test_a_linear_model_predicts_its_golden_rows_to_the_bit(models: Models) -> None:
    numbers = {"inputs": [ColumnSpec(name="features", type="float", width=1)]}
    prediction = [ColumnSpec(name="prediction", type="float")]
    golden = Golden(input={"features": [1.0]}, output={"prediction": 0.5})
    models.place(golden, runtime="linear", outputs=prediction, **numbers)

    models.load(answering(np.float64(0.5)))

    assert models.refusal(answering(np.nextafter(0.5, 1))).endswith("expected 0.5, got 0.5000000000000001")


def test_too_few_outputs_are_refused(models: Models) -> None:
    models.place(Golden(input=CELLS, output=ANSWER))

    assert models.refusal(answering()).startswith(
        "models/churn/1/model.toml: predicting the golden rows failed: ValueError: "
    )


@pytest.mark.parametrize(
    ("cells", "place", "expected"),
    [
        ({"age": "30"}, "input.age", "a value of type int"),
        ({"age": True}, "input.age", "a value of type int"),
        ({"plan": "gold"}, "input.plan", "one of its categories"),
        ({"visits": [1.0]}, "input.visits", "2 of type float"),
        ({"visits": [1.0, 2.0, 3.0]}, "input.visits", "2 of type float"),
        ({"visits": 1.0}, "input.visits", "2 of type float"),
        ({"visits": ["a", "b"]}, "input.visits", "2 of type float"),
        ({"height": 1}, "input", "only the names of the signature"),
    ],
)
def test_a_golden_row_that_does_not_fit_the_signature_is_refused(
    models: Models, cells: dict[str, Value], place: str, expected: str
) -> None:
    models.place(Golden(input=CELLS, output=ANSWER), Golden(input={**CELLS, **cells}, output=ANSWER))

    assert models.refusal(fine) == f"models/churn/1/model.toml: golden.1.{place}: expected {expected}"


def test_a_golden_row_may_leave_out_only_what_may_be_null(models: Models) -> None:
    without_plan: dict[str, Value] = {"age": 30, "visits": [1.0, 2.0]}
    models.place(Golden(input=without_plan, output=ANSWER), Golden(input={**CELLS}, output={"label": "stays"}))

    assert models.refusal(fine) == (
        "models/churn/1/model.toml: golden.1.output.probabilities: expected 2 of type float"
    )


def test_a_model_of_another_signature_is_refused(models: Models) -> None:
    models.place()
    other = Signature((Column(name="x", kind=Kind.INT),), (Column(name="y", kind=Kind.INT),))

    assert models.refusal(lambda _: FakeModel(other)) == (
        "models/churn/1/model.bin: its inputs and outputs differ from those in model.toml"
    )


@pytest.mark.parametrize("raised", [ValueError("bad\n  magic"), SystemExit("bad magic"), BaseException("bad magic")])
def test_whatever_a_library_raises_is_a_refusal_of_one_line(models: Models, raised: BaseException) -> None:
    models.place()

    assert models.refusal(failing(raised)) == (
        f"models/churn/1/model.bin: the runtime sklearn cannot load it: {type(raised).__name__}: bad magic"
    )


def test_what_a_runtime_refuses_is_said_with_the_file(models: Models) -> None:
    models.place()

    assert models.refusal(failing(ModelRefused("expected trees, got none"))) == (
        "models/churn/1/model.bin: expected trees, got none"
    )


def test_a_refusal_has_its_cause(models: Models) -> None:
    models.place()

    with pytest.raises(ModelRefused) as refused:
        models.load(failing(ValueError("the cause")))

    assert isinstance(refused.value.__cause__, ValueError)


def test_a_long_message_is_cut(models: Models) -> None:
    models.place()

    refusal = models.refusal(failing(ValueError("x" * 10_000)))

    assert len(refusal) == 503
    assert refusal.endswith("x...")


def test_a_manifest_without_an_artefact_is_named_in_its_place(models: Models) -> None:
    models.place(runtime="python", entry="shop:Model", artefact=None, sha256=None)

    assert models.refusal(failing(ValueError("no"))).startswith("models/churn/1/model.toml: the runtime")
