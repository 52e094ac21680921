"""Train a model that tells which customers will leave, and package it as models/churn/1."""

import numpy as np
import pandas as pd
from sklearn.compose import make_column_transformer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

import weighbridge


def customers(count: int, seed: int = 0) -> pd.DataFrame:
    """Made-up customers: categories and numbers, some of them missing. Use your own data here."""
    random = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "plan": pd.Categorical(random.choice(["basic", "pro", "team"], count)),
            "months": random.integers(1, 60, count),
            "monthly_fee": random.uniform(5, 80, count).round(2),
            "satisfaction": random.choice([1, 2, 3, 4, 5, np.nan], count),  # not everybody answers the survey
        }
    )


if __name__ == "__main__":
    X = customers(2000)
    leaving = X["monthly_fee"] / 20 - X["months"] / 15 - X["satisfaction"].fillna(3) + 3
    y = np.where(leaving + np.random.default_rng(1).normal(size=len(X)) > 0, "leaves", "stays")
    numbers = make_pipeline(SimpleImputer(), StandardScaler())
    columns = make_column_transformer((OneHotEncoder(), ["plan"]), (numbers, ["months", "monthly_fee", "satisfaction"]))
    model = make_pipeline(columns, LogisticRegression()).fit(X, y)
    print("packaged", weighbridge.package(model, "models/churn/1", example=X))
