from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from tests.unit.adapters.runtimes.fitted import manifest, predict, reloaded, vector
from weighbridge.adapters.artefact import Artefact
from weighbridge.adapters.runtimes import Trust, runtime
from weighbridge.adapters.runtimes.onnx_tensors import taken_out
from weighbridge.application.ports import Model
from weighbridge.domain.errors import ModelRefused
from weighbridge.domain.signature import Column, Kind

ROW = (Column(name="row", kind=Kind.INT),)
COUNT = 2**17
NUMBERS = np.arange(COUNT) % 100 + 1.0

Proto = onnx.TensorProto


def table(dtype: str = "float64", name: str = "table") -> Proto:
    """A tensor of a megabyte or more."""
    repeats = max(1, 8 // np.dtype(dtype).itemsize)
    return numpy_helper.from_array(np.tile(NUMBERS.astype(dtype)[:, None], repeats), name)


def looking_up(*tables: Proto, **parts: Any) -> onnx.ModelProto:
    """A model that answers with the first number of a row of the last table."""
    nodes = [
        helper.make_node("Gather", ["table", "row"], ["found"]),
        helper.make_node("Cast", ["found"], ["numbers"], to=TensorProto.DOUBLE),
        helper.make_node("ReduceMax", ["numbers"], ["y"], axes=[1], keepdims=0),
    ]
    return model_of(nodes, *tables, **parts)


def model_of(
    nodes: list[onnx.NodeProto], *initializers: Proto, inputs: tuple[Any, ...] = (), version: int = 8
) -> onnx.ModelProto:
    made = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("row", TensorProto.INT64, ["n"]), *inputs],
        [helper.make_tensor_value_info("y", TensorProto.DOUBLE, ["n"])],
        initializer=initializers,
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=version)


def loaded(artefact: bytes | onnx.ModelProto) -> Model:
    content = artefact if isinstance(artefact, bytes) else artefact.SerializeToString()
    outputs = [Column(name="prediction", kind=Kind.FLOAT)]
    return runtime("onnx").load(Artefact.of(content), manifest("onnx", ROW, outputs), Trust())


def answers(model: Model) -> list[float]:
    [found] = predict(model, [[0], [1], [98], [COUNT - 1]])
    return list(found.tolist())


ANSWERS = [1.0, 2.0, 99.0, NUMBERS[-1]]


def values_of(model: onnx.ModelProto) -> dict[str, NDArray[Any]]:
    with taken_out(Artefact.of(model.SerializeToString())) as (_, values):
        return values


@pytest.mark.parametrize(
    "dtype",
    ["float32", "uint8", "int8", "uint16", "int16", "int32", "int64", "float16", "float64", "uint32", "uint64"],
)
@pytest.mark.parametrize("shift", [0, 1])
def test_the_values_of_a_large_tensor_are_the_models_wherever_they_lie(dtype: str, shift: int) -> None:
    producer = b"\x12" + bytes([shift]) + b"-" * shift
    content = producer + looking_up(table(dtype)).SerializeToString()

    with taken_out(Artefact.of(content)) as (rest, values):
        assert {name: array.dtype for name, array in values.items()} == {"table": np.dtype(dtype)}
        assert len(rest.read()) < 1000
    assert answers(loaded(content)) == ANSWERS


def test_what_is_left_is_the_model_but_for_the_values() -> None:
    model = looking_up(numpy_helper.from_array(NUMBERS[:5], "first"), table(), numpy_helper.from_array(NUMBERS, "last"))

    with taken_out(Artefact.of(model.SerializeToString())) as (rest, values):
        left = onnx.ModelProto.FromString(rest.read())
        assert {name: array.tolist() for name, array in values.items()} == {
            "table": NUMBERS[:, None].tolist(),
            "last": NUMBERS.tolist(),
        }
    for tensor in model.graph.initializer[1:]:
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="-")
    assert left == model
    assert rest.sha256() == Artefact.of(model.SerializeToString()).sha256()


def test_a_model_without_large_tensors_is_left_as_it_is() -> None:
    artefact = Artefact.of(looking_up(numpy_helper.from_array(NUMBERS[:, None][:9], "table")).SerializeToString())

    with taken_out(artefact) as (rest, values):
        assert rest is artefact
        assert not values


def test_shapes_may_be_packed() -> None:
    tensor = table()
    shape = tensor.dims[:]
    tensor.ClearField("dims")
    packed = b"\x0a\x04" + b"\x80\x80\x08" + b"\x01" + tensor.SerializeToString()  # 131,072 and 1
    model = looking_up(table()).SerializeToString()
    graph = looking_up().graph
    graph.ClearField("initializer")
    content = graph.SerializeToString() + b"\x2a" + _varint(len(packed)) + packed
    whole = b"\x08\x08" + b"\x42\x02\x10\x11" + b"\x3a" + _varint(len(content)) + content

    assert shape == [COUNT, 1]
    assert answers(loaded(whole)) == answers(loaded(model)) == ANSWERS
    with taken_out(Artefact.of(whole)) as (_, values):
        assert values["table"].shape == (COUNT, 1)


def _varint(value: int) -> bytes:
    octets = b""
    while value > 0x7F:
        octets += bytes([value & 0x7F | 0x80])
        value >>= 7
    return octets + bytes([value])


def listed(dtype: int) -> Proto:
    """A table whose values are no run of bytes."""
    return helper.make_tensor("table", dtype, [COUNT, 1], NUMBERS)


def test_values_that_are_no_array_as_they_lie_stay_in_the_model() -> None:
    brain = helper.make_tensor("table", TensorProto.BFLOAT16, [2**19, 1], bytes(2**20), raw=True)

    assert not values_of(looking_up(listed(TensorProto.DOUBLE)))
    assert not values_of(looking_up(brain))
    assert answers(loaded(looking_up(listed(TensorProto.DOUBLE)))) == ANSWERS


def test_a_tensor_of_a_branch_stays_and_sees_those_of_the_graph() -> None:
    branches = [
        helper.make_graph(
            [helper.make_node("Gather", [name, "row"], [f"{name}_found"])],
            name,
            [],
            [helper.make_tensor_value_info(f"{name}_found", TensorProto.DOUBLE, None)],
            initializer=inner,
        )
        for name, inner in (("table", []), ("own", [table(name="own")]))
    ]
    model = model_of(
        [
            helper.make_node("If", ["yes"], ["found"], then_branch=branches[0], else_branch=branches[1]),
            helper.make_node("ReduceMax", ["found"], ["y"], axes=[1], keepdims=0),
        ],
        table(),
        numpy_helper.from_array(np.array([True]), "yes"),
    )

    assert values_of(model).keys() == {"table"}
    assert answers(loaded(model)) == ANSWERS


def test_a_tensor_that_is_an_input_too_is_none_that_clients_give() -> None:
    declared = helper.make_tensor_value_info("table", TensorProto.DOUBLE, [COUNT, 1])
    model = looking_up(table(), inputs=(declared,), version=3)

    assert values_of(model).keys() == {"table"}
    assert answers(loaded(model)) == ANSWERS


def test_nothing_of_an_artefact_stays_mapped() -> None:
    model = loaded(looking_up(table()))

    assert "weighbridge-artefact" not in Path("/proc/self/maps").read_text()
    assert answers(model) == ANSWERS


def broken(**changes: Any) -> onnx.ModelProto:
    tensor = table()
    for name, value in changes.items():
        tensor.ClearField(name)
        if isinstance(value, list):
            getattr(tensor, name).extend(value)
        else:
            setattr(tensor, name, value)
    return looking_up(tensor)


@pytest.mark.parametrize(
    "model",
    [
        broken(dims=[COUNT, 2]),
        broken(dims=[-COUNT, -1]),
        broken(dims=[2**62, 2**62, 8]),
        broken(dims=[0]),
        broken(data_type=TensorProto.STRING),
        broken(data_type=99),
        broken(name="other"),
        broken(data_location=TensorProto.EXTERNAL, raw_data=b""),
    ],
)
def test_a_tensor_that_is_not_what_it_says_is_refused_by_the_library(model: onnx.ModelProto) -> None:
    with pytest.raises(Exception, match="ONNXRuntimeError"):
        loaded(model)


def test_two_tensors_of_one_name_are_refused_by_the_library() -> None:
    with pytest.raises(Exception, match="failed for initializer: table"):
        loaded(looking_up(table(), table()))


@pytest.mark.parametrize("field", [b"\x0a\x7f", b"\x0a\x01\xff", b"\x48\xff"])
def test_a_tensor_that_ends_in_the_middle_is_no_model(field: bytes) -> None:
    tensor = table().SerializeToString() + field
    graph = b"\x2a" + _varint(len(tensor)) + tensor

    with pytest.raises(ModelRefused, match="expected an ONNX model, got bytes that are not one"):
        runtime("onnx").pack(b"\x3a" + _varint(len(graph)) + graph, ROW)


def test_a_large_model_is_packed_and_loaded_like_any_other() -> None:
    weights = numpy_helper.from_array(np.ones((2**17, 1)) * 2, "w")
    made = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.DOUBLE, ["n", 2**17])],
        [helper.make_tensor_value_info("y", TensorProto.DOUBLE, ["n", 1])],
        initializer=[weights],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)

    _, again = reloaded("onnx", model, vector(2**17))

    assert predict(again, [[1.0] * 2**17])[0].tolist() == [2.0**18]
