from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.unit.adapters.runtimes.fitted import manifest, predict, reloaded, vector
from tests.unit.adapters.runtimes.graphs import graph
from weighbridge.adapters.artefact import Artefact
from weighbridge.adapters.runtimes import Trust, runtime
from weighbridge.adapters.runtimes.onnx_external import MESSAGES
from weighbridge.domain.errors import FeatureTooLarge, ModelRefused
from weighbridge.domain.signature import Column, Kind

FLOAT = Column(name="a", kind=Kind.FLOAT)
INT = Column(name="a", kind=Kind.INT)
TEXT = Column(name="a", kind=Kind.STRING)
COLOUR = Column(name="a", kind=Kind.STRING, categories=("red", "blue"))


def identity(of: int, shape: list[Any], name: str = "x") -> onnx.ModelProto:
    return graph([("Identity", [name], ["y"])], {name: (of, shape)}, {"y": (of, shape)})


def test_a_path_and_bytes_are_packed_like_a_model(tmp_path: Path) -> None:
    model = identity(TensorProto.FLOAT, ["n", 2])
    file = tmp_path / "model.onnx"
    file.write_bytes(model.SerializeToString())

    packed = [runtime("onnx").pack(one, vector(2)) for one in (model, file, str(file), file.read_bytes())]

    assert all(one == packed[0] for one in packed)


@pytest.mark.parametrize(
    ("of", "shape", "column", "rows"),
    [
        (TensorProto.FLOAT, ["n", 1], FLOAT, [[0.5], [1.5]]),
        (TensorProto.FLOAT, ["n"], FLOAT, [[0.5], [1.5]]),
        (TensorProto.DOUBLE, ["n"], INT, [[1], [2]]),
        (TensorProto.INT64, ["n", 1], INT, [[1], [2]]),
        (TensorProto.INT32, ["n"], INT, [[1], [2]]),
        (TensorProto.BOOL, ["n"], Column(name="a", kind=Kind.BOOL), [[True], [False]]),
        (TensorProto.STRING, ["n", 1], TEXT, [["red"], ["blue"]]),
        (TensorProto.STRING, ["n"], COLOUR, [["red"], ["blue"]]),
    ],
)
@pytest.mark.parametrize("name", ["a", "x"])
def test_a_column_goes_by_its_name_or_as_the_only_input(
    of: int, shape: list[Any], column: Column, rows: list[list[Any]], name: str
) -> None:
    _, model = reloaded("onnx", identity(of, shape, name), (column,))

    [predicted] = predict(model, rows)

    assert predicted.tolist() == [cell for [cell] in rows]


def test_categories_go_into_a_matrix_as_numbers() -> None:
    _, model = reloaded("onnx", identity(TensorProto.FLOAT, ["n", 2]), (COLOUR, Column(name="b", kind=Kind.INT)))

    assert predict(model, [["blue", 7]])[0].tolist() == [[1.0, 7.0]]


def test_several_inputs_go_by_name_whatever_their_order() -> None:
    pair = graph(
        [("Concat", ["v", "a"], ["y"])],
        {"v": (TensorProto.FLOAT, ["n", 2]), "a": (TensorProto.FLOAT, ["n", 1])},
        {"y": (TensorProto.FLOAT, ["n", 3])},
    )
    pair.graph.node[0].attribute.append(helper.make_attribute("axis", 1))
    _, model = reloaded("onnx", pair, (FLOAT, Column(name="v", kind=Kind.FLOAT, width=2)))

    assert predict(model, [[1.0, [2.0, 3.0]]])[0].tolist() == [[2.0, 3.0, 1.0]]


def test_nulls_are_not_a_number_to_a_tensor_of_floats() -> None:
    nullable = Column(name="a", kind=Kind.FLOAT, nullable=True)
    _, model = reloaded("onnx", identity(TensorProto.FLOAT, ["n", 1]), (nullable,))

    assert np.isnan(predict(model, [[None]])[0]).tolist() == [True]


def test_a_number_beyond_single_precision_is_an_infinity() -> None:
    _, model = reloaded("onnx", identity(TensorProto.FLOAT, ["n", 1]), vector(1))

    assert predict(model, [[1e39]])[0].tolist() == [float("inf")]


@pytest.mark.parametrize("name", ["a", "x"])
@pytest.mark.parametrize(
    ("rows", "row"),
    [([[2**31]], None), ([[-(2**31) - 1]], None), ([[1], [2**32 + 5]], 1)],
    ids=["more", "less", "rows"],
)
def test_an_integer_beyond_a_tensor_of_32_bits_is_refused_with_its_place(
    name: str, rows: list[list[int]], row: int | None
) -> None:
    _, model = reloaded("onnx", identity(TensorProto.INT32, ["n"], name), (INT,))
    assert [predict(model, [[value]])[0].tolist() for value in (2**31 - 1, -(2**31))] == [[2**31 - 1], [-(2**31)]]

    with pytest.raises(FeatureTooLarge, match=r"value of a.* at most 2147483647$") as caught:
        predict(model, rows)
    assert (caught.value.row, caught.value.column) == (row, "a")


@pytest.mark.parametrize("alone", [True, False])
def test_of_several_columns_the_one_that_is_beyond_its_tensor_is_told(*, alone: bool) -> None:
    two = graph(
        [("Cast", ["b"], ["wide"]), ("Add", ["a", "wide"], ["y"])],
        {"a": (TensorProto.INT64, ["n"]), "b": (TensorProto.INT32, ["n"])},
        {"y": (TensorProto.INT64, ["n"])},
    )
    two.graph.node[0].attribute.append(helper.make_attribute("to", TensorProto.INT64))
    columns = (INT, Column(name="b", kind=Kind.INT))
    in_one, by_name = identity(TensorProto.INT32, ["n", 2]), two
    _, model = reloaded("onnx", in_one if alone else by_name, columns)

    with pytest.raises(FeatureTooLarge, match="value of b in row 1"):
        predict(model, [[7 if alone else 2**40, 1], [7 if alone else 2**40, 2**31]])


NUMBERS = (INT, Column(name="b", kind=Kind.FLOAT), Column(name="c", kind=Kind.BOOL))


@pytest.mark.parametrize(
    ("of", "inputs", "rows"),
    [
        (TensorProto.FLOAT, vector(3), [[0.1, 2.5, -1e-50], [1e38, -0.0, 7.0]]),
        (TensorProto.DOUBLE, vector(3), [[0.1, 1e300, -1e-300], [1.0, -0.0, 7.0]]),
        (TensorProto.FLOAT16, vector(3), [[0.1, 2.5, -1e-50], [1.0, -0.0, 7.0]]),
        (TensorProto.FLOAT, NUMBERS, [(3, 0.1, True), (2**60, -0.5, False)]),
        (
            TensorProto.FLOAT,
            (*NUMBERS[:2], Column(name="d", kind=Kind.STRING, categories=("red", "blue"))),
            [(3, 0.1, "red"), (4, 0.1, "blue")],
        ),
        (TensorProto.FLOAT, (*NUMBERS[:2], Column(name="d", kind=Kind.INT, nullable=True)), [(3, 1.0, 2), (3, 1.0, 7)]),
        (TensorProto.INT64, (INT, *(Column(name=name, kind=Kind.INT) for name in "bc")), [(1, 2, 3), (2**60, -5, 6)]),
    ],
)
def test_rows_get_the_same_bits_alone_and_in_a_batch(of: int, inputs: tuple[Column, ...], rows: Any) -> None:
    _, model = reloaded("onnx", identity(of, ["n", 3]), inputs)
    wanted = predict(model, rows)[0]

    alone = [predict(model, [row])[0] for row in rows]

    assert np.concatenate(alone).tobytes() == wanted.tobytes()


def test_a_vector_of_texts_is_taken() -> None:
    texts = (Column(name="features", kind=Kind.STRING, width=2),)
    _, model = reloaded("onnx", identity(TensorProto.STRING, ["n", 2]), texts)

    assert predict(model, [["a", "b"]])[0].tolist() == [["a", "b"]]


def test_an_output_that_is_the_input_comes_for_every_row() -> None:
    passing = graph(
        [("Neg", ["x"], ["y"])],
        {"x": (TensorProto.FLOAT, ["n", 2])},
        {"x": (TensorProto.FLOAT, ["n", 2]), "y": (TensorProto.FLOAT, ["n", 2])},
    )
    _, model = reloaded("onnx", passing, vector(2))

    for row in ([1.0, 2.0], [3.0, 4.0], [-1.0, 0.5]):
        same, negative = predict(model, [row])
        assert (same.tolist(), negative.tolist()) == ([row], [[-cell for cell in row]])


def test_an_output_whose_rank_depends_on_the_row_comes_for_every_row() -> None:
    value = helper.make_tensor_value_info("value", TensorProto.FLOAT, None)
    then, other = (
        helper.make_graph([helper.make_node(*node)], "branch", [], [value])
        for node in (("Identity", ["x"], ["value"]), ("Reshape", ["x", "flat"], ["value"]))
    )
    model = graph(
        [("ReduceSum", ["x"], ["sum"]), ("Greater", ["sum", "zero"], ["is_more"]), ("If", ["is_more"], ["y"])],
        {"x": (TensorProto.FLOAT, ["n", 1])},
        {"y": (TensorProto.FLOAT, None)},
        initializer=[
            helper.make_tensor("zero", TensorProto.FLOAT, [], [0.0]),
            helper.make_tensor("flat", TensorProto.INT64, [1], [-1]),
        ],
    )
    model.graph.node[0].attribute.append(helper.make_attribute("keepdims", 0))
    model.graph.node[2].attribute.extend(
        [helper.make_attribute("then_branch", then), helper.make_attribute("else_branch", other)]
    )
    _, ours = reloaded("onnx", model, vector(1))

    assert [predict(ours, [[cell]])[0].tolist() for cell in (1.0, -2.0, 3.0, -4.0)] == [[1.0], [-2.0], [3.0], [-4.0]]


def test_several_outputs_come_for_every_row() -> None:
    two = graph(
        [("Neg", ["x"], ["less"]), ("ArgMax", ["x"], ["most"])],
        {"x": (TensorProto.FLOAT, ["n", 3])},
        {"most": (TensorProto.INT64, ["n", 1]), "less": (TensorProto.FLOAT, ["n", 3])},
    )
    two.graph.node[1].attribute.append(helper.make_attribute("axis", 1))
    _, model = reloaded("onnx", two, vector(3))

    for row, most in (([1.0, 2.0, 0.0], 1), ([3.0, 2.0, 0.0], 0), ([3.0, 2.0, 9.0], 2)):
        found = predict(model, [row])
        assert [values.tolist() for values in found] == [[most], [[-cell for cell in row]]]
        assert [values.dtype for values in found] == [np.int64, np.float64]


def test_outputs_that_are_a_column_come_as_a_vector_for_every_row() -> None:
    _, model = reloaded("onnx", identity(TensorProto.FLOAT, ["n", 1]), vector(1))

    assert [predict(model, [[value]])[0].tolist() for value in (1.0, 2.0, 3.0)] == [[1.0], [2.0], [3.0]]


def test_a_model_that_was_exported_for_one_row_takes_rows_one_by_one() -> None:
    _, model = reloaded("onnx", identity(TensorProto.FLOAT, [1, 2]), vector(2))

    assert predict(model, [[1.0, 2.0], [3.0, 4.0]])[0].tolist() == [[1.0, 2.0], [3.0, 4.0]]


def test_several_outputs_keep_their_names() -> None:
    two = graph(
        [("Identity", ["x"], ["same"]), ("IsNaN", ["x"], ["none"])],
        {"x": (TensorProto.FLOAT, ["n", 1])},
        {"same": (TensorProto.FLOAT, ["n", 1]), "none": (TensorProto.BOOL, ["n", 1])},
    )

    assert [(column.name, column.kind) for column in runtime("onnx").pack(two, vector(1)).outputs] == [
        ("same", Kind.FLOAT),
        ("none", Kind.BOOL),
    ]


@pytest.mark.parametrize(
    ("of", "shape", "inputs", "message"),
    [
        (TensorProto.FLOAT, ["n", 2, 2], vector(4), r"expected input x of shape \(n, width\)"),
        (TensorProto.UINT8, ["n", 2], vector(2), r"expected input x of shape \(n, width\)"),
        (TensorProto.FLOAT, [7, 2], vector(2), "expected a free batch dimension, or 1, for input x, got 7"),
        (TensorProto.FLOAT, ["n", 2], vector(3), "expected 2 values for input x, got 3"),
        (TensorProto.INT64, ["n", 2], vector(2), r"expected column features to fit tensor\(int64\), got float"),
        (TensorProto.FLOAT, ["n", 1], (TEXT,), r"expected column a to fit tensor\(float\), got string"),
        (
            TensorProto.INT64,
            ["n", 1],
            (Column(name="a", kind=Kind.INT, nullable=True),),
            r"expected column a to fit tensor\(int64\), got int with nulls",
        ),
    ],
)
def test_inputs_that_do_not_match_the_model_are_refused(
    of: int, shape: list[Any], inputs: tuple[Column, ...], message: str
) -> None:
    with pytest.raises(ModelRefused, match=message):
        runtime("onnx").pack(identity(of, shape), inputs)


def test_columns_without_the_names_of_several_inputs_are_refused() -> None:
    two = graph(
        [("Add", ["a", "b"], ["y"])],
        {"a": (TensorProto.FLOAT, ["n"]), "b": (TensorProto.FLOAT, ["n"])},
        {"y": (TensorProto.FLOAT, ["n"])},
    )

    with pytest.raises(ModelRefused, match="the columns must have the names of the model's inputs: a, b"):
        runtime("onnx").pack(two, (FLOAT,))


@pytest.mark.parametrize(
    ("operator", "of", "shape"),
    [("Shape", TensorProto.INT64, [2]), ("Size", TensorProto.INT64, [])],
)
def test_an_output_that_has_no_row_for_each_row_is_refused(operator: str, of: int, shape: list[Any]) -> None:
    model = graph([(operator, ["x"], ["y"])], {"x": (TensorProto.FLOAT, ["n", 2])}, {"y": (of, shape)})

    with pytest.raises(ModelRefused, match=r"expected output prediction of shape \(n, width\)"):
        runtime("onnx").pack(model, vector(2))


def test_a_model_that_fails_on_its_own_inputs_is_refused() -> None:
    model = graph(
        [("Reshape", ["x", "shape"], ["y"])],
        {"x": (TensorProto.FLOAT, ["n", "m"])},
        {"y": (TensorProto.FLOAT, [None, 4])},
        initializer=[helper.make_tensor("shape", TensorProto.INT64, [2], [-1, 4])],
    )

    with pytest.raises(ModelRefused, match="the model does not take one row of its inputs"):
        runtime("onnx").pack(model, vector(3))


def test_another_number_of_outputs_is_refused() -> None:
    packed = runtime("onnx").pack(identity(TensorProto.FLOAT, ["n", 2]), vector(2))
    outputs = [*packed.outputs, Column(name="more", kind=Kind.FLOAT)]

    with pytest.raises(ModelRefused, match="expected 1 outputs, got 2"):
        runtime("onnx").load(Artefact.of(packed.artefact), manifest("onnx", vector(2), outputs), Trust())


def external(location: str) -> onnx.TensorProto:
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[2])
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    return tensor


def constant(tensor: onnx.TensorProto) -> onnx.NodeProto:
    return helper.make_node("Constant", [], ["w"], value=tensor)


def model_of(**parts: Any) -> onnx.ModelProto:
    return graph([("Add", ["x", "w"], ["y"])], {"x": (1, ["n", 2])}, {"y": (1, ["n", 2])}, **parts)


def hostile() -> Iterator[tuple[str, onnx.ModelProto]]:
    for location in ("/etc/hostname", "../weights", "weights", "*/_ORT_MEM_ADDR_/*"):
        yield location, model_of(initializer=[external(location)])
    attribute = model_of()
    attribute.graph.node.insert(0, constant(external("weights")))
    yield "attribute", attribute
    nested = model_of()
    inner = helper.make_graph([constant(external("weights"))], "inner", [], [])
    nested.graph.node.insert(0, helper.make_node("If", ["x"], ["w"], then_branch=inner, else_branch=inner))
    yield "nested", nested
    sparse = model_of()
    sparse.graph.sparse_initializer.add(values=external("weights"), dims=[2])
    yield "sparse", sparse
    function = model_of()
    function.functions.append(
        helper.make_function("own", "F", [], ["w"], [constant(external("w"))], [helper.make_opsetid("", 17)])
    )
    yield "function", function
    training = model_of()
    training.training_info.add().algorithm.initializer.append(external("weights"))
    yield "training", training


@pytest.mark.parametrize("model", [pytest.param(model, id=name) for name, model in hostile()])
def test_external_data_is_refused_wherever_it_hides(
    model: onnx.ModelProto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "target").write_bytes(bytes(8))
    (tmp_path / "weights").symlink_to("target")

    with pytest.raises(ModelRefused, match="the ONNX model has external data"):
        runtime("onnx").pack(model, vector(2))


def test_an_unusual_way_to_write_a_number_hides_nothing() -> None:
    tensor = external("weights").SerializeToString().replace(b"\x6a", b"\xea\x00")  # the tag of external_data, longer
    graph = b"\x2a" + bytes([len(tensor)]) + tensor

    with pytest.raises(ModelRefused, match="external data"):
        runtime("onnx").pack(b"\x3a" + bytes([len(graph)]) + graph, vector(2))


def test_a_column_that_is_called_location_is_taken() -> None:
    model = identity(TensorProto.FLOAT, ["n", 1], "location")
    model.graph.node[0].op_type = "LeakyRelu"
    model.graph.node[0].attribute.append(helper.make_attribute("alpha", 0.5))

    assert runtime("onnx").pack(model, (Column(name="location", kind=Kind.FLOAT),)).outputs


@pytest.mark.parametrize("artefact", [b"\x3b", b"\x3a\x7f", b"\x3a", b"\xff"])
def test_what_is_not_a_model_is_refused(artefact: bytes) -> None:
    with pytest.raises(ModelRefused, match="not an ONNX model"):
        runtime("onnx").pack(artefact, vector(2))


def test_the_messages_that_can_hold_a_tensor_are_all_known() -> None:
    messages = onnx.ModelProto.DESCRIPTOR.file.message_types_by_name
    holders = {"TensorProto"}
    for _ in messages:
        holders |= {name for name, message in messages.items() if _holding(message, holders)}

    assert {name: _holding(messages[name], holders) for name in holders} == MESSAGES
    assert messages["TensorProto"].fields_by_name["external_data"].number == 13


def _holding(message: Any, holders: set[str]) -> dict[int, str]:
    """The fields of a message that are among `holders`."""
    inner = {field.number: field.message_type for field in message.fields}
    return {number: of.name for number, of in inner.items() if of is not None and of.name in holders}
