"""Checkpoint -> Artifact: the ONNX graph, written node by node from the folded network.

Input `pixels` uint8 (N, C, H, W), output `probabilities` float32 (N, K), N free; normalization and softmax are in it.
A quantized network is written as QDQ: each activation quantizer becomes QuantizeLinear and DequantizeLinear, weights
are int8 and biases int32, so that a runtime can turn all of it into integer operations (`slimfer.export.parity` checks
that it does). In the file they take only the bits they have (`slimfer.export.pack`). Writing by hand instead of through
torch's exporter gives the smallest file and no surprises: what is not in the tables below is refused by name.
"""

import json
import operator
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import TensorProto, helper
from torch import Tensor, fx, nn

from slimfer.artifact import FORMAT, INPUT, OUTPUT, seal
from slimfer.errors import InputError
from slimfer.export.body import Body
from slimfer.export.pack import Pool
from slimfer.model.fold import fold
from slimfer.model.groups import CAT_FUNCTIONS
from slimfer.model.placing import RESHAPES
from slimfer.model.quant import ActivationQuantizer, QuantConv2d, QuantLinear
from slimfer.preprocess import SCALE, ZERO_POINT
from slimfer.train.checkpoint import Checkpoint
from slimfer.version import VERSION

OPSET, IR_VERSION = 17, 8  # old enough for every runtime in use; nothing newer is needed

INTENDED_USE = {
    "intended": "reading the expression shown in a picture of one upright, cropped face",
    "out_of_scope": "inferring what a person feels or intends; decisions about people, as at work or in schools",
}


def to_onnx(
    checkpoint: Checkpoint,
    *,
    scores: Mapping[str, Any] | None = None,
    recipe: Mapping[str, Any] | None = None,
    description: str | None = None,
    author: str = "",
    license: str = "",
    date: str | None = None,
) -> bytes:
    """Write `checkpoint` as a sealed ONNX model; the same arguments give the same bytes.

    Args:
        checkpoint: a network; with quantizers it becomes an integer graph.
        scores: of this network, for the metadata (see `slimfer.metrics.score`).
        recipe: the settings that made it, for the metadata.
        description: one line, for the metadata.
        author: for the metadata.
        license: of the weights, for the metadata.
        date: for the metadata; left out by default, because it would make every export differ.

    Raises:
        InputError: if the network has an operation that cannot be written, naming it.
    """
    net = checkpoint.build()
    graph = net if checkpoint.quant else fold(net)
    assert isinstance(graph, fx.GraphModule)
    spec = checkpoint.spec
    model = _write(graph, (spec.channels, spec.image, spec.image), spec.classes)
    texts = {
        "description": description or f"Facial expressions from {spec.image} px faces ({spec.builder})",
        "author": author,
        **({"date": date} if date else {}),
        "license": license,
    }
    return seal(model.SerializeToString(), {**texts, **_metadata(checkpoint, scores, recipe)})


def _metadata(checkpoint: Checkpoint, scores: Any, recipe: Any) -> dict[str, str]:
    """Return the standard's image fields, the flat keys that tools read, and our own as JSON (CONVENTIONS 2.6)."""
    spec, labels = checkpoint.spec, checkpoint.labels
    shape = f"(N, {spec.channels}, {spec.image}, {spec.image})"
    values = {
        "slimfer.format": FORMAT,
        "slimfer.labels": list(labels),
        "slimfer.scores": scores,
        "slimfer.lineage": list(checkpoint.lineage),
        "slimfer.recipe": recipe,
        "slimfer.intended_use": INTENDED_USE,
    }
    return {
        "version": VERSION,
        "docs": f"{INPUT}: uint8 {shape}, 0 black, 255 white; {OUTPUT}: float32 (N, {len(labels)}), in order of names",
        "task": "classify",
        "imgsz": json.dumps([spec.image, spec.image]),
        "names": str(dict(enumerate(labels))),
        "channels": str(spec.channels),
        "Image.BitmapPixelFormat": "Gray8" if spec.channels == 1 else "Rgb8",
        "Image.ColorSpaceGamma": "SRGB",
        "Image.NominalPixelRange": "NominalRange_0_255",
        **{key: _json(value) for key, value in values.items()},
    }


def _json(value: Any) -> str:
    return json.dumps(value, allow_nan=False, sort_keys=True, separators=(",", ":"))


def _write(graph: fx.GraphModule, shape: tuple[int, int, int], classes: int) -> onnx.ModelProto:
    writer = _Writer(graph)
    try:
        with torch.no_grad():
            writer.run(torch.zeros(2, *shape))
    except (RuntimeError, TypeError) as error:
        raise InputError(f"the network does not run on {shape}: {error}") from None
    pixels = helper.make_tensor_value_info(INPUT, TensorProto.UINT8, ["N", *shape])
    pixels.type.denotation = "IMAGE"
    probabilities = helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["N", classes])
    nodes, tensors = writer.finish()
    body = helper.make_graph(nodes, "slimfer", [pixels], [probabilities], tensors)
    model = helper.make_model(
        body,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="slimfer",
        producer_version=VERSION,
    )
    onnx.checker.check_model(model, full_check=True)
    return model


class _Writer(fx.Interpreter):
    """Run the graph once on zeros, for shapes, and write each node beside it."""

    def __init__(self, graph: fx.GraphModule) -> None:
        super().__init__(graph)
        self.extra_traceback = False  # errors are one sentence
        self.body, self.names = Body(), dict[fx.Node, str]()
        self.pool = Pool(self.body)
        self.emit = self.body.emit
        self.scales: dict[str, float] = {}  # of quantized values, by name
        self.pads: dict[fx.Node, tuple[int, int, int, int]] = {}  # zeros left to the convolutions that read a value
        self.met = set[ActivationQuantizer]()

    # --- pieces -----------------------------------------------------------------------------------------------------
    def constant(self, value: npt.ArrayLike | Tensor) -> str:
        """Return the name of an initializer."""
        return self.body.constant(value.detach().numpy() if isinstance(value, Tensor) else value)

    def finish(self) -> tuple[list[onnx.NodeProto], list[TensorProto]]:
        """Return operators and initializers, once the whole graph is written."""
        nodes = list(self.body.nodes)
        self.body.nodes.clear()
        self.pool.write()
        return self.body.nodes + nodes, self.body.tensors

    def dequantize(self, integers: str, scale: float, zero_point: int) -> str:
        """Append DequantizeLinear of a uint8 value."""
        value = self.emit("DequantizeLinear", integers, self.constant(scale), self.constant(np.uint8(zero_point)))
        self.scales[value] = scale
        return value

    # --- the graph --------------------------------------------------------------------------------------------------
    def run_node(self, n: fx.Node) -> Any:
        """Run and write one node."""
        value = super().run_node(n)
        if n.op == "placeholder":
            self.names[n] = self.dequantize(INPUT, SCALE, ZERO_POINT)
        elif n.op == "output":
            self.write_output(n, value)
        elif n.op == "call_module":
            self.names[n] = self.write_module(n, self.fetch_attr(str(n.target)))
        elif isinstance(value, Tensor):
            self.names[n] = self.write_function(n, value)
        return value

    def write_output(self, n: fx.Node, value: Any) -> None:
        if not isinstance(value, Tensor) or value.ndim != 2:
            raise InputError("the network must return one tensor of logits, (N, classes)")
        self.emit("Softmax", self.names[n.all_input_nodes[0]], out=OUTPUT, axis=1)

    def write_module(self, n: fx.Node, module: nn.Module) -> str:
        for kind in type(module).__mro__:
            if kind in MODULES:
                self.node = n
                return MODULES[kind](self, self.names[n.all_input_nodes[0]], module)
        raise _unsupported(n, type(module).__name__)

    def write_function(self, n: fx.Node, value: Tensor) -> str:
        sources = [self.env[source] for source in n.all_input_nodes]
        if n.target in CAT_FUNCTIONS and _axis(n) in (1, 1 - value.dim()):
            parts: Any = n.kwargs.get("tensors", n.args[0] if n.args else ())
            return self.emit("Concat", *(self.names[part] for part in parts), axis=1)
        if n.target in ARITHMETIC and not n.kwargs:
            return self.emit(ARITHMETIC[n.target], *(self.operand(argument) for argument in n.args))
        if n.target == "expand_as" and all(user.target in ARITHMETIC for user in n.users):
            return self.names[n.args[0]]  # type: ignore[index]  # ONNX's arithmetic expands by itself
        if n.target in RESHAPES and sources[0].shape[0] == value.shape[0]:
            shape = self.constant(np.array([0, *value.shape[1:]], np.int64))  # 0: as many as before
            return self.emit("Reshape", self.names[n.all_input_nodes[0]], shape)
        raise _unsupported(n, str(getattr(n.target, "__name__", n.target)))

    def operand(self, argument: Any) -> str:
        return self.names[argument] if isinstance(argument, fx.Node) else self.constant(np.float32(argument))


def _unsupported(n: fx.Node, operation: str) -> InputError:
    return InputError(f"cannot export node {n.name}: operation {operation} has no ONNX form here")


def _axis(n: fx.Node) -> int:
    return int(n.kwargs.get("dim", n.args[1] if len(n.args) > 1 else 0))  # type: ignore[arg-type]


ARITHMETIC: Mapping[Any, str] = {
    operator.add: "Add", operator.iadd: "Add", torch.add: "Add", "add": "Add", "add_": "Add",
    operator.mul: "Mul", operator.imul: "Mul", torch.mul: "Mul", "mul": "Mul", "mul_": "Mul",
    operator.sub: "Sub", operator.isub: "Sub", torch.sub: "Sub", "sub": "Sub", "sub_": "Sub",
    operator.truediv: "Div", torch.div: "Div", "div": "Div",
    torch.maximum: "Max", torch.minimum: "Min", operator.neg: "Neg",
}  # fmt: skip


# --- layers: (writer, name of the input, layer) -> name of the output ------------------------------------------------
def _conv(w: _Writer, x: str, m: nn.Conv2d) -> str:
    if m.padding_mode != "zeros":
        raise InputError(f"cannot export node {w.node.name}: padding mode {m.padding_mode}")
    if isinstance(m.padding, str):
        total = [d * (k - 1) if m.padding == "same" else 0 for d, k in zip(m.dilation, m.kernel_size, strict=True)]
        pads = [*(t // 2 for t in total), *(t - t // 2 for t in total)]
    else:
        pads = [*m.padding, *m.padding]
    left, right, top, bottom = w.pads.get(w.node.all_input_nodes[0], (0, 0, 0, 0))
    pads = [own + before for own, before in zip(pads, (top, left, bottom, right), strict=True)]
    changed: dict[str, tuple[Any, Any]] = {
        "dilations": (list(m.dilation), [1, 1]),
        "group": (m.groups, 1),
        "pads": (pads, [0, 0, 0, 0]),
        "strides": (list(m.stride), [1, 1]),
    }
    attributes: dict[str, Any] = {name: value for name, (value, default) in changed.items() if value != default}
    return w.emit("Conv", x, *_parameters(w, m), **attributes)


def _linear(w: _Writer, x: str, m: nn.Linear) -> str:
    return w.emit("Gemm", x, *_parameters(w, m), transB=1)


def _parameters(w: _Writer, m: nn.Conv2d | nn.Linear) -> list[str]:
    """Write weight and bias, as int8 and int32 with their scales if the layer is quantized."""
    if not isinstance(m, (QuantConv2d, QuantLinear)):
        return [w.constant(m.weight)] + ([] if m.bias is None else [w.constant(m.bias)])
    source = w.names[w.node.all_input_nodes[0]]
    integers, scale = m.integer_weight().numpy(), w.pool.scale(m.weight_scale.numpy())
    # onnxruntime fuses a convolution without a zero point of its weight, but no Gemm.
    zeros = [w.constant(np.zeros(len(integers), np.int8))] if isinstance(m, QuantLinear) else []
    weight = w.emit("DequantizeLinear", w.pool.weight(integers, int(m.weight_bits)), scale, *zeros, axis=0)
    bias_scale = w.emit("Mul", scale, w.constant(w.scales[source]))
    bias = w.pool.bias(m.integer_bias(w.scales[source]).numpy())
    return [weight, w.emit("DequantizeLinear", bias, bias_scale, axis=0)]


def _pair(value: Any) -> list[int]:
    return list(value) if isinstance(value, (tuple, list)) else [value, value]


def _window(m: Any) -> dict[str, Any]:
    pads = _pair(m.padding) * 2
    window = {"kernel_shape": _pair(m.kernel_size), "strides": _pair(m.stride)}
    return window | ({"pads": pads} if any(pads) else {})


def _max_pool(w: _Writer, x: str, m: nn.MaxPool2d) -> str:
    attributes = _window(m)
    if _pair(m.dilation) != [1, 1]:
        attributes["dilations"] = _pair(m.dilation)
    if m.ceil_mode:
        attributes["ceil_mode"] = 1
    return w.emit("MaxPool", x, **attributes)


def _average_pool(w: _Writer, x: str, m: nn.AvgPool2d) -> str:
    if m.ceil_mode or m.divisor_override is not None:
        raise InputError(f"cannot export node {w.node.name}: average pooling with ceil_mode or divisor_override")
    return w.emit("AveragePool", x, **_window(m), count_include_pad=int(m.count_include_pad))


def _adaptive(whole: str, window: str) -> "Handler":
    def write(w: _Writer, x: str, m: Any) -> str:
        size = list(w.env[w.node.all_input_nodes[0]].shape[2:])
        target = [n if t is None else t for n, t in zip(size, _pair(m.output_size), strict=True)]
        if target == [1, 1]:
            return w.emit(whole, x)
        if any(n % t for n, t in zip(size, target, strict=True)):
            raise InputError(f"cannot export node {w.node.name}: pooling {size} to {target} pixels is uneven")
        step = [n // t for n, t in zip(size, target, strict=True)]
        return w.emit(window, x, kernel_shape=step, strides=step)

    return write


def _plain(op: str, **attributes: Any) -> "Handler":
    return lambda w, x, m: w.emit(op, x, **attributes)


def _clip(w: _Writer, x: str, m: nn.Hardtanh) -> str:
    return w.emit("Clip", x, w.constant(np.float32(m.min_val)), w.constant(np.float32(m.max_val)))


def _gelu(w: _Writer, x: str, m: nn.GELU) -> str:
    if m.approximate != "none":
        raise InputError(f"cannot export node {w.node.name}: GELU with approximate={m.approximate!r}")
    # x/2 (1 + erf(x / sqrt 2)), written out: the operator Gelu needs a newer opset than everything else.
    erf = w.emit("Erf", w.emit("Mul", x, w.constant(np.float32(0.5**0.5))))
    half = w.emit("Mul", x, w.constant(np.float32(0.5)))
    return w.emit("Mul", half, w.emit("Add", erf, w.constant(np.float32(1))))


def _quantizer(w: _Writer, x: str, m: ActivationQuantizer) -> str:
    scale, zero_point = float(m.scale), int(m.zero_point)
    if not scale > 0:
        raise InputError(f"cannot export node {w.node.name}: the network is quantized but not calibrated")
    source = w.node.all_input_nodes[0]
    if source in w.pads:
        w.pads[w.node] = w.pads[source]
        if m in w.met:
            return x  # padding moved its integers
    if w.body.nodes[-1].input[0] == INPUT and (scale, zero_point) == (SCALE, ZERO_POINT):
        return x  # the pixels are these integers
    integers = w.emit("QuantizeLinear", x, w.constant(scale), w.constant(np.uint8(zero_point)))
    # QuantizeLinear itself stops at 255. A quantizer is met again only behind what moves its values.
    if m.bits < 8 and m not in w.met:
        integers = w.emit("Clip", integers, "", w.constant(np.uint8(m.levels)))
    w.met.add(m)
    return w.dequantize(integers, scale, zero_point)


def _flatten(w: _Writer, x: str, m: nn.Flatten) -> str:
    if (m.start_dim, m.end_dim) != (1, -1):
        raise InputError(f"cannot export node {w.node.name}: flatten from {m.start_dim} to {m.end_dim}")
    return w.emit("Flatten", x)


def _zero_pad(w: _Writer, x: str, m: nn.ZeroPad2d) -> str:
    left, right, top, bottom = m.padding
    if min(m.padding) >= 0 and all(isinstance(reader, nn.Conv2d) for reader in _readers(w, w.node)):
        w.pads[w.node] = m.padding  # convolutions do it themselves; between integer ones, a Pad would stay in float
        return x
    return w.emit("Pad", x, w.constant(np.array([0, 0, top, left, 0, 0, bottom, right], np.int64)))


def _readers(w: _Writer, n: fx.Node) -> Iterator[Any]:
    """Yield the layers that read the value, also through quantizers, and None for what is no layer."""
    for user in n.users:
        module = w.fetch_attr(str(user.target)) if user.op == "call_module" else None
        if isinstance(module, ActivationQuantizer):
            yield from _readers(w, user)
        else:
            yield module


Handler = Callable[[_Writer, str, Any], str]

MODULES: Mapping[type[nn.Module], Handler] = {
    ActivationQuantizer: _quantizer,
    nn.Conv2d: _conv,
    nn.Linear: _linear,
    nn.ReLU: _plain("Relu"),
    nn.Sigmoid: _plain("Sigmoid"),
    nn.Tanh: _plain("Tanh"),
    nn.Hardsigmoid: _plain("HardSigmoid", alpha=1 / 6, beta=0.5),
    nn.Hardswish: _plain("HardSwish"),
    nn.Hardtanh: _clip,  # ReLU6 is one
    nn.LeakyReLU: lambda w, x, m: w.emit("LeakyRelu", x, alpha=m.negative_slope),
    nn.ELU: lambda w, x, m: w.emit("Elu", x, alpha=m.alpha),
    nn.PReLU: lambda w, x, m: w.emit("PRelu", x, w.constant(m.weight.view(-1, 1, 1))),
    nn.SiLU: lambda w, x, m: w.emit("Mul", x, w.emit("Sigmoid", x)),
    nn.GELU: _gelu,
    nn.MaxPool2d: _max_pool,
    nn.AvgPool2d: _average_pool,
    nn.AdaptiveAvgPool2d: _adaptive("GlobalAveragePool", "AveragePool"),
    nn.AdaptiveMaxPool2d: _adaptive("GlobalMaxPool", "MaxPool"),
    nn.Flatten: _flatten,
    nn.ZeroPad2d: _zero_pad,
}
