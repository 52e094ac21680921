"""Whether a model that came from a skops file is sound.

A type that may be there says nothing of its content. Estimators ask whatever stands in the place of a member, by
methods that the file names: so members have to be estimators, and such names are of closed sets. The compiled parts of
scikit-learn follow indices without looking: so those are looked at here.
"""

import re
from collections import defaultdict
from collections.abc import Collection, Iterator
from functools import partial
from types import FunctionType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import BSpline
from scipy.sparse import issparse
from scipy.special import expit
from sklearn.base import BaseEstimator
from sklearn.calibration import _CalibratedClassifier
from sklearn.cluster._kmeans import _BaseKMeans, _kmeans_single_elkan, _kmeans_single_lloyd
from sklearn.ensemble._bagging import BaseBagging
from sklearn.ensemble._forest import BaseForest
from sklearn.ensemble._gb import BaseGradientBoosting
from sklearn.ensemble._hist_gradient_boosting.gradient_boosting import BaseHistGradientBoosting
from sklearn.ensemble._hist_gradient_boosting.predictor import TreePredictor
from sklearn.feature_extraction.text import _VectorizerMixin
from sklearn.neighbors import BallTree, KDTree
from sklearn.neighbors._base import NeighborsBase
from sklearn.svm._base import BaseLibSVM, BaseSVC
from sklearn.tree import BaseDecisionTree
from sklearn.tree._tree import Tree
from sklearn.utils import Bunch

from weighbridge.domain.errors import ModelRefused

_KEPT = (Tree, TreePredictor, KDTree, BallTree, Bunch)
_CLUSTERINGS = (_kmeans_single_elkan, _kmeans_single_lloyd)
_NAMED = (type, FunctionType, np.ufunc, type(np.max), type(expit))
_ESTIMATORS = (BaseEstimator, _CalibratedClassifier)

_MEMBERS = frozenset(
    {
        "_bin_mapper", "_centerer", "_encoder", "_label_binarizer", "_label_encoder", "_preprocessor", "_scaler",
        "_tfidf", "base_estimator_", "best_estimator_", "calibrated_classifiers_", "calibrators", "estimator",
        "estimator_", "estimators_", "final_estimator", "final_estimator_", "indicator_", "init_", "initial_imputer_",
        "kernel_pca_", "label_binarizer_", "le_", "named_estimators_", "nbrs_", "nn_fit", "one_hot_encoder_",
        "regressor", "regressor_", "transformer", "transformer_",
    }
)  # fmt: skip
"""Attributes in which estimators keep others."""

_NAMED_MEMBERS = frozenset({"estimators", "steps", "transformer_list", "transformers", "transformers_"})
"""Attributes in which they are in the second place of tuples."""

_PLACEHOLDERS = ("drop", "passthrough", "zero")

_PREDICTIONS = ("auto", "decision_function", "predict", "predict_log_proba", "predict_proba")
_METHODS = (*_PREDICTIONS[1:], "inverse_transform", "kneighbors", "score_samples", "transform")

_CHOICES = frozenset({"chain_method", "chain_method_", "response_method", "stack_method", "stack_method_"})
"""Attributes that name the methods by which members are asked."""

_IMPORTANCES = re.compile(r"auto|([A-Za-z]\w*\.)*(coef_|feature_importances_)")
"""Paths to what a selection goes by: through public attributes, from which no path leads to a function's globals."""


def settle(model: Any, trusted: Collection[str] = ()) -> None:
    """Look through all that a model holds, and have it work alone and in silence: no jobs, caches or progress reports.

    `trusted` are names of types whose instances may be members of others beside scikit-learn's estimators. Raises
    ModelRefused for what scikit-learn's compiled parts would trip over, for members that are no estimators, and for
    methods that are none of an estimator's predictions.
    """
    seen: dict[int, Any] = {}

    def look(thing: Any) -> None:
        if id(thing) not in seen:
            seen[id(thing)] = thing
            for part in _parts(thing):
                look(part)
            _check(thing, trusted)  # after its parts: some checks ask them

    if not _is_member(model, trusted):
        raise ModelRefused(f"expected an estimator, got {type(model).__name__}")
    look(model)


def _parts(thing: Any) -> Iterator[Any]:
    if isinstance(thing, dict):
        yield from thing
        yield from thing.values()
    elif isinstance(thing, list | tuple | set):
        yield from thing
    elif isinstance(thing, np.ndarray) and thing.dtype == object:
        yield from np.asarray(thing).flat  # what is masked, too
    elif isinstance(thing, partial):
        yield from (thing.func, thing.args, thing.keywords)
    if isinstance(thing, defaultdict):
        yield thing.default_factory
    for name, value in _held(thing).items():
        if not isinstance(thing, BaseEstimator):
            yield value
        elif name == "named_estimators_" and isinstance(value, Bunch):
            yield dict(value)
        elif name not in _ATTRIBUTES:
            yield value


def _held(thing: Any) -> dict[str, Any]:
    """The attributes that a file gave a thing: none to types and functions, which it only names."""
    return {} if isinstance(thing, _NAMED) else getattr(thing, "__dict__", {})


def _check(thing: Any, trusted: Collection[str]) -> None:
    if isinstance(thing, _KEPT):
        raise ModelRefused(f"{type(thing).__name__} is outside an estimator that uses it")
    if isinstance(thing, type | FunctionType):
        _check_callable(thing, trusted)
    elif isinstance(thing, BaseEstimator) or _name(type(thing)) not in trusted:
        _check_attributes(thing)
    if isinstance(thing, _ESTIMATORS):
        _check_composition(thing, trusted)
    if isinstance(thing, BaseEstimator):
        _settle_estimator(thing)
    elif isinstance(thing, BSpline):
        BSpline(thing.t, thing.c, thing.k)  # looks at what it gets, which loading does not
    elif issparse(thing):
        thing.check_format(full_check=True)


def _check_callable(thing: Any, trusted: Collection[str]) -> None:
    """Whoever calls it gives it arguments from the file, which compiled functions and types do not look at."""
    plain = thing.__module__ in ("builtins", "numpy") if isinstance(thing, type) else thing not in _CLUSTERINGS
    if not plain and _name(thing) not in trusted:
        raise ModelRefused(f"{thing.__name__} is not where an estimator keeps it")


def _check_attributes(thing: Any) -> None:
    for name in _held(thing):
        if name.startswith("__") or isinstance(thing, partial):
            raise ModelRefused(f"{type(thing).__name__} has attributes that its library does not give it")
        if name in _METHODS or callable(getattr(type(thing), name, None)):
            raise ModelRefused(f"{type(thing).__name__} has an attribute in place of its method {name}")


def _check_composition(estimator: Any, trusted: Collection[str]) -> None:
    """Whatever it asks for a prediction is an estimator, and it asks for nothing else."""
    held, of_type = vars(estimator), type(estimator).__name__
    for name, member in _members(held):
        if not _is_member(member, trusted) and not _is_one_of(_PLACEHOLDERS, member):
            raise ModelRefused(f"expected estimators in {name} of {of_type}, got {type(member).__name__}")
    for name in _CHOICES & held.keys():
        if not all(_is_one_of(_PREDICTIONS, choice) for choice in _flat(held[name])):
            raise ModelRefused(f"{name} of {of_type} names methods that do not predict")
    getter = held.get("importance_getter")
    if isinstance(getter, str) and not _IMPORTANCES.fullmatch(getter):
        raise ModelRefused(f"{of_type} must name a path to coef_ or feature_importances_")


def _members(held: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for name in _MEMBERS & held.keys():
        value = held[name]
        yield from ((name, member) for member in _flat(list(value.values()) if isinstance(value, Bunch) else value))
    for name in _NAMED_MEMBERS & held.keys():
        for entry in held[name]:
            yield name, entry[1] if isinstance(entry, list | tuple) else entry


def _flat(value: Any) -> Iterator[Any]:
    if isinstance(value, list | tuple) or (isinstance(value, np.ndarray) and value.dtype == object):
        for item in value:
            yield from _flat(item)
    else:
        yield value


def _is_member(thing: Any, trusted: Collection[str]) -> bool:
    return isinstance(thing, _ESTIMATORS) or _name(type(thing)) in trusted


def _is_one_of(words: Collection[str], thing: Any) -> bool:
    return thing is None or (isinstance(thing, str) and thing in words)


def _name(thing: Any) -> str:
    return f"{thing.__module__}.{thing.__name__}"


def _settle_estimator(estimator: Any) -> None:
    held = vars(estimator)
    for name, calm in (("n_jobs", None), ("verbose", 0), ("memory", None)):
        if name in held:
            held[name] = calm
    if isinstance(estimator, _VectorizerMixin) and estimator.input != "content":
        raise ModelRefused(f"{type(estimator).__name__} must take texts; this one opens files")
    for name, check in _ATTRIBUTES.items():
        if name in held:
            check(estimator)
    for family, fitted, count in _FAMILIES:
        if isinstance(estimator, family) and fitted in held:  # others are what members were copied from
            count(estimator)


def _check_tree(estimator: Any) -> None:
    tree = estimator.tree_
    if not isinstance(estimator, BaseDecisionTree) or not isinstance(tree, Tree):
        raise ModelRefused(
            f"expected a tree in a decision tree, got {type(tree).__name__} in {type(estimator).__name__}"
        )
    if not 0 < tree.node_count <= tree.capacity:
        raise ModelRefused(f"expected {tree.capacity} nodes of a tree, got {tree.node_count}")
    leaf = tree.children_left == -1
    _check_nodes(tree.children_left, tree.children_right, tree.feature, leaf, estimator.n_features_in_)


def _check_nodes(
    left: NDArray[Any], right: NDArray[Any], feature: NDArray[Any], leaf: NDArray[np.bool_], width: int
) -> None:
    """Each node leads on to later ones, and asks for features that there are."""
    own = np.flatnonzero(~leaf)
    for children in (left[own], right[own]):
        if (children <= own).any() or (children >= len(leaf)).any():
            raise ModelRefused("a node of a tree does not lead to a later one")
    if (feature[own] < 0).any() or (feature[own] >= width).any():
        raise ModelRefused(f"a node of a tree reads a feature outside the {width} that exist")


def _check_widths(ensemble: Any) -> None:
    """Ensembles hand rows to their trees without a look at their width."""
    members = list(_flat(ensemble.estimators_))
    features = vars(ensemble).get("estimators_features_")
    widths = [ensemble.n_features_in_] * len(members) if features is None else [len(chosen) for chosen in features]
    if [member.n_features_in_ for member in members] != widths:
        raise ModelRefused(f"the members of {type(ensemble).__name__} do not have its width")


def _check_stages(boosting: Any) -> None:
    """Each tree of an iteration adds to a column of its own, of those that the first guess makes."""
    _check_widths(boosting)
    guess = boosting._raw_predict_init(np.zeros((1, boosting.n_features_in_)))
    if guess.shape[1:] != boosting.estimators_.shape[1:]:
        raise ModelRefused(f"expected {guess.shape[1:]} trees for each iteration, got {boosting.estimators_.shape[1:]}")


def _check_predictors(estimator: Any) -> None:
    if not isinstance(estimator, BaseHistGradientBoosting):
        raise ModelRefused(f"{type(estimator).__name__} holds predictors of gradient boosting")
    categorical = np.asarray(estimator._bin_mapper.is_categorical_)  # as its own prediction takes it
    row = np.zeros((1, estimator.n_features_in_), dtype=object)  # of numbers and texts alike
    width = min(estimator._preprocess_X(row, reset=False).shape[1], len(categorical))
    for predictor in (predictor for iteration in estimator._predictors for predictor in iteration):
        nodes, bitsets = predictor.nodes, predictor.raw_left_cat_bitsets
        leaf = nodes["is_leaf"] != 0
        left, right = nodes["left"].astype(np.int64), nodes["right"].astype(np.int64)
        _check_nodes(left, right, nodes["feature_idx"], leaf, width)
        chooses = nodes[~leaf & (nodes["is_categorical"] != 0)]
        if not categorical[chooses["feature_idx"]].all() or (chooses["bitset_idx"] >= len(bitsets)).any():
            raise ModelRefused("a node of a tree reads categories that do not exist")


def _check_support(estimator: Any) -> None:
    """The sizes of all arrays are taken by libsvm from the number of classes and of support vectors."""
    classes, vectors = len(estimator._n_support), estimator.support_vectors_.shape[0]
    sizes = {estimator._intercept_.shape} | {of.shape for of in (estimator._probA, estimator._probB) if of.size}
    if (
        bool(estimator._sparse) is not issparse(estimator.support_vectors_)
        or (isinstance(estimator, BaseSVC) and estimator._n_support.sum() != vectors)
        or estimator._dual_coef_.size != (classes - 1) * vectors
        or sizes != {(classes * (classes - 1) // 2,)}
    ):
        raise ModelRefused(f"the coefficients do not match the {vectors} support vectors")


def _rebuild(estimator: Any) -> None:
    """Index the neighbours anew: cheaper than to look through an index, and no less fast than to load it."""
    if not isinstance(estimator, NeighborsBase):
        raise ModelRefused(f"{type(estimator).__name__} holds an index of neighbours")
    if estimator._tree is not None:
        index = {"kd_tree": KDTree, "ball_tree": BallTree}[estimator._fit_method]
        metric, parameters = estimator.effective_metric_, estimator.effective_metric_params_
        estimator._tree = index(estimator._fit_X, estimator.leaf_size, metric=metric, **parameters)


def _check_centres(clusterer: Any) -> None:
    if clusterer.cluster_centers_.shape[1:] != (clusterer.n_features_in_,):
        raise ModelRefused(f"the centres of {type(clusterer).__name__} do not have its width")


def _check_clustering(estimator: Any) -> None:
    if estimator._kmeans_single not in _CLUSTERINGS:
        raise ModelRefused(f"{type(estimator).__name__} must hold a function of k-means")


_ATTRIBUTES = {
    "tree_": _check_tree,
    "_tree": _rebuild,
    "_predictors": _check_predictors,
    "_kmeans_single": _check_clustering,
}
"""Attributes that are looked at on their own, and the only places for what `_KEPT` and `_CLUSTERINGS` name."""

_FAMILIES = (
    (BaseLibSVM, "support_vectors_", _check_support),
    (BaseForest, "estimators_", _check_widths),
    (BaseGradientBoosting, "estimators_", _check_stages),
    (BaseBagging, "estimators_", _check_widths),
    (_BaseKMeans, "cluster_centers_", _check_centres),
)
