"""Train gradient boosting that estimates the mass of a penguin, and package it as models/penguins/1."""

from lightgbm import LGBMRegressor
from palmerpenguins import load_penguins

import weighbridge

if __name__ == "__main__":
    penguins = load_penguins().dropna(subset="body_mass_g")
    X = penguins[["species", "sex", "bill_length_mm", "flipper_length_mm"]].astype(
        {"species": "category", "sex": "category"}  # LightGBM takes categories and missing values as they are
    )
    model = LGBMRegressor(n_estimators=40, max_depth=4, verbose=-1).fit(X, penguins["body_mass_g"])
    print("packaged", weighbridge.package(model, "models/penguins/1", example=X))
