"""Whether a model that came from a skops file is sound.

A type that may be there says nothing of its content, and the compiled parts of scikit-learn follow indices without
looking: so those are looked at here.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import BSpline
from scipy.sparse import issparse
from sklearn.base import BaseEstimator
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

from weighbridge.domain.errors import ModelRefused

_KEPT = (Tree, TreePredictor, KDTree, BallTree)


def settle(model: Any) -> None:
    """Look through all that a model holds, and have it work alone and in silence: no jobs, no progress reports.

    Raises ModelRefused for what scikit-learn's compiled parts would trip over, and for attributes in place of methods.
    """
    seen: dict[int, Any] = {}
    waiting = [model]
    while waiting:
        thing = waiting.pop()
        if id(thing) in seen:
            continue
        seen[id(thing)] = thing
        if isinstance(thing, _KEPT):
            raise ModelRefused(f"expected {type(thing).__name__} in an estimator made of it, got one elsewhere")
        if isinstance(thing, BaseEstimator):
            _settle_estimator(thing)
        elif isinstance(thing, BSpline):
            BSpline(thing.t, thing.c, thing.k)  # looks at what it gets, which loading does not
        elif issparse(thing):
            thing.check_format(full_check=True)
        waiting.extend(_parts(thing))


def _parts(thing: Any) -> Iterator[Any]:
    if isinstance(thing, dict):
        yield from thing.values()
    elif isinstance(thing, list | tuple | set):
        yield from thing
    elif isinstance(thing, np.ndarray) and thing.dtype == object:
        yield from thing.flat
    for name, value in getattr(thing, "__dict__", {}).items():
        if name not in _ATTRIBUTES or not isinstance(thing, BaseEstimator):
            yield value


def _settle_estimator(estimator: Any) -> None:
    held = vars(estimator)
    for name in held:
        if callable(getattr(type(estimator), name, None)):
            raise ModelRefused(
                f"expected the method {name} of {type(estimator).__name__}, got an attribute in its place"
            )
    for name, calm in (("n_jobs", None), ("verbose", 0)):
        if name in held:
            held[name] = calm
    if isinstance(estimator, _VectorizerMixin) and estimator.input != "content":
        raise ModelRefused(f"expected {type(estimator).__name__} to take texts, got one that opens files")
    for name, check in _ATTRIBUTES.items():
        if name in held:
            check(estimator)
    for family, count in _FAMILIES:
        if isinstance(estimator, family):
            count(estimator)


def _check_tree(estimator: Any) -> None:
    tree = estimator.tree_
    if not isinstance(estimator, BaseDecisionTree) or not isinstance(tree, Tree):
        raise ModelRefused(
            f"expected a tree in a decision tree, got {type(tree).__name__} in {type(estimator).__name__}"
        )
    if not 0 < tree.node_count <= tree.capacity:
        raise ModelRefused(f"expected as many nodes as the tree has, {tree.capacity}, got {tree.node_count}")
    leaf = tree.children_left == -1
    _check_nodes(tree.children_left, tree.children_right, tree.feature, leaf, estimator.n_features_in_)


def _check_nodes(
    left: NDArray[Any], right: NDArray[Any], feature: NDArray[Any], leaf: NDArray[np.bool_], width: int
) -> None:
    """Each node leads on to later ones, and asks for features that there are."""
    own = np.flatnonzero(~leaf)
    for children in (left[own], right[own]):
        if (children <= own).any() or (children >= len(leaf)).any():
            raise ModelRefused("expected nodes of a tree that lead to later ones of it, got others")
    if (feature[own] < 0).any() or (feature[own] >= width).any():
        raise ModelRefused(f"expected nodes of a tree that look at one of {width} features, got others")


def _check_members(ensemble: Any) -> None:
    """Ensembles hand rows to their trees without a look at their width."""
    members = list(np.ravel(np.asarray(ensemble.estimators_, dtype=object)))
    features = vars(ensemble).get("estimators_features_")
    widths = [ensemble.n_features_in_] * len(members) if features is None else [len(chosen) for chosen in features]
    if [member.n_features_in_ for member in members] != widths:
        raise ModelRefused(f"expected {type(ensemble).__name__} of members as wide as itself, got others")


def _check_stages(boosting: Any) -> None:
    """Each tree of an iteration adds to a column of its own, of those that the first guess makes."""
    _check_members(boosting)
    guess = boosting._raw_predict_init(np.zeros((1, boosting.n_features_in_)))
    if guess.shape[1:] != boosting.estimators_.shape[1:]:
        raise ModelRefused(f"expected {guess.shape[1:]} trees for each iteration, got {boosting.estimators_.shape[1:]}")


def _check_predictors(estimator: Any) -> None:
    if not isinstance(estimator, BaseHistGradientBoosting):
        raise ModelRefused(f"expected predictors in gradient boosting, got some in {type(estimator).__name__}")
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
            raise ModelRefused("expected nodes of a tree that look at categories that there are, got others")


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
        raise ModelRefused(f"expected coefficients for each of {vectors} support vectors, got others")


def _rebuild(estimator: Any) -> None:
    """Index the neighbours anew: cheaper than to look through an index, and no less fast than to load it."""
    if not isinstance(estimator, NeighborsBase):
        raise ModelRefused(f"expected an index in a model of neighbours, got one in {type(estimator).__name__}")
    if estimator._tree is not None:
        index = {"kd_tree": KDTree, "ball_tree": BallTree}[estimator._fit_method]
        metric, parameters = estimator.effective_metric_, estimator.effective_metric_params_
        estimator._tree = index(estimator._fit_X, estimator.leaf_size, metric=metric, **parameters)


_ATTRIBUTES = {"tree_": _check_tree, "_tree": _rebuild, "_predictors": _check_predictors}
"""Attributes that are looked at on their own, and the only places for what `_KEPT` names."""

_FAMILIES = (
    (BaseLibSVM, _check_support),
    (BaseForest, _check_members),
    (BaseGradientBoosting, _check_stages),
    (BaseBagging, _check_members),
)
