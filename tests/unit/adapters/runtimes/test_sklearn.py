import io
import json
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import skops.io
from numpy.typing import NDArray
from scipy.interpolate import BSpline
from scipy.sparse import csr_matrix
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_iris
from sklearn.ensemble import (
    BaggingClassifier,
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
)
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.multioutput import MultiOutputClassifier
from sklearn.neighbors import KernelDensity, KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier
from sklearn.tree._tree import Tree

from tests.unit.adapters.runtimes import cases_sklearn
from weighbridge.adapters.artefact import Artefact
from weighbridge.adapters.manifest import ColumnSpec, Manifest
from weighbridge.adapters.runtimes import Trust, sklearn
from weighbridge.adapters.runtimes.sklearn_audit import settle
from weighbridge.application.ports import Model
from weighbridge.domain.batch import Batch, Outputs
from weighbridge.domain.errors import ModelRefused
from weighbridge.domain.signature import Column, Kind

_RAW, _SPECIES = load_iris(return_X_y=True)
_FLOWERS = StandardScaler().fit_transform(_RAW)
_VECTOR = (Column(name="features", kind=Kind.FLOAT, width=4),)


def manifest(outputs: tuple[Column, ...], inputs: tuple[Column, ...] = _VECTOR) -> Manifest:
    return Manifest(
        runtime="sklearn",
        artefact="model.skops",
        sha256="0" * 64,
        inputs=[ColumnSpec.of(column) for column in inputs],
        outputs=[ColumnSpec.of(column) for column in outputs],
    )


def reloaded(model: Any, inputs: tuple[Column, ...] = _VECTOR) -> Model:
    packed = sklearn.pack(model, inputs)
    return sklearn.load(Artefact.of(packed.artefact), manifest(packed.outputs, inputs), Trust())


def predict(model: Model, rows: Any) -> Outputs:
    return model.predict(Batch(model.signature, rows))


def logistic() -> Any:
    return LogisticRegression().fit(_FLOWERS, _SPECIES)


def tree() -> Any:
    return DecisionTreeClassifier(max_depth=2, random_state=0).fit(_FLOWERS, _SPECIES)


def test_what_derives_from_scikit_learn_is_taken() -> None:
    assert sklearn.takes(logistic())
    assert not sklearn.takes([0.25, -0.5])


def test_a_category_that_training_never_saw_is_left_to_the_models_own_encoder() -> None:
    model, example, _ = cases_sklearn.mixed_columns()
    row = example.iloc[:1].assign(island="Atlantis")
    inputs = tuple(
        Column(name=name, kind=Kind.STRING if name in ("island", "sex") else Kind.FLOAT) for name in example.columns
    )

    [labels, probabilities] = predict(reloaded(model, inputs), row.to_numpy().tolist())

    assert labels.tolist() == model.predict(row).tolist()
    assert probabilities.tolist() == model.predict_proba(row).tolist()


def test_texts_go_into_a_frame_even_where_the_model_remembers_no_names() -> None:
    inputs = (Column(name="island", kind=Kind.STRING, nullable=True),)
    model = make_pipeline(OneHotEncoder(), LinearRegression())
    model.fit(np.array([["Dream"], ["Biscoe"], [np.nan]], dtype=object), [1.0, 2.0, 3.0])

    [predictions] = predict(reloaded(model, inputs), [(None,), ("Dream",)])

    np.testing.assert_allclose(predictions, [3.0, 1.0])


def test_named_numbers_go_as_a_matrix_into_a_model_that_remembers_no_names() -> None:
    inputs = tuple(Column(name=name, kind=Kind.FLOAT) for name in "abcd")

    [labels, _] = predict(reloaded(logistic(), inputs), _FLOWERS[:3].tolist())

    assert labels.tolist() == [0, 0, 0]


def test_a_model_works_alone_and_in_silence(capfd: pytest.CaptureFixture[str]) -> None:
    forest = RandomForestClassifier(5, n_jobs=2, verbose=1)
    model = reloaded(make_pipeline(StandardScaler(), forest).fit(_FLOWERS, _SPECIES))
    capfd.readouterr()

    predict(model, _FLOWERS)

    assert capfd.readouterr() == ("", "")


def test_warnings_do_not_come_with_every_request() -> None:
    frame = pd.DataFrame(_FLOWERS, columns=list("abcd"))

    with warnings.catch_warnings(record=True) as caught:
        vector = reloaded(LogisticRegression().fit(frame, _SPECIES))
        predict(vector, _FLOWERS)

    assert not caught


def test_a_model_without_predict_is_refused() -> None:
    with pytest.raises(ModelRefused, match="StandardScaler has no method predict"):
        sklearn.pack(StandardScaler().fit(_FLOWERS), _VECTOR)


def test_a_model_that_was_not_fitted_is_refused() -> None:
    with pytest.raises(ModelRefused, match="LogisticRegression is not fitted"):
        sklearn.pack(LogisticRegression(), _VECTOR)


def test_a_classifier_of_several_labels_is_refused() -> None:
    both = MultiOutputClassifier(LogisticRegression()).fit(_FLOWERS, np.column_stack([_SPECIES, _SPECIES]))

    with pytest.raises(ModelRefused, match="a classifier of several labels is not supported"):
        sklearn.pack(both, _VECTOR)


def test_classes_of_a_strange_type_are_refused() -> None:
    model = logistic()
    model.classes_ = np.array([None, 1, "a"], dtype=object)

    with pytest.raises(ModelRefused, match="the classes must be texts"):
        sklearn.pack(model, _VECTOR)


def test_outputs_that_the_estimator_has_not_are_refused() -> None:
    artefact = sklearn.pack(logistic(), _VECTOR).artefact

    with pytest.raises(ModelRefused, match="the estimator has no output fit; it has "):
        sklearn.load(Artefact.of(artefact), manifest((Column(name="fit", kind=Kind.FLOAT),)), Trust())


class _Halver(StandardScaler):  # type of the operator's own
    pass


def test_types_of_others_are_refused_by_name_until_the_operator_trusts_them() -> None:
    packed = sklearn.pack(make_pipeline(_Halver(), LogisticRegression()).fit(_FLOWERS, _SPECIES), _VECTOR)
    name = f"{_Halver.__module__}._Halver"

    with pytest.raises(ModelRefused, match=f"harmless: {name}; .* WEIGHBRIDGE_TRUSTED_TYPES"):
        sklearn.load(Artefact.of(packed.artefact), manifest(packed.outputs), Trust())
    assert sklearn.load(Artefact.of(packed.artefact), manifest(packed.outputs), Trust(types=(name,)))


# Files that name what they should not


def _json(value: object) -> dict[str, Any]:
    text = json.dumps(value)
    return {"__class__": "str", "__module__": "builtins", "__loader__": "JsonNode", "content": text}


def _node(loader: str, module: str, name: str, **more: Any) -> dict[str, Any]:
    return {"__loader__": loader, "__module__": module, "__class__": name, **more}


def _tuple(*items: Any) -> dict[str, Any]:
    return _node("TupleNode", "builtins", "tuple", content=list(items))


def _dict() -> dict[str, Any]:
    keys = _node("ListNode", "builtins", "list", content=[])
    return _node("DictNode", "builtins", "dict", content={}, key_types=keys)


def _partial(function: dict[str, Any], argument: str) -> dict[str, Any]:
    content = {"func": function, "args": _tuple(_json(argument)), "kwds": _dict(), "namespace": _json(None)}
    return _node("PartialNode", "functools", "partial", content=content)


HOSTILE = {
    "a built-in function": _node("TypeNode", "builtins", "eval"),
    "a function of the system": _node("FunctionNode", "os", "system"),
    "an object of no type": _node("ObjectNode", "posix", "system"),
    "a partial call": _partial(_node("FunctionNode", "os", "system"), "true"),
    "a call of a method": _node("OperatorFuncNode", "operator", "methodcaller", attrs=_tuple(_json("fit"))),
    "a call of a type": _node("ConstructorFromReduceNode", "subprocess", "Popen", content=_tuple(_json("true"))),
    "a list of another type": _node("ListNode", "subprocess", "Popen", content=[_json("true")]),
    "a dict of another type": _node("DictNode", "http.server", "HTTPServer", content={}, key_types=_tuple()),
    "a download": _node("FunctionNode", "sklearn.datasets._openml", "fetch_openml"),
    "a function of joblib": _node("FunctionNode", "joblib.numpy_pickle", "load"),
    "a function of numpy that reads files": _node("FunctionNode", "numpy", "fromfile"),
    "a bit generator that is a function": _node(
        "RandomGeneratorNode",
        "numpy.random",
        "Generator",
        content={"bit_generator": {**_dict(), "content": {"bit_generator": _json("seed")}}, "seed_seq": _dict()},
    ),
    "a method": _node(
        "MethodNode",
        "sklearn.linear_model._logistic",
        "LogisticRegression",
        content={"func": "fit", "obj": _node("ObjectNode", "sklearn.linear_model._logistic", "LogisticRegression")},
    ),
    "a module that acts when imported": _node("ObjectNode", "weighbridge_bait", "Bait"),
}


@pytest.mark.parametrize("node", HOSTILE.values(), ids=HOSTILE)
def test_a_file_that_names_what_is_not_trusted_is_refused_and_runs_nothing(
    node: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trace = tmp_path / "run"
    (tmp_path / "weighbridge_bait.py").write_text(f"open({str(trace)!r}, 'w')\n\n\nclass Bait: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    packed = sklearn.pack(logistic(), _VECTOR)

    def bait(schema: dict[str, Any]) -> None:
        schema["content"]["content"]["C"] = node

    with pytest.raises(ModelRefused, match="types that are not known to be harmless: "):
        sklearn.load(Artefact.of(edited(packed.artefact, bait)), manifest(packed.outputs), Trust())

    assert not trace.exists()


def test_an_old_protocol_opens_no_way_round(tmp_path: Path) -> None:
    packed = sklearn.pack(logistic(), _VECTOR)
    trace = tmp_path / "run"

    def age(schema: dict[str, Any]) -> None:
        schema["protocol"] = 0
        function = _node("FunctionNode", "numpy", "sin", content={"module_path": "os", "function": "system"})
        schema["content"]["content"]["C"] = _partial(function, f"touch {trace}")

    with pytest.raises(ModelRefused, match=r"harmless: os\.system;"):
        sklearn.load(Artefact.of(edited(packed.artefact, age)), manifest(packed.outputs), Trust())

    assert not trace.exists()


def edited(artefact: bytes, edit: Callable[[dict[str, Any]], None]) -> bytes:
    """The file with another schema."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(artefact)) as source, zipfile.ZipFile(buffer, "w") as target:
        for name in source.namelist():
            content = source.read(name)
            if name == "schema.json":
                schema = json.loads(content)
                edit(schema)
                content = json.dumps(schema).encode()
            target.writestr(name, content)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("node", "reason"),
    [
        (
            _node("ConstructorFromReduceNode", "numpy", "max", content=_tuple(_json(1))),
            r"numpy\.max would be called while the file is read",
        ),
        (_node("ListNode", "numpy", "max", content=[_json(1)]), r"numpy\.max would be called while the file is read"),
        (_json({"__array_interface__": 1}), "a JSON node holds several values"),
        ({**_dict(), "content": {"__array_interface__": _json(1)}}, "may hold a memory address"),
        (
            {
                **_dict(),
                "key_types": _node("ListNode", "builtins", "list", content=[_node("FunctionNode", "numpy", "max")]),
            },
            "keys of a dictionary are not of plain types",
        ),
        (
            _tuple({**_json(1), "__id__": 7}, {**_node("TypeNode", "builtins", "str"), "__id__": 7}),
            "nodes of different kinds share one id",
        ),
        (
            _tuple(
                {**_tuple(), "__loader__": "ListNode", "__class__": "list", "__id__": 7},
                {**_dict(), "key_types": {**_dict()["key_types"], "__id__": 7}},
            ),
            "nodes of different kinds share one id",
        ),
    ],
)
def test_a_file_that_has_something_called_while_it_is_read_is_refused(node: dict[str, Any], reason: str) -> None:
    packed = sklearn.pack(logistic(), _VECTOR)

    def call(schema: dict[str, Any]) -> None:
        schema["content"]["content"]["C"] = node

    with pytest.raises(ModelRefused, match=reason):
        sklearn.load(Artefact.of(edited(packed.artefact, call)), manifest(packed.outputs), Trust())


def test_a_file_whose_arrays_are_addresses_of_memory_is_refused() -> None:
    secret = np.ones((3, 4))
    window = logistic()
    vars(window)["__array_interface__"] = {**secret.__array_interface__}
    model = logistic()
    model.coef_ = np.array([window, None], dtype=object).reshape(1, 2)

    with pytest.raises(ModelRefused, match="an attribute may hold a memory address"):
        reloaded(model)


def test_what_a_function_transformer_calls_has_to_be_trusted() -> None:
    model = make_pipeline(FunctionTransformer(), LogisticRegression()).fit(_FLOWERS, _SPECIES)
    model.set_params(functiontransformer__func=json.loads)

    with pytest.raises(ModelRefused, match=r"harmless: json\.loads;"):
        reloaded(model)


# Files whose types are fine, and whose content is not


def broken(model: Any, reason: str) -> None:
    """Assert that a model is refused for a reason, as it comes from a file."""
    outputs = sklearn.pack(logistic(), _VECTOR).outputs
    with pytest.raises(ModelRefused, match=reason):
        sklearn.load(Artefact.of(skops.io.dumps(model)), manifest(outputs), Trust())


def with_nodes(change: Callable[[NDArray[Any]], NDArray[Any] | None]) -> Any:
    """A decision tree with other nodes; what `change` gives wins over what it changed."""
    model = tree()
    _, arguments, state = model.tree_.__reduce__()
    nodes = state["nodes"].copy()
    changed = change(nodes)
    nodes = nodes if changed is None else changed
    model.tree_ = Tree(*arguments)
    model.tree_.__setstate__(
        {**state, "nodes": nodes, "values": state["values"][: len(nodes)], "node_count": len(nodes)}
    )
    return model


def _set(field: str, value: int) -> Callable[[NDArray[Any]], None]:
    def change(nodes: NDArray[Any]) -> None:
        nodes[field][0] = value

    return change


@pytest.mark.parametrize("side", ["left_child", "right_child"])
@pytest.mark.parametrize("child", [10**6, 0, -2])
def test_a_tree_that_leads_out_of_itself_or_in_circles_is_refused(side: str, child: int) -> None:
    broken(with_nodes(_set(side, child)), "a node of a tree does not lead to a later one")


@pytest.mark.parametrize("feature", [-3, 4, 10**6])
def test_a_tree_that_looks_at_a_feature_that_is_not_there_is_refused(feature: int) -> None:
    broken(with_nodes(_set("feature", feature)), "a node of a tree reads a feature outside the 4 that")


def test_a_tree_without_nodes_is_refused() -> None:
    broken(with_nodes(lambda nodes: nodes[:0]), "expected 0 nodes of a tree, got 0")


def test_a_tree_that_is_no_tree_is_refused() -> None:
    model = tree()
    model.tree_ = logistic()
    broken(model, "expected a tree in a decision tree, got LogisticRegression in DecisionTreeClassifier")


def test_a_tree_outside_a_decision_tree_is_refused() -> None:
    model = logistic()
    model.tree_ = tree().tree_
    broken(model, "expected a tree in a decision tree, got Tree in LogisticRegression")


@pytest.mark.parametrize("wrap", [lambda thing: thing, lambda thing: [thing], lambda thing: {"a": (thing, thing)}])
def test_a_tree_that_is_hidden_elsewhere_is_refused(wrap: Callable[[Any], Any]) -> None:
    model = logistic()
    model.hidden = wrap(tree().tree_)
    broken(model, "Tree is outside an estimator that uses it")


def test_a_tree_in_what_is_no_estimator_is_refused() -> None:
    model = GaussianProcessRegressor(RBF(), optimizer=None).fit(_FLOWERS, _SPECIES)
    model.kernel_.tree_ = tree().tree_
    with pytest.raises(ModelRefused, match="Tree is outside an estimator that uses it"):
        settle(model)


def test_an_attribute_in_place_of_a_method_is_refused() -> None:
    model = logistic()
    model.predict = np.sin
    broken(model, "LogisticRegression has an attribute in place of its method predict")


def test_a_forest_of_trees_for_wider_rows_is_refused() -> None:
    model = RandomForestClassifier(2).fit(_FLOWERS, _SPECIES)
    model.n_features_in_ = 2
    broken(model, "the members of RandomForestClassifier do not have its width")


def test_a_bag_of_members_for_wider_rows_is_refused() -> None:
    model = BaggingClassifier(tree(), 2, max_features=2).fit(_FLOWERS, _SPECIES)
    model.estimators_features_ = [chosen[:1] for chosen in model.estimators_features_]
    broken(model, "the members of BaggingClassifier do not have its width")


def test_boosting_with_more_trees_than_first_guesses_is_refused() -> None:
    model = GradientBoostingClassifier(n_estimators=2).fit(_FLOWERS, _SPECIES)
    model.init_ = "zero"
    model.n_trees_per_iteration_ = 1
    broken(model, r"expected \(1,\) trees for each iteration, got \(3,\)")


def histogram(*, categorical: bool = False) -> Any:
    rows = np.column_stack([_SPECIES, _FLOWERS[:, 1:]])
    chosen = [0] if categorical else None
    return HistGradientBoostingClassifier(max_iter=1, categorical_features=chosen).fit(rows, _SPECIES)


@pytest.mark.parametrize(("field", "value"), [("left", 10**6), ("right", 0), ("feature_idx", 4), ("feature_idx", -1)])
def test_a_histogram_tree_that_leads_nowhere_is_refused(field: str, value: int) -> None:
    model = histogram()
    model._predictors[0][0].nodes[field][0] = value
    broken(model, "a node of a tree (does not lead|reads a feature)")


@pytest.mark.parametrize(("field", "value"), [("bitset_idx", 10**6), ("feature_idx", 1)])
def test_a_histogram_tree_that_looks_at_categories_that_are_not_there_is_refused(field: str, value: int) -> None:
    model = histogram(categorical=True)
    model._predictors[0][0].nodes[field][0] = value
    broken(model, "a node of a tree reads categories that do not exist")


def test_histogram_trees_for_more_columns_than_their_preprocessor_leaves_are_refused() -> None:
    model = histogram(categorical=True)
    model._preprocessor = ColumnTransformer([("first", "passthrough", [0])]).fit(_FLOWERS)
    model._predictors[0][0].nodes["feature_idx"][0] = 3
    broken(model, "a node of a tree reads a feature outside the 1 that")


def test_histogram_trees_elsewhere_are_refused() -> None:
    model = logistic()
    model._predictors = histogram()._predictors
    broken(model, "LogisticRegression holds predictors of gradient boosting")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("_intercept_", np.zeros(1)),
        ("_dual_coef_", np.zeros((2, 3))),
        ("_probA", np.zeros(1)),
        ("_n_support", np.array([1, 1])),
        ("_n_support", np.array([1, 1, 1])),
        ("_sparse", True),
    ],
)
def test_support_vectors_with_too_few_coefficients_are_refused(name: str, value: Any) -> None:
    model = SVC().fit(_FLOWERS, _SPECIES)
    setattr(model, name, value)
    broken(model, "the coefficients do not match the ")


def test_support_vectors_may_be_sparse() -> None:
    model = SVC().fit(csr_matrix(_FLOWERS), _SPECIES)

    settle(skops.io.loads(skops.io.dumps(model), trusted=["scipy.sparse._csr.csr_matrix"]))


def test_an_index_of_neighbours_is_made_anew() -> None:
    model = KNeighborsClassifier(algorithm="ball_tree").fit(_FLOWERS, _SPECIES)
    state = list(model._tree.__getstate__())
    state[1] = np.full_like(state[1], 10**6)  # the places of the rows
    hostile = KNeighborsClassifier(algorithm="ball_tree").fit(_FLOWERS, _SPECIES)
    hostile._tree.__setstate__(tuple(state))

    [labels, _] = predict(reloaded(hostile), _FLOWERS)

    assert labels.tolist() == model.predict(_FLOWERS).tolist()


def test_neighbours_without_an_index_stay_so() -> None:
    model = KNeighborsClassifier(algorithm="brute").fit(_FLOWERS, _SPECIES)

    [labels, _] = predict(reloaded(model), _FLOWERS)

    assert labels.tolist() == model.predict(_FLOWERS).tolist()


def test_an_index_elsewhere_is_refused() -> None:
    model = logistic()
    model._tree = KNeighborsClassifier(algorithm="kd_tree").fit(_FLOWERS, _SPECIES)._tree
    broken(model, "LogisticRegression holds an index of neighbours")


def test_an_index_of_densities_is_refused() -> None:
    model = logistic()
    model.hidden = KernelDensity().fit(_FLOWERS)
    broken(model, "expected a tree in a decision tree, got KDTree in KernelDensity")


def test_a_vectoriser_that_opens_files_is_refused() -> None:
    texts = make_pipeline(CountVectorizer(), LogisticRegression()).fit(["a tree", "a forest"], [0, 1])
    texts.set_params(countvectorizer__input="filename")
    broken(texts, "CountVectorizer must take texts; this one opens files")


def test_a_sparse_matrix_that_points_out_of_itself_is_refused() -> None:
    model = logistic()
    model.hidden = csr_matrix(np.eye(3))
    model.hidden.indices[0] = 7
    with pytest.raises(ValueError, match="indices must be"):
        reloaded(model)


def test_a_spline_with_too_few_knots_is_refused() -> None:
    model = logistic()
    model.hidden = BSpline(np.arange(8.0), np.arange(4.0), 3)
    model.hidden.k = 5
    with pytest.raises(ValueError, match="knots"):
        reloaded(model)
