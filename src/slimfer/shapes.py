"""How large every tensor of an ONNX graph is, worked out without running anything.

A file of a few kilobytes can ask a runtime for terabytes: two constants that are broadcast against each other, padding
of a million pixels, a convolution of many outputs. So the shapes of all tensors are worked out first, operator by
operator, and their sum has a limit. The table of rules is also the list of the operators that a model may have: what
our writer writes, nothing that reads files, loops or holds another graph.

Pictures are counted one at a time. The time that a model takes is not limited.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest

from slimfer.errors import InputError

MAX_RANK = 8

# Bytes per element of the types that a tensor may have: float32, uint8, int8, int32, int64, float16; by ONNX's numbers.
ITEM_BYTES: Mapping[int, int] = {1: 4, 2: 1, 3: 1, 6: 4, 7: 8, 10: 2}

Shape = tuple[int, ...]
Integers = tuple[int, ...]


@dataclass(frozen=True)
class Node:
    """An operator: its type, the names of its inputs and outputs, and its attributes, as far as they are integers."""

    kind: str
    inputs: Sequence[str]
    outputs: Sequence[str]
    attributes: Mapping[str, Integers] = field(default_factory=dict)

    def one(self, name: str, default: int) -> int:
        """Return an attribute of one integer."""
        (value,) = self.attributes.get(name, (default,))
        return value

    def many(self, name: str, default: Integers) -> Integers:
        """Return an attribute of as many integers as `default`."""
        value = self.attributes.get(name, default)
        if len(value) != len(default):
            raise ValueError(name)
        return value


@dataclass(frozen=True)
class Tensor:
    """What is known of a tensor: its shape, the bytes of an element, and the values of a constant of int64."""

    shape: Shape
    item: int
    values: Integers | None = None

    def integers(self) -> Integers:
        """Return the values, which decide about a shape and must therefore be there."""
        if self.values is None:
            raise ValueError("a shape that is not a constant")
        return self.values


def infer(nodes: Sequence[Node], tensors: Mapping[str, Tensor], limit: int) -> dict[str, Tensor]:
    """Return all tensors of a graph, for one picture.

    Args:
        nodes: in the order of the file.
        tensors: the input and the constants, by name.
        limit: of the bytes of everything that the operators make.

    Raises:
        InputError: if an operator is unknown, reads what is not there or does not fit its inputs, or if the limit is
            passed.
    """
    known, total = dict(tensors), 0
    for node in nodes:
        rule = RULES.get(node.kind)
        if rule is None:
            raise InputError(f"operator {node.kind} is not allowed in a slimfer model")
        for name in node.inputs:
            if name and name not in known:
                raise InputError(f"operator {node.kind} reads {name!r}, which nothing before it makes")
        inputs = [known[name] for name in node.inputs if name]
        try:
            shapes, item = rule(node, inputs), _item(node, inputs)
        except (ArithmeticError, ValueError, LookupError) as error:
            taken = ", ".join(str(tensor.shape) for tensor in inputs)
            raise InputError(f"operator {node.kind} does not fit its inputs {taken} ({error})") from None
        for name, shape in zip_longest(node.outputs, shapes):
            if name is None or shape is None or name in known or len(shape) > MAX_RANK or min(shape, default=1) < 1:
                raise InputError(f"operator {node.kind} has an output that cannot be: {name} {shape}")
            known[name] = Tensor(shape, item)
            total += math.prod(shape) * item
            if total > limit:
                raise InputError(f"operator {node.kind} makes {shape}; a model may expand to {limit} bytes")
    return known


def _item(node: Node, inputs: Sequence[Tensor]) -> int:
    """Return the bytes of an element of the outputs; three operators change the type."""
    if node.kind == "Cast":
        return ITEM_BYTES[node.one("to", 0)]
    return {"DequantizeLinear": 4, "QuantizeLinear": 1}.get(node.kind, inputs[0].item)


# --- rules: (operator, its inputs) -> shapes of the outputs -----------------------------------------------------------
def _same(node: Node, inputs: Sequence[Tensor]) -> list[Shape]:
    return [inputs[0].shape]


def _broadcast(node: Node, inputs: Sequence[Tensor]) -> list[Shape]:
    columns = zip_longest(*(reversed(tensor.shape) for tensor in inputs), fillvalue=1)
    sizes = [{size for size in column if size != 1} or {1} for column in columns]
    if any(len(different) > 1 for different in sizes):
        raise ValueError("shapes that cannot be broadcast")
    return [tuple(different.pop() for different in reversed(sizes))]


def _conv(node: Node, inputs: Sequence[Tensor]) -> list[Shape]:
    weight = inputs[1].shape
    return [_window(node, inputs[0].shape, weight[0], node.many("kernel_shape", weight[2:]))]


def _pool(node: Node, inputs: Sequence[Tensor]) -> list[Shape]:
    x = inputs[0].shape
    return [_window(node, x, x[1], node.attributes.get("kernel_shape", ()))]


def _window(node: Node, x: Shape, channels: int, kernel: Integers) -> Shape:
    n, _, height, width = x
    pads, strides, dilations = node.many("pads", (0,) * 4), node.many("strides", (1, 1)), node.many("dilations", (1, 1))
    if min(*pads, *(n - 1 for n in (*kernel, *strides, *dilations))) < 0:
        raise ValueError("negative numbers")
    sizes = []
    for i, size in enumerate((height, width)):
        room = size + pads[i] + pads[i + 2] - dilations[i] * (kernel[i] - 1) - 1
        count = room // strides[i] + 1
        # Rounded up, unless the last window would start in the padding.
        if node.one("ceil_mode", 0) and room % strides[i] and count * strides[i] < size + pads[i]:
            count += 1
        sizes.append(count)
    return n, channels, *sizes


def _global_pool(node: Node, inputs: Sequence[Tensor]) -> list[Shape]:
    n, channels, _, _ = inputs[0].shape
    return [(n, channels, 1, 1)]


def _concat(node: Node, inputs: Sequence[Tensor]) -> list[Shape]:
    shapes, axis = [list(tensor.shape) for tensor in inputs], node.one("axis", 0)
    if axis < 0:
        raise ValueError("a negative axis")
    joined = sum(shape.pop(axis) for shape in shapes)
    if any(shape != shapes[0] for shape in shapes):
        raise ValueError("shapes that cannot be joined")
    return [(*shapes[0][:axis], joined, *shapes[0][axis:])]


def _flatten(node: Node, inputs: Sequence[Tensor]) -> list[Shape]:
    if node.one("axis", 1) != 1:
        raise ValueError("another axis than 1")
    return [(inputs[0].shape[0], math.prod(inputs[0].shape[1:]))]


def _gemm(node: Node, inputs: Sequence[Tensor]) -> list[Shape]:
    (n, taken), weight = inputs[0].shape, inputs[1].shape
    outputs, reads = weight if node.one("transB", 0) else weight[::-1]
    if taken != reads:
        raise ValueError("sizes that do not match")
    return [(n, outputs)]


def _matmul(node: Node, inputs: Sequence[Tensor]) -> list[Shape]:
    (rows, inner), (reads, columns) = inputs[0].shape, inputs[1].shape
    if inner != reads:
        raise ValueError("sizes that do not match")
    return [(rows, columns)]


def _pad(node: Node, inputs: Sequence[Tensor]) -> list[Shape]:
    shape, pads = inputs[0].shape, inputs[1].integers()
    if len(inputs) != 2:
        raise ValueError("more inputs than two")
    before, after = pads[: len(shape)], pads[len(shape) :]
    return [tuple(size + b + a for size, b, a in zip(shape, before, after, strict=True))]


def _reshape(node: Node, inputs: Sequence[Tensor]) -> list[Shape]:
    shape = inputs[0].shape
    wanted = [shape[i] if size == 0 else size for i, size in enumerate(inputs[1].integers()[: MAX_RANK + 1])]
    if -1 in wanted:
        wanted[wanted.index(-1)] = math.prod(shape) // -math.prod(wanted)
    if math.prod(wanted) != math.prod(shape):
        raise ValueError(f"to {wanted}")
    return [tuple(wanted)]


def _split(node: Node, inputs: Sequence[Tensor]) -> list[Shape]:
    (size,), parts = inputs[0].shape, inputs[1].integers()
    if sum(parts) != size:
        raise ValueError(f"parts of {sum(parts)}")
    return [(part,) for part in parts]


Rule = Callable[[Node, Sequence[Tensor]], list[Shape]]

RULES: Mapping[str, Rule] = {
    **dict.fromkeys(
        ("Cast", "Clip", "DequantizeLinear", "Elu", "Erf", "HardSigmoid", "HardSwish", "LeakyRelu", "Neg",
         "QuantizeLinear", "Relu", "Round", "Sigmoid", "Softmax", "Tanh"), _same,
    ),
    **dict.fromkeys(("Add", "Div", "Max", "Min", "Mul", "PRelu", "Sub"), _broadcast),
    **dict.fromkeys(("AveragePool", "MaxPool"), _pool),
    **dict.fromkeys(("GlobalAveragePool", "GlobalMaxPool"), _global_pool),
    "Concat": _concat,
    "Conv": _conv,
    "Flatten": _flatten,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "Pad": _pad,
    "Reshape": _reshape,
    "Split": _split,
}  # fmt: skip
