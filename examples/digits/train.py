"""Train a neural network that reads handwritten digits, export it as ONNX, and package it as models/digits/1."""

from pathlib import Path

from skl2onnx import to_onnx
from sklearn.datasets import load_digits
from sklearn.neural_network import MLPClassifier

import weighbridge

if __name__ == "__main__":
    X, y = load_digits(return_X_y=True)  # images of 8 by 8 pixels, each a row of 64 numbers from 0 to 16
    X = X.astype("float32")
    network = MLPClassifier(hidden_layer_sizes=(32,), max_iter=60, early_stopping=True, random_state=0).fit(X, y)
    # Any framework that exports ONNX does: torch.onnx.export, tf2onnx, ... The rest stays the same.
    Path("digits.onnx").write_bytes(to_onnx(network, X[:1], options={"zipmap": False}).SerializeToString())
    print("packaged", weighbridge.package("digits.onnx", "models/digits/1", example=X))
