"""What every runtime keeps to, on real data: a runtime joins by a line in CASES."""

import hashlib
import pickle
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import weighbridge
from tests.unit.adapters.runtimes import cases_lightgbm, cases_linear, cases_onnx, cases_sklearn, cases_xgboost
from tests.unit.adapters.runtimes.case import Case
from weighbridge.adapters.artefact import Artefact
from weighbridge.adapters.manifest import Manifest, row_of
from weighbridge.adapters.runtimes import Trust, runtime
from weighbridge.application.inline import Inline
from weighbridge.application.live import Served
from weighbridge.application.ports import Model
from weighbridge.domain.batch import Batch, Outputs
from weighbridge.domain.errors import FeatureTooLarge, PredictionNotFinite
from weighbridge.domain.signature import Kind

CASES = [
    *cases_linear.cases(),
    *cases_sklearn.cases(),
    *cases_xgboost.cases(),
    *cases_lightgbm.cases(),
    *cases_onnx.cases(),
]

WITHIN = {"linear": 0.0}
"""How far apart, in proportion, a runtime's own rounding may take two answers for one row; 1e-6 for most."""


@dataclass(frozen=True)
class Packaged:
    """A case that was packaged and loaded."""

    case: Case
    artefact: bytes
    manifest: Manifest
    model: Model

    def predict(self, rows: list[Any]) -> Outputs:
        signature = self.manifest.signature()
        given = [row_of(signature, cells) if isinstance(cells, dict) else cells for cells in rows]
        return self.model.predict(Batch(signature, given))

    def same(self, got: Any, expected: Any) -> None:
        """Assert that values are equal, numbers as nearly as the runtime rounds."""
        within = WITHIN.get(self.manifest.runtime, 1e-6)
        if np.asarray(got).dtype == np.float64:
            np.testing.assert_allclose(got, np.asarray(expected, np.float64), rtol=within, atol=within)
        else:
            assert np.asarray(got).tolist() == np.asarray(expected).tolist()


@pytest.fixture(scope="module", params=CASES, ids=lambda case: case.name)
def packaged(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Packaged:
    case: Case = request.param
    fitted, example = case.fit()
    directory = weighbridge.package(fitted, tmp_path_factory.mktemp("models") / case.name / "1", example=example)
    manifest = Manifest.read((directory / "model.toml").read_bytes(), "model.toml")
    artefact = (directory / str(manifest.artefact)).read_bytes()
    return Packaged(case, artefact, manifest, runtime(manifest.runtime).load(Artefact.of(artefact), manifest, Trust()))


def test_the_manifest_pins_the_artefact_and_states_the_outputs(packaged: Packaged) -> None:
    assert packaged.manifest.sha256 == hashlib.sha256(packaged.artefact).hexdigest()
    assert packaged.manifest.libraries["python"]
    assert packaged.model.signature == packaged.manifest.signature()
    assert [column.name for column in packaged.manifest.outputs] == list(packaged.case.expected())


def test_golden_rows_are_predicted_again(packaged: Packaged) -> None:
    assert 2 <= len(packaged.manifest.golden) <= 5
    for golden in packaged.manifest.golden:
        outputs = packaged.predict([golden.input])
        for column, values in zip(packaged.manifest.outputs, outputs, strict=True):
            packaged.same(values[0], golden.output[column.name])


def test_rows_that_it_was_not_packaged_with_get_what_the_library_itself_says(packaged: Packaged) -> None:
    outputs = packaged.predict(list(packaged.case.rows()))
    for values, expected in zip(outputs, packaged.case.expected().values(), strict=True):
        packaged.same(values, expected)


def test_outputs_are_of_the_types_that_the_manifest_states(packaged: Packaged) -> None:
    dtypes = {Kind.FLOAT: np.float64, Kind.INT: np.int64, Kind.BOOL: np.bool_, Kind.STRING: np.object_}
    outputs = packaged.predict(list(packaged.case.rows()))
    for column, values in zip(packaged.manifest.signature().outputs, outputs, strict=True):
        assert values.dtype == dtypes[column.kind]
        assert values.shape[1:] == (() if column.width is None else (column.width,))
        assert column.categories is None or {*values} <= {*column.categories}


def test_a_batch_gives_what_its_rows_give_alone(packaged: Packaged) -> None:
    rows = list(packaged.case.rows())[:10]
    for place, row in enumerate(rows):
        for alone, together in zip(packaged.predict([row]), packaged.predict(rows), strict=True):
            packaged.same(together[place], alone[0])


def test_whole_numbers_do_where_the_signature_has_floats(packaged: Packaged) -> None:
    [cells, *_] = packaged.case.rows()
    whole, floats = _rounded(cells, int), _rounded(cells, float)

    for of_whole, of_floats in zip(packaged.predict([whole]), packaged.predict([floats]), strict=True):
        packaged.same(of_whole, of_floats)


def _rounded(cells: Any, number: type[int | float]) -> Any:
    if isinstance(cells, list):
        return [number(int(cell)) for cell in cells]
    return {name: number(int(cell)) if isinstance(cell, float) else cell for name, cell in cells.items()}


def test_no_rows_give_no_predictions(packaged: Packaged) -> None:
    outputs = packaged.predict([])
    some = packaged.predict(list(packaged.case.rows())[:1])
    assert [(values.shape, values.dtype) for values in outputs] == [
        ((0, *values.shape[1:]), values.dtype) for values in some
    ]


def test_ten_thousand_rows_are_predicted_in_one_batch(packaged: Packaged) -> None:
    rows = list(packaged.case.rows())[:10]
    for few, many in zip(packaged.predict(rows), packaged.predict(rows * 1000), strict=True):
        packaged.same(many, np.concatenate([few] * 1000))


@pytest.mark.parametrize("number", [1e39, -1e308])
def test_numbers_beyond_single_precision_are_the_clients_fault_or_none(packaged: Packaged, number: float) -> None:
    served = Served("model", "1", Inline(packaged.model, slice_rows=10), max_rows=10)
    [cells, *_] = packaged.case.rows()
    if isinstance(cells, dict):
        floats = {column.name: number for column in packaged.manifest.inputs if column.type == "float"}
        row = row_of(packaged.manifest.signature(), {**cells, **floats})
    else:
        row = [number] * len(cells)

    with suppress(FeatureTooLarge, PredictionNotFinite):
        outputs = served([row])
        assert isinstance(outputs, tuple)
        assert len(outputs[0]) == 1


def test_nulls_are_taken_wherever_the_signature_allows_them(packaged: Packaged) -> None:
    [cells, *_] = packaged.case.rows()
    nullable = [column.name for column in packaged.manifest.inputs if column.nullable]
    for name in nullable:
        for values in packaged.predict([{**cells, name: None}]):
            assert len(values) == 1


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.9])
def test_a_truncated_artefact_is_refused(packaged: Packaged, share: float) -> None:
    _refused(packaged, packaged.artefact[: int(len(packaged.artefact) * share)])


def test_random_bytes_are_refused(packaged: Packaged) -> None:
    _refused(packaged, np.random.default_rng(0).bytes(1000))


def test_a_pickle_in_disguise_is_refused_and_not_run(packaged: Packaged, tmp_path: Path) -> None:
    trace = tmp_path / "run"

    _refused(packaged, pickle.dumps(_Trap(trace)))

    assert not trace.exists()


class _Trap:
    """Its pickle makes a file when it is loaded."""

    def __init__(self, trace: Path) -> None:
        self._trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self._trace,))


def _refused(packaged: Packaged, artefact: bytes) -> None:
    with pytest.raises(Exception, match=r"\S"):  # its own, or the library's, which the loader turns into its own
        runtime(packaged.manifest.runtime).load(Artefact.of(artefact), packaged.manifest, Trust())
