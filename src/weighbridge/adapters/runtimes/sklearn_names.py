"""What a skops file may name, and what it may have done with that while it is read.

skops runs no code of a file's own: it makes objects of types that are trusted by name. What it trusts by itself (all
of scikit-learn's estimators, numpy's and SciPy's ufuncs) is joined here by what estimators keep inside. A file also
says which part of skops reads a name, and some of these parts call it, with arguments from the file. That would be over
before anybody has looked at what was made, so it is refused before skops makes anything.
"""

import io
import json
import zipfile
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import skops.io

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

_SILENT = ("DTypeNode", "DictNode", "FunctionNode", "ObjectNode", "PartialNode", "SparseMatrixNode", "TreeNode")
"""Parts of skops that give what a file names without calling it with arguments from the file."""


def admit(content: bytes, trusted: Collection[str]) -> list[str]:
    """The types that a file needs beside those that skops trusts, of `TYPES` or `trusted`. Raises ModelRefused."""
    found = set(skops.io.get_untrusted_types(data=content))
    strangers = sorted(found - TYPES - set(trusted))
    if strangers:
        raise ModelRefused(
            f"the file holds types that are not known to be harmless: {', '.join(strangers)}; if you trust "
            "them, name them in trusted_types of weighbridge.package, and to serve them in WEIGHBRIDGE_TRUSTED_TYPES"
        )
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        _check_nodes(json.loads(file.read("schema.json")))
    return sorted(found)


def _check_nodes(schema: Any) -> None:
    """What skops does by itself stays within what was admitted. Raises ModelRefused."""
    roles: dict[int, str] = {}
    known: dict[object, str] = {}
    for part in _mappings(schema):
        if any(name.startswith("__array") for name in part):
            raise ModelRefused("an attribute may hold a memory address, which numpy would follow")
        if "__loader__" not in part:
            continue
        loader, name = part["__loader__"], f"{part['__module__']}.{part['__class__']}"
        if name in TYPES and loader not in _SILENT:
            raise ModelRefused(f"{name} would be called while the file is read")
        if loader == "JsonNode" and isinstance(json.loads(part["content"]), dict | list):
            raise ModelRefused("a JSON node holds several values instead of one")
        if loader == "DictNode":
            roles[id(part["key_types"])] = "types of keys"
            if any(key["__loader__"] != "TypeNode" for key in part["key_types"]["content"]):
                raise ModelRefused("the keys of a dictionary are not of plain types")
        # skops takes the first node of an id for all of them, whatever the others say.
        role = roles.get(id(part), loader)
        if "__id__" in part and known.setdefault(part["__id__"], role) != role:
            raise ModelRefused("nodes of different kinds share one id")


def _mappings(schema: Any) -> Iterator[Mapping[str, Any]]:
    """Every mapping in JSON, each before those in it."""
    waiting = [schema]
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            yield part
            waiting.extend(part.values())
        elif isinstance(part, list):
            waiting.extend(part)
