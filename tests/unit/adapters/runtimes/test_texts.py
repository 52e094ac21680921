"""Models of scikit-learn that were fitted on texts instead of a table."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from sklearn.calibration import CalibratedClassifierCV
from sklearn.feature_extraction.text import CountVectorizer, HashingVectorizer, TfidfVectorizer
from sklearn.pipeline import make_pipeline, make_union
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

import weighbridge
from weighbridge.domain.errors import ModelRefused

_TEXTS = ["a tree", "a forest", "the sea", "the shore"]


@pytest.mark.parametrize(
    "model",
    [
        make_pipeline(TfidfVectorizer(), LinearSVC()),
        make_pipeline(make_pipeline(CountVectorizer(), StandardScaler(with_mean=False)), LinearSVC()),
        make_pipeline("passthrough", make_union(HashingVectorizer(n_features=8), TfidfVectorizer()), LinearSVC()),
        CalibratedClassifierCV(make_pipeline(TfidfVectorizer(), LinearSVC()), cv=2),
    ],
    ids=["vectoriser", "in a pipeline", "in a union", "in another estimator"],
)
@pytest.mark.parametrize("count", [1, 4])
def test_a_model_of_texts_is_refused_with_what_to_do(tmp_path: Path, model: Any, count: int) -> None:
    model.fit(pd.Series(_TEXTS), [0, 0, 1, 1])

    with pytest.raises(ModelRefused, match=r"The model was fitted on texts, .* Fit it on a DataFrame instead"):
        weighbridge.package(model, tmp_path / "model" / "1", example=pd.DataFrame({"review": _TEXTS[:count]}))
