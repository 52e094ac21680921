"""Graphs of ONNX that are written by hand."""

from typing import Any

import onnx
from onnx import helper


def graph(
    nodes: list[tuple[str, list[str], list[str]]],
    inputs: dict[str, tuple[int, list[Any]]],
    outputs: dict[str, tuple[int, list[Any] | None]],
    **parts: Any,
) -> onnx.ModelProto:
    """A model of nodes (operator, inputs, outputs), and of inputs and outputs (type, shape)."""
    made = helper.make_graph(
        [helper.make_node(*node) for node in nodes],
        "graph",
        [helper.make_tensor_value_info(name, *of) for name, of in inputs.items()],
        [helper.make_tensor_value_info(name, *of) for name, of in outputs.items()],
        **parts,
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
