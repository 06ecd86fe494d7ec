import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import networks
from helpers import BLOCKS, spec_of
from slimfer.artifact import MAX_EXPANDED, _node, _tensor
from slimfer.compress.config import QuantizeConfig
from slimfer.compress.quantize import quantize
from slimfer.errors import InputError
from slimfer.export.onnx import to_onnx
from slimfer.model.spec import NetSpec
from slimfer.protobuf import fields
from slimfer.shapes import ITEM_BYTES, MAX_RANK, RULES, Node, Tensor, infer
from slimfer.train.checkpoint import Checkpoint

SPECS = {
    **{name: networks.case_spec(name) for name in (*networks.LAYERS, *networks.FUNCTIONS)},
    **{f"block {name}": spec_of(name, "plain", image=8) for name in BLOCKS},
    "resnet18": NetSpec("resnet18", args={"width": 0.0625}),
    "vgg11": NetSpec("vgg11", image=32, args={"width": 0.0625}),
}


def ours(model: onnx.ModelProto) -> dict[str, Tensor]:
    """Return what `infer` says of a whole model, read as an artifact is read."""
    graph = model.graph
    dims = graph.input[0].type.tensor_type.shape.dim
    tensors = {"pixels": Tensor((1, *(d.dim_value for d in dims[1:])), 1)}
    parsed = lambda message: list(fields(memoryview(message.SerializeToString()), "message"))  # noqa: E731
    tensors.update(_tensor(parsed(tensor)) for tensor in graph.initializer)
    return infer([_node(parsed(node)) for node in graph.node], tensors, MAX_EXPANDED)


def checkpoint_of(name: str, bits: int) -> Checkpoint:
    """Return a network in floats, or in integers with activations of 4 bits."""
    spec = SPECS[name]
    checkpoint = networks.untrained(spec)
    if bits == 32:
        return checkpoint
    config = QuantizeConfig(bits=bits, activations=4, correct_bias=False)
    return quantize(checkpoint, networks.noise(16, spec.image, classes=spec.classes), config)


@pytest.mark.parametrize(
    ("name", "bits"), [*((name, 32) for name in SPECS), *((name, 3) for name in SPECS if name not in networks.LAYERS)]
)
def test_shapes_and_types_are_those_of_onnx_itself(name, bits):
    checkpoint = checkpoint_of(name, bits)
    model = onnx.load_from_string(to_onnx(checkpoint))
    found = ours(model)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 1
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph.value_info
    checked = 0
    for value in inferred:
        dims = [d.dim_value if d.HasField("dim_value") else None for d in value.type.tensor_type.shape.dim]
        if None not in dims:
            checked += 1
            assert found[value.name].shape == tuple(dims)
        assert found[value.name].item == ITEM_BYTES[value.type.tensor_type.elem_type]
    assert checked > 0.8 * len(model.graph.node)


def node(kind: str, *inputs: str, outputs: tuple[str, ...] = ("y",), **attributes: int | tuple[int, ...]) -> Node:
    return Node(kind, inputs, outputs, {k: (v,) if isinstance(v, int) else v for k, v in attributes.items()})


def constant(*values: int) -> Tensor:
    return Tensor((len(values),), 8, values)


X = {
    "x": Tensor((1, 3, 10, 10), 4), "w": Tensor((8, 3, 3, 3), 4), "line": Tensor((12,), 4), "row": Tensor((1, 64), 4),
    "column": Tensor((64, 1), 4), "byte": Tensor((5,), 1),
}  # fmt: skip


@pytest.mark.parametrize(
    ("made", "extra", "shapes"),
    [
        (node("Conv", "x", "w"), {}, [(1, 8, 8, 8)]),
        (node("Conv", "x", "w", pads=(1, 1, 1, 1), strides=(2, 2)), {}, [(1, 8, 5, 5)]),
        (node("Conv", "x", "w", dilations=(2, 3)), {}, [(1, 8, 6, 4)]),
        (node("MaxPool", "x", kernel_shape=(3, 3), strides=(2, 2), ceil_mode=1), {}, [(1, 3, 5, 5)]),
        # The window that would start in the padding is left out, as in torch.
        (node("MaxPool", "x", kernel_shape=(2, 2), strides=(3, 3), pads=(1, 1, 1, 1), ceil_mode=1), {}, [(1, 3, 4, 4)]),
        (node("MaxPool", "x", kernel_shape=(1, 1), strides=(11, 11), ceil_mode=1), {}, [(1, 3, 1, 1)]),
        (node("GlobalMaxPool", "x"), {}, [(1, 3, 1, 1)]),
        (node("Flatten", "x"), {}, [(1, 300)]),
        (node("Reshape", "x", "to"), {"to": constant(0, -1, 4)}, [(1, 75, 4)]),
        (node("Split", "line", "to", outputs=("a", "b")), {"to": constant(5, 7)}, [(5,), (7,)]),
        (node("Pad", "x", "to"), {"to": constant(0, 0, 1, 2, 0, 0, 3, 4)}, [(1, 3, 14, 16)]),
        (node("MatMul", "column", "row"), {}, [(64, 64)]),
        (node("Add", "row", "column"), {}, [(64, 64)]),
        (node("Concat", "row", "row", axis=1), {}, [(1, 128)]),
    ],
)
def test_shapes_by_hand(made, extra, shapes):
    found = infer([made], {**X, **extra}, 10**6)
    assert [found[name].shape for name in made.outputs] == shapes


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (node("Loop", "x"), "operator Loop is not allowed"),
        (node("Relu", "nowhere"), "reads 'nowhere'"),
        (node("Relu", "x", outputs=("x",)), "cannot be"),
        (node("Relu", "x", outputs=("a", "b")), "cannot be"),
        (node("Relu"), "does not fit"),
        (node("Add", "x", "w"), "does not fit"),
        (node("MatMul", "row", "row"), "does not fit"),
        (node("MatMul", "x", "w"), "does not fit"),
        (node("Gemm", "row", "column", transB=1), "does not fit"),
        (node("Conv", "x", "w", strides=(0, 1)), "does not fit"),
        (node("Conv", "x", "w", dilations=(0, 1)), "does not fit"),
        (node("Conv", "x", "w", pads=(-1, 0, 0, 0)), "does not fit"),
        (node("Conv", "x", "w", pads=(1, 1)), "does not fit"),
        (node("Conv", "x", "w", dilations=(9, 9)), "cannot be"),
        (node("MaxPool", "x"), "does not fit"),
        (node("Concat", "row", "column", axis=1), "does not fit"),
        (node("Concat", "row", "row", axis=-1), "does not fit"),
        (node("Flatten", "x", axis=0), "does not fit"),
        (node("Reshape", "x", "x"), "does not fit"),
        (node("Reshape", "x", "five"), "does not fit"),
        (node("Reshape", "x", "twice"), "cannot be"),
        (node("Split", "line", "five", outputs=("a",)), "does not fit"),
        (node("Split", "line", "less", outputs=("a", "b")), "cannot be"),
        (node("Pad", "x", "five"), "does not fit"),
        (node("Cast", "x", to=11), "does not fit"),
        (node("Cast", "x"), "does not fit"),
        (node("Cast", "x", to=(1, 1)), "does not fit"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_sentence(made, message):
    tensors = {**X, "five": constant(5), "twice": constant(-1, -1, 300), "less": constant(13, -1)}
    with pytest.raises(InputError, match=message):
        infer([made], tensors, 10**6)


def test_the_limit_is_of_the_sum_of_bytes():
    relus = [Node("Relu", ("x",), (f"y{i}",)) for i in range(10)]
    assert len(infer(relus, X, 12_000)) == len(X) + 10
    with pytest.raises(InputError, match="a model may expand to 11999 bytes"):
        infer(relus, X, 11_999)
    narrow = [Node("QuantizeLinear", ("x",), (f"y{i}",)) for i in range(10)]
    infer(narrow, X, 3_000)
    with pytest.raises(InputError, match="expand"):
        infer(narrow, X, 2_999)


def test_ranks_have_a_limit():
    infer([node("Relu", "x")], {"x": Tensor((1,) * MAX_RANK, 4)}, 100)
    with pytest.raises(InputError, match="cannot be"):
        infer([node("Relu", "x")], {"x": Tensor((1,) * (MAX_RANK + 1), 4)}, 100)
    with pytest.raises(InputError, match="does not fit"):
        infer([node("Reshape", "byte", "to")], {**X, "to": constant(*[1] * 10_000)}, 100)


def test_every_rule_is_reached_by_what_the_writer_writes():
    whole = [checkpoint_of(name, 32) for name in SPECS] + [checkpoint_of("resnet18", 4)]
    written = {n.op_type for checkpoint in whole for n in onnx.load_from_string(to_onnx(checkpoint)).graph.node}
    assert set(RULES) == written


def test_tensors_of_the_file_are_read_as_onnx_reads_them():
    for array in (np.arange(6).reshape(2, 3), np.float32(2), np.zeros((2, 0), np.int8), np.array([-1, 1 << 40])):
        proto = numpy_helper.from_array(np.asarray(array), "name")
        name, tensor = _tensor(list(fields(memoryview(proto.SerializeToString()), "tensor")))
        assert (name, tensor.shape) == ("name", np.shape(array))
        assert tensor.item == np.asarray(array).dtype.itemsize
        if proto.data_type == TensorProto.INT64:
            assert tensor.values == tuple(np.ravel(array).tolist())
    attribute = helper.make_node("Pad", ["x"], ["y"], pads=[-1, 2], axis=-3)
    assert _node(list(fields(memoryview(attribute.SerializeToString()), "node"))).attributes == {
        "pads": (-1, 2), "axis": (-3,),
    }  # fmt: skip
