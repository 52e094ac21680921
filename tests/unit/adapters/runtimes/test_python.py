from pathlib import Path
from typing import Any

import numpy as np
import pytest

from weighbridge.adapters.artefact import Artefact
from weighbridge.adapters.manifest import Manifest
from weighbridge.adapters.runtimes import Trust, python
from weighbridge.domain.batch import Batch
from weighbridge.domain.errors import ModelRefused

_ALLOWED = Trust(python=True)

_MANIFEST = {
    "runtime": "python",
    "inputs": [
        {"name": "price", "type": "float"},
        {"name": "amount", "type": "int"},
        {"name": "colour", "type": "string", "nullable": True},
    ],
    "outputs": [
        {"name": "total", "type": "float"},
        {"name": "large", "type": "bool"},
        {"name": "items", "type": "int"},
        {"name": "said", "type": "string"},
    ],
}


class Shop:
    """What an operator might have written."""

    def __init__(self, rate: bytes = b"1") -> None:
        self._rate = int(rate)

    def predict(self, columns: dict[str, np.ndarray]) -> dict[str, Any]:
        total = columns["price"] * columns["amount"] * self._rate
        said = [str(colour) for colour in columns["colour"]]
        return {"said": said, "items": columns["amount"], "large": total > 10, "total": total}


class Forgetful:
    """It gives too little."""

    def predict(self, columns: dict[str, np.ndarray]) -> dict[str, Any]:
        return {"total": columns["price"]}


class Mistaken:
    """It gives what is of other types."""

    def predict(self, columns: dict[str, np.ndarray]) -> dict[str, Any]:
        return {"total": columns["colour"], "large": [1], "items": [1], "said": ["a"]}


class Confused(Shop):
    """It gives objects in place of texts."""

    def predict(self, columns: dict[str, np.ndarray]) -> dict[str, Any]:
        return {**super().predict(columns), "said": np.array([None])}


def manifest(entry: str, **more: Any) -> Manifest:
    return Manifest.model_validate({**_MANIFEST, "entry": f"{__name__}:{entry}", **more})


def test_a_class_gets_columns_and_its_outputs_come_in_the_order_of_the_signature() -> None:
    model = python.load(Artefact.of(b""), manifest("Shop"), _ALLOWED)

    [total, large, items, said] = model.predict(Batch(model.signature, [(2.5, 2, "red"), (5.0, 3, None)]))

    assert (total.tolist(), large.tolist(), items.tolist()) == ([5.0, 15.0], [False, True], [2, 3])
    assert said.tolist() == ["red", "None"]
    assert [values.dtype.kind for values in (total, large, items, said)] == ["f", "b", "i", "O"]


def test_a_class_gets_the_bytes_of_the_artefact_where_there_is_one() -> None:
    model = python.load(Artefact.of(b"10"), manifest("Shop", artefact="rate", sha256="0" * 64), _ALLOWED)

    [total, *_] = model.predict(Batch(model.signature, [(1.0, 1, "red")]))

    assert total.tolist() == [10.0]


def test_a_class_is_refused_and_not_imported_until_the_operator_allows_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "weighbridge_eager.py").write_text("raise RuntimeError\n")
    monkeypatch.syspath_prepend(tmp_path)
    eager = Manifest.model_validate({**_MANIFEST, "entry": "weighbridge_eager:Model"})

    with pytest.raises(
        ModelRefused, match=r"Python class weighbridge_eager:Model can run any code; .* WEIGHBRIDGE_PYTHON_MODELS=true"
    ):
        python.load(Artefact.of(b""), eager, Trust())


@pytest.mark.parametrize("entry", ["weighbridge_nowhere:Model", f"{__name__}:Nothing"])
def test_a_class_that_is_not_there_is_refused(entry: str) -> None:
    absent = Manifest.model_validate({**_MANIFEST, "entry": entry})

    with pytest.raises(ModelRefused, match=f"cannot import {entry}"):
        python.load(Artefact.of(b""), absent, _ALLOWED)


def test_a_class_that_cannot_predict_is_refused() -> None:
    with pytest.raises(ModelRefused, match="has no method predict"):
        python.load(Artefact.of(b""), Manifest.model_validate({**_MANIFEST, "entry": "pathlib:Path"}), _ALLOWED)


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ("Forgetful", "the outputs must be .*'large'"),
        ("Mistaken", "expected total of type float, got object"),
        ("Confused", "expected said of type string, got objects"),
    ],
)
def test_outputs_that_the_signature_has_not_are_an_error(entry: str, reason: str) -> None:
    model = python.load(Artefact.of(b""), manifest(entry), _ALLOWED)

    with pytest.raises(ValueError, match=reason):
        model.predict(Batch(model.signature, [(1.0, 1, "red")]))


def test_no_object_is_packaged_for_it() -> None:
    assert not python.takes(Shop())
    with pytest.raises(ModelRefused, match=r"^Shop cannot be written as data; write its model\.toml by hand$"):
        python.pack(Shop(), ())
