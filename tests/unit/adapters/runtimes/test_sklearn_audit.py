"""Models that are made of others, and the ways in which one could have more done than a prediction."""

import ast
import pickle
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sklearn as library
import skops.io
from sklearn.calibration import CalibratedClassifierCV
from sklearn.cluster import AgglomerativeClustering, BisectingKMeans, FeatureAgglomeration, KMeans
from sklearn.cluster._kmeans import _kmeans_single_lloyd
from sklearn.compose import ColumnTransformer, TransformedTargetRegressor
from sklearn.datasets import load_iris
from sklearn.decomposition import PCA
from sklearn.ensemble import (
    BaggingClassifier,
    GradientBoostingRegressor,
    RandomForestClassifier,
    StackingClassifier,
    StackingRegressor,
    VotingClassifier,
)
from sklearn.feature_selection import RFE, SelectFromModel
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.model_selection import FixedThresholdClassifier
from sklearn.multiclass import OneVsRestClassifier
from sklearn.multioutput import RegressorChain
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.svm import SVC, LinearSVC
from sklearn.tree import DecisionTreeClassifier
from sklearn.tree._tree import Tree
from sklearn.utils import Bunch

from weighbridge.adapters.artefact import Artefact
from weighbridge.adapters.manifest import ColumnSpec, Manifest
from weighbridge.adapters.runtimes import Trust, sklearn
from weighbridge.adapters.runtimes.sklearn_audit import _CHOICES, _MEMBERS, _NAMED_MEMBERS, settle
from weighbridge.application.ports import Model
from weighbridge.domain.batch import Batch
from weighbridge.domain.errors import ModelRefused
from weighbridge.domain.signature import Column, Kind

_ROWS, _SPECIES = load_iris(return_X_y=True)
_VECTOR = Column(name="features", kind=Kind.FLOAT, width=4)
_LABEL = Column(name="label", kind=Kind.INT)


def logistic() -> Any:
    return LogisticRegression().fit(StandardScaler().fit_transform(_ROWS), _SPECIES)


def stack_of(member: Any, method: str) -> Any:
    """A stack that asks a member by a method."""
    stack = StackingClassifier([("a", LogisticRegression(max_iter=500))], cv=2).fit(_ROWS, _SPECIES)
    stack.estimators_ = [member]
    stack.stack_method_ = [method]
    return stack


def loaded(model: Any, output: Column, column: Column = _VECTOR, trust: Trust | None = None) -> Model:
    """A model as it comes from a file."""
    manifest = Manifest(
        runtime="sklearn",
        artefact="model.skops",
        sha256="0" * 64,
        inputs=[ColumnSpec.of(column)],
        outputs=[ColumnSpec.of(output)],
    )
    return sklearn.load(Artefact.of(skops.io.dumps(model)), manifest, trust or Trust())


def answer(model: Any, output: Column, rows: Any, column: Column = _VECTOR) -> Any:
    """What a model says as it comes from a file."""
    served = loaded(model, output, column)
    [values] = served.predict(Batch(served.signature, rows))
    return values


def refused(model: Any, reason: str) -> None:
    """Assert that a model is refused for a reason, as it comes from a file."""
    with pytest.raises(ModelRefused, match=reason):
        answer(model, _LABEL, _ROWS.tolist())


# Members


class Pickled:
    """Leaves a trace when it is read."""

    def __init__(self, trace: Path) -> None:
        self._trace = trace

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return Path.touch, (self._trace,)


def with_cache(clusterer: Any, rows: Any, directory: Path) -> tuple[Any, Path]:
    """A clusterer whose cache holds a pickle for these rows, and the trace that it leaves when it is read."""
    trace = directory / "run"
    clusterer.set_params(memory=str(directory / "cache")).fit(rows)
    [kept] = directory.rglob("output.pkl")
    kept.write_bytes(pickle.dumps(Pickled(trace)))
    return clusterer, trace


def test_no_member_is_fitted_so_that_it_reads_pickles_from_a_cache(tmp_path: Path) -> None:
    clusterer, trace = with_cache(AgglomerativeClustering(), np.array(_ROWS.tolist()), tmp_path)

    refused(stack_of(clusterer, "fit"), "stack_method_ of StackingClassifier names methods that do not predict")

    assert not trace.exists()


def test_no_member_writes_where_a_request_says(tmp_path: Path) -> None:
    trace = tmp_path / "run"
    model = make_pipeline(FunctionTransformer(np.max), stack_of(np.zeros(1), "tofile"))
    text = Column(name="text", kind=Kind.STRING)

    with pytest.raises(ModelRefused, match="expected estimators in estimators_ of StackingClassifier, got ndarray"):
        answer(model, _LABEL, [[str(trace)]], text)

    assert not trace.exists()


def test_no_part_of_a_model_is_asked_before_it_is_looked_at(tmp_path: Path) -> None:
    clusterer, trace = with_cache(FeatureAgglomeration(), np.zeros((1, 4), np.float32), tmp_path)
    boosting = GradientBoostingRegressor(n_estimators=1).fit(_ROWS, _SPECIES)
    boosting.init_ = stack_of(clusterer, "fit")

    refused(boosting, "stack_method_ of StackingClassifier names methods that do not predict")

    assert not trace.exists()


def _calibrated(calibrator: Any) -> Any:
    model = CalibratedClassifierCV(LinearSVC(), cv=2).fit(_ROWS, _SPECIES)
    model.calibrated_classifiers_[0].calibrators = [calibrator]
    return model


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("estimators_", [[np.zeros(1)]]),
        ("estimators_", np.array([["{0.__class__}"]], dtype=object)),
        ("named_estimators_", Bunch(a=b"abc")),
        ("steps", [("a", np.zeros(1))]),
        ("steps", ["a"]),
        ("transformers_", [("a", np.log1p, [0])]),
        ("calibrated_classifiers_", [_calibrated([np.zeros(1)])]),
    ],
)
def test_what_stands_in_the_place_of_a_member_is_an_estimator(place: str, value: Any) -> None:
    model = logistic()
    setattr(model, place, value)
    refused(model, "expected estimators in ")


def test_no_mapping_is_asked_by_its_keys() -> None:
    model = logistic()
    model.estimator_ = Bunch(predict=np.log1p)
    refused(model, "Bunch is outside an estimator that uses it")


def _asked(tree: ast.Module) -> Iterator[str]:
    """The attributes of `self` that are asked as an estimator is."""
    asks = {"predict", "predict_proba", "decision_function", "transform", "inverse_transform", "kneighbors"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in asks:
            asked = node.value
            while isinstance(asked, ast.Subscript):
                asked = asked.value
            if isinstance(asked, ast.Attribute) and isinstance(asked.value, ast.Name):
                yield asked.attr


def test_every_attribute_that_the_library_asks_is_a_place_of_members() -> None:
    [root] = library.__path__
    modules = [
        module
        for module in Path(root).rglob("*.py")
        if not {"tests", "externals", "datasets", "utils", "inspection"} & set(module.parts)
    ]

    asked = {name for module in modules for name in _asked(ast.parse(module.read_text("utf-8")))}

    assert asked - _MEMBERS - _NAMED_MEMBERS == {"_loss", "tree_"}  # no estimators, and looked at by their types


def test_a_file_that_holds_no_estimator_is_refused() -> None:
    refused(Bunch(predict=np.log1p), "expected an estimator, got Bunch")


class Own:
    """A type of the operator's, and no estimator."""

    def predict(self, rows: Any) -> Any:
        return np.zeros((len(rows), 3))


def test_members_may_be_of_a_type_that_the_operator_trusts() -> None:
    model = stack_of(Own(), "predict")

    served = loaded(model, _LABEL, trust=Trust(types=(f"{Own.__module__}.Own",)))

    assert len(served.predict(Batch(served.signature, _ROWS.tolist()))[0]) == len(_ROWS)
    with pytest.raises(ModelRefused, match="expected estimators in estimators_ of StackingClassifier, got Own"):
        settle(model)


# Names that are followed


@pytest.mark.parametrize("name", sorted(_CHOICES))
@pytest.mark.parametrize("value", ["fit", ["predict", "__reduce__"], {"fit": "predict"}])
def test_members_are_asked_by_methods_that_predict(name: str, value: Any) -> None:
    model = logistic()
    setattr(model, name, value)
    refused(model, f"{name} of LogisticRegression names methods that do not predict")


@pytest.mark.parametrize("path", ["fit.__globals__", "__class__.coef_", "a.__globals__.coef_", "coef_.ctypes", ""])
def test_no_path_of_attributes_leads_a_selection_elsewhere(path: str) -> None:
    selection = SelectFromModel(logistic(), prefit=True, importance_getter=path, threshold=0.0)
    refused(make_pipeline(selection, logistic()), "SelectFromModel must name a path to coef_ or feature_importances_")


@pytest.mark.parametrize("name", ["transform", "__sklearn_is_fitted__"])
def test_an_attribute_with_a_name_that_the_library_calls_is_refused(name: str) -> None:
    model = logistic()
    setattr(model, name, np.log1p)
    refused(model, "in place of its method transform|LogisticRegression has attributes that its library")


# Where things hide


def _attributed(hidden: Any) -> Any:
    call = partial(np.max)
    vars(call)["predict"] = hidden
    return call


@pytest.mark.parametrize(
    "wrap",
    [
        lambda hidden: partial(np.max, hidden),
        lambda hidden: partial(np.max, initial=hidden),
        lambda hidden: partial(partial(np.max, hidden)),
        lambda hidden: {hidden: 1},
        lambda hidden: defaultdict(partial(np.max, hidden)),
        lambda hidden: np.ma.MaskedArray([hidden], mask=[True], dtype=object),
        _attributed,
    ],
)
def test_a_tree_is_found_wherever_it_hides(wrap: Callable[[Any], Any]) -> None:
    model = FunctionTransformer()
    model.kw_args = wrap(DecisionTreeClassifier().fit(_ROWS, _SPECIES).tree_)
    with pytest.raises(ModelRefused, match="Tree is outside an estimator that uses it"):
        settle(model)


@pytest.mark.parametrize("called", [Tree, _kmeans_single_lloyd])
def test_what_is_compiled_is_not_called_with_what_a_file_says(called: Any) -> None:
    with pytest.raises(ModelRefused, match="is not where an estimator keeps it"):
        settle(FunctionTransformer(partial(called, np.zeros(1))))


def test_a_clusterer_calls_no_other_function() -> None:
    model = BisectingKMeans(2).fit(_ROWS)
    model._kmeans_single = np.max
    refused(model, "BisectingKMeans must hold a function of k-means")


def test_a_partial_call_has_no_attributes() -> None:
    with pytest.raises(ModelRefused, match="partial has attributes that its library does not give it"):
        settle(FunctionTransformer(_attributed(1)))


def test_centres_wider_than_rows_are_refused() -> None:
    model = KMeans(2, n_init=1).fit(_ROWS)
    model.cluster_centers_ = np.zeros((2, 10**5))
    refused(model, "the centres of KMeans do not have its width")


# Models that nothing is wrong with

_MEMBERS_OF_A_STACK = [
    ("forest", RandomForestClassifier(3, random_state=0)),
    ("vectors", make_pipeline(StandardScaler(), SVC())),
    ("none", "drop"),
]
_SCALED = make_pipeline(StandardScaler(), LogisticRegression())

BENIGN = {
    "a stack": StackingClassifier(_MEMBERS_OF_A_STACK, LogisticRegression(max_iter=500), passthrough=True),
    "a stack of numbers": StackingRegressor([("a", Ridge()), ("b", LinearRegression())], Ridge()),
    "votes": VotingClassifier(_MEMBERS_OF_A_STACK),
    "calibration": CalibratedClassifierCV(RandomForestClassifier(3, random_state=0), cv=2),
    "calibration by steps": CalibratedClassifierCV(_SCALED, method="isotonic", cv=2),
    "a selection": make_pipeline(
        SelectFromModel(_SCALED, importance_getter="named_steps.logisticregression.coef_"), _SCALED
    ),
    "an elimination": RFE(LogisticRegression(max_iter=500), n_features_to_select=2),
    "one against the others": OneVsRestClassifier(SVC()),
    "a chain": TransformedTargetRegressor(RegressorChain(Ridge()), transformer=StandardScaler()),
    "a bag of pipelines": BaggingClassifier(_SCALED, 2, random_state=0),
    "a union": make_pipeline(FeatureUnion([("a", PCA(2)), ("b", "passthrough")]), _SCALED),
    "columns": make_pipeline(ColumnTransformer([("a", PCA(1), [0, 1])], remainder="passthrough"), _SCALED),
    "clusters": BisectingKMeans(2, random_state=0),
}


@pytest.mark.parametrize("model", BENIGN.values(), ids=BENIGN)
def test_a_model_made_of_others_answers_as_in_its_library(model: Any) -> None:
    targets = np.column_stack([_SPECIES, _SPECIES]) if isinstance(model, TransformedTargetRegressor) else _SPECIES
    model.fit(_ROWS, targets)
    output = sklearn.pack(model, ()).outputs[0]

    np.testing.assert_allclose(answer(model, output, _ROWS.tolist()), model.predict(_ROWS))


def test_a_threshold_is_put_to_the_answers_of_its_estimator() -> None:
    model = FixedThresholdClassifier(LogisticRegression(), threshold=0.9).fit(_ROWS, (_SPECIES > 0).astype(int))

    assert answer(model, _LABEL, _ROWS.tolist()).tolist() == model.predict(_ROWS).tolist()


def test_a_model_that_was_fitted_with_a_cache_does_without(tmp_path: Path) -> None:
    model = make_pipeline(StandardScaler(), LogisticRegression(), memory=str(tmp_path)).fit(_ROWS, _SPECIES)

    settle(model)

    assert model.memory is None
