"""What a machine can do at best: multiply-adds per second of one matrix product, and the multiply-adds of a model."""

import math

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, shape_inference

from slimfer.timing import interleave

LAYERS = ("Conv", "Gemm")


def macs(model: bytes) -> int:
    """Return the multiply-adds of the convolutions and linear layers of an ONNX model for one picture."""
    graph = shape_inference.infer_shapes(onnx.load_from_string(model), data_prop=True).graph
    values = (*graph.input, *graph.value_info, *graph.output)
    shapes = {value.name: [size.dim_value for size in value.type.tensor_type.shape.dim] for value in values}
    shapes |= {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    return sum(
        math.prod(shapes[node.input[1]]) * math.prod(shapes[node.output[0]][2:])
        for node in graph.node
        if node.op_type in LAYERS
    )


def rates(side: int, threads: int) -> dict[str, float]:
    """Return multiply-adds per second of onnxruntime's product of two matrices of `side` squared.

    `float32`, and `int8` for uint8 times int8, which is what quantized networks do.
    """
    generator = np.random.default_rng(0)
    floats = generator.standard_normal((2, side, side)).astype(np.float32)
    pixels, weights = generator.integers(0, 256, (2, side, side), np.uint8)
    products = {
        "float32": _product("MatMul", floats[0], floats[1], threads),
        "int8": _product("MatMulInteger", pixels, weights.view(np.int8), threads),
    }
    timings = interleave(products, rounds=10, min_time=0.05)
    return {name: side**3 / (timing.best_ms / 1e3) for name, timing in timings.items()}


def _product(operator: str, a: np.ndarray, b: np.ndarray, threads: int):
    """Return a function that multiplies; the right matrix is a constant, which the runtime may rearrange."""
    kind = TensorProto.FLOAT if operator == "MatMul" else TensorProto.INT32
    graph = helper.make_graph(
        [helper.make_node(operator, ["a", "b"], ["c"])],
        "product",
        [helper.make_tensor_value_info("a", helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)],
        [helper.make_tensor_value_info("c", kind, a.shape)],
        [onnx.numpy_helper.from_array(b, "b")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {"a": a})
