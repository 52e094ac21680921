"""What a skops file may hold, and whether a model that came from one is sound.

skops runs no code of a file's own: it makes objects of types that are trusted by name. What it trusts by itself (all
of scikit-learn's estimators, numpy's and SciPy's ufuncs) is joined here by what estimators keep inside. But a type says
nothing of its content: the compiled parts of scikit-learn follow indices without looking, so those are looked at here.
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
from sklearn.svm._base import BaseLibSVM
from sklearn.tree import BaseDecisionTree
from sklearn.tree._tree import Tree

from weighbridge.domain.errors import ModelRefused

_KERNELS = (
    "CompoundKernel", "ConstantKernel", "DotProduct", "ExpSineSquared", "Exponentiation", "Matern", "PairwiseKernel",
    "Product", "RBF", "RationalQuadratic", "Sum", "WhiteKernel",
)  # fmt: skip
_METRICS = ("BrayCurtis", "Canberra", "Chebyshev", "Euclidean", "Hamming", "Haversine", "Manhattan", "Minkowski")
_SCORES = ("chi2", "f_classif", "f_oneway", "f_regression", "r_regression")
_MUTUAL = ("mutual_info_classif", "mutual_info_regression")

TYPES = frozenset(
    {
        "functools.partial",  # of functions that are themselves trusted
        "numpy.dtype",
        "numpy.max",
        "numpy.mean",
        "numpy.median",
        "numpy.min",
        "scipy._lib.array_api_compat.numpy._aliases.asarray",  # a spline remembers it
        "scipy.interpolate._bsplines.BSpline",
        "scipy.sparse._csc.csc_matrix",
        "scipy.sparse._csr.csr_matrix",
        "sklearn._loss.loss.HalfTweedieLoss",
        "sklearn._loss.loss.HalfTweedieLossIdentity",
        "sklearn.calibration._CalibratedClassifier",
        "sklearn.calibration._SigmoidCalibration",
        "sklearn.calibration._TemperatureScaling",
        "sklearn.cluster._bisect_k_means._BisectingTree",
        "sklearn.cluster._kmeans._kmeans_single_elkan",
        "sklearn.cluster._kmeans._kmeans_single_lloyd",
        "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
        "sklearn.gaussian_process._gpc._BinaryGaussianProcessClassifierLaplace",
        "sklearn.multiclass._ConstantPredictor",
        "sklearn.neighbors._ball_tree.BallTree",
        "sklearn.neighbors._kd_tree.KDTree",
        "sklearn.neural_network._stochastic_optimizers.AdamOptimizer",
        "sklearn.neural_network._stochastic_optimizers.SGDOptimizer",
        "sklearn.tree._tree.Tree",
        "sklearn.utils._bunch.Bunch",
        "sklearn.utils.validation.check_array",
        *(f"sklearn.feature_selection._mutual_info.{score}" for score in _MUTUAL),
        *(f"sklearn.feature_selection._univariate_selection.{score}" for score in _SCORES),
        *(f"sklearn.gaussian_process.kernels.{kernel}" for kernel in _KERNELS),
        *(f"sklearn.metrics._dist_metrics.{metric}Distance64" for metric in _METRICS),
    }
)
"""Types and functions that estimators keep inside, and that do nothing but arithmetic."""

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
    each = getattr(ensemble, "n_trees_per_iteration_", None)
    if each is not None and ensemble.estimators_.shape[1:] != (each,):
        raise ModelRefused(f"expected {each} trees for each iteration, got others")


def _check_predictors(estimator: Any) -> None:
    if not isinstance(estimator, BaseHistGradientBoosting):
        raise ModelRefused(f"expected predictors in gradient boosting, got some in {type(estimator).__name__}")
    categorical = np.asarray(estimator._bin_mapper.is_categorical_)  # as its own prediction takes it
    for predictor in (predictor for iteration in estimator._predictors for predictor in iteration):
        nodes, bitsets = predictor.nodes, predictor.raw_left_cat_bitsets
        leaf = nodes["is_leaf"] != 0
        left, right = nodes["left"].astype(np.int64), nodes["right"].astype(np.int64)
        _check_nodes(left, right, nodes["feature_idx"], leaf, min(estimator.n_features_in_, len(categorical)))
        chooses = nodes[~leaf & (nodes["is_categorical"] != 0)]
        if not categorical[chooses["feature_idx"]].all() or (chooses["bitset_idx"] >= len(bitsets)).any():
            raise ModelRefused("expected nodes of a tree that look at categories that there are, got others")


def _check_support(estimator: Any) -> None:
    """The sizes of all arrays are taken by libsvm from the number of classes and of support vectors."""
    classes, vectors = len(estimator._n_support), len(estimator.support_vectors_)
    pairs = classes * (classes - 1) // 2
    sizes = {estimator._intercept_.shape} | {of.shape for of in (estimator._probA, estimator._probB) if of.size}
    if estimator._sparse or estimator._dual_coef_.shape != (classes - 1, vectors) or sizes != {(pairs,)}:
        raise ModelRefused(f"expected coefficients for each of {vectors} dense support vectors, got others")


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
    (BaseGradientBoosting, _check_members),
    (BaseBagging, _check_members),
)
