"""Integers of a few bits as words of digits, and the standard ONNX operators that expand them when a file is opened.

A word of b bytes holds d balanced digits of base r: `word = sum_j digit_j r^j` with |digit_j| <= (r - 1) / 2, and is
itself written in balanced base 256, one int8 per byte. Balanced digits are what symmetric quantization makes, and they
come out by rounding alone:

    f_j = round(word / r^j),    digit_j = f_j - r f_(j+1),    f_d = 0

because the digits below j are worth less than half a step. In ONNX that is Cast, MatMul (bytes -> word / r^j, all j),
Round, MatMul (-> digits), Cast. Every number on the way is exact in float32 (words have at most 24 bits), so every
runtime gets the same integers. All inputs are constants, hence onnxruntime computes them once, when it opens the file,
and then sees plain int8 weights; int4 tensors, the standard's own way, stay in the graph and make everything slower
than floats (onnxruntime 1.31, OpenVINO 2026.4).

Three levels (2 bits) take 1.6 bits each: a byte has room for five of them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import NodeProto, TensorProto, helper, numpy_helper

Key = tuple[str, tuple[int, ...], bytes]
Integers = npt.NDArray[np.integer[Any]]

# What the operators that expand one group of tensors take in the file, roughly; a group that saves less stays plain.
GROUP_BYTES = 400


@dataclass(frozen=True)
class Code:
    """How integers are written: `digits` of base `base` in each word of `bytes` bytes."""

    bytes: int
    digits: int
    base: int

    @property
    def limit(self) -> int:
        """Return the largest absolute value of a digit."""
        return (self.base - 1) // 2

    @property
    def bits(self) -> float:
        """Return the bits that one integer takes."""
        return 8 * self.bytes / self.digits


# By the bits of a weight. 7 and 8 bits have no form shorter than a byte.
WEIGHTS: Mapping[int, Code] = {
    2: Code(1, 5, 3),
    3: Code(3, 8, 8),
    4: Code(1, 2, 16),
    5: Code(2, 3, 32),
    6: Code(3, 4, 64),
}
# Of biases, the first that fits.
BIASES = (Code(2, 1, 1 << 16), Code(3, 1, 1 << 24))


def stored_bits(bits: int) -> float:
    """Return the bits that a weight of `bits` bits takes in the file."""
    return WEIGHTS[bits].bits if bits in WEIGHTS else 8.0


def encode(values: Integers, code: Code) -> npt.NDArray[np.int8]:
    """Return the words (N, bytes) of integers of any shape, in row-major order, zeros added to fill the last word.

    Raises:
        ValueError: if a value is beyond `code.limit`.
    """
    if np.abs(values, dtype=np.int64).max(initial=0) > code.limit:
        raise ValueError(f"integers beyond {code.limit} do not fit {code}")
    flat = values.ravel().astype(np.int64)
    digits = np.concatenate([flat, np.zeros(-len(flat) % code.digits, np.int64)]).reshape(-1, code.digits)
    rest = (digits * code.base ** np.arange(code.digits)).sum(1)
    words = np.empty((len(rest), code.bytes), np.int8)
    for byte in range(code.bytes):
        words[:, byte] = (rest + 128) % 256 - 128
        rest = (rest - words[:, byte]) // 256
    return words


def matrices(code: Code) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Return what turns bytes into f (bytes, digits), and rounded f into digits (digits, digits)."""
    powers = np.arange(code.digits)
    shares = 256.0 ** np.arange(code.bytes)[:, None] / float(code.base) ** powers
    differences = np.eye(code.digits) - code.base * np.eye(code.digits, k=-1)
    return shares.astype(np.float32), differences.astype(np.float32)


class Body:
    """Operators and constants of a graph being written, with names as short as they can be.

    Attributes:
        nodes: the operators, in order.
        tensors: the initializers; equal ones are stored once.
    """

    def __init__(self) -> None:
        self.nodes: list[NodeProto] = []
        self.tensors: list[TensorProto] = []
        self._known: dict[Key, str] = {}
        self._count = 0

    def fresh(self) -> str:
        """Return a short unused name."""
        self._count += 1
        return np.base_repr(self._count, 36).lower()

    def emit(self, op: str, *inputs: str, out: str | Sequence[str] = "", **attributes: Any) -> str:
        """Append one operator and return the name of its (first) output."""
        outputs = [out or self.fresh()] if isinstance(out, str) else list(out)
        self.nodes.append(helper.make_node(op, inputs, outputs, **attributes))
        return outputs[0]

    def constant(self, value: npt.ArrayLike) -> str:
        """Return the name of an initializer; doubles become floats."""
        array = np.array(value, order="C")
        array = array.astype(np.float32) if array.dtype == np.float64 else array
        key = _key(array)
        if key not in self._known:
            self._known[key] = self.fresh()
            self.store(self._known[key], array)
        return self._known[key]

    def store(self, name: str, array: npt.NDArray[Any]) -> None:
        """Add an initializer of this name."""
        self.tensors.append(numpy_helper.from_array(array, name))


class Pool:
    """Constants of one graph that are stored together, in few bytes.

    A name is handed out at once; the operators that make the tensor of that name are written by `write`, which has to
    come before everything that reads them.
    """

    def __init__(self, body: Body) -> None:
        self.body = body
        self.groups: dict[Code, dict[str, Integers]] = {}
        self.scales: dict[str, npt.NDArray[np.float32]] = {}
        self.names: dict[Key, str] = {}

    def weight(self, integers: Integers, bits: int) -> str:
        """Return the name of int8 weights of any shape."""
        return self._integers(integers, WEIGHTS.get(bits))

    def bias(self, integers: Integers) -> str:
        """Return the name of int32 biases (channels,)."""
        largest = int(np.abs(integers, dtype=np.int64).max(initial=0))
        return self._integers(integers, next((code for code in BIASES if largest <= code.limit), None))

    def scale(self, scales: npt.NDArray[np.float32]) -> str:
        """Return the name of float32 scales (channels,)."""
        return self._named(scales, lambda name: self.scales.__setitem__(name, scales))

    def write(self) -> None:
        """Write everything."""
        for code, tensors in self.groups.items():
            plain = sum(tensor.nbytes for tensor in tensors.values())
            if plain * (1 - code.bits / 8 / next(iter(tensors.values())).itemsize) > GROUP_BYTES:
                self._write_group(code, tensors)
            else:
                for name, tensor in tensors.items():
                    self.body.store(name, tensor)
        self._write_scales()

    def _integers(self, integers: Integers, code: Code | None) -> str:
        if code is None:
            return self.body.constant(integers)
        group = self.groups.setdefault(code, {})
        return self._named(integers, lambda name: group.__setitem__(name, integers))

    def _named(self, array: npt.NDArray[Any], store: Callable[[str], None]) -> str:
        """Return the name of an equal tensor, or store this one under a new name."""
        key = _key(array)
        if key not in self.names:
            self.names[key] = self.body.fresh()
            store(self.names[key])
        return self.names[key]

    def _write_group(self, code: Code, tensors: Mapping[str, Integers]) -> None:
        w = self.body
        shares, differences = matrices(code)
        flat = np.concatenate([tensor.ravel() for tensor in tensors.values()])
        x = w.emit("Cast", w.constant(encode(flat, code)), to=TensorProto.FLOAT)
        x = w.emit("MatMul", x, w.constant(shares))
        if code.digits > 1:
            x = w.emit("MatMul", w.emit("Round", x), w.constant(differences))
        kind = TensorProto.INT8 if flat.dtype == np.int8 else TensorProto.INT32
        x = w.emit("Reshape", w.emit("Cast", x, to=kind), w.constant(np.array([-1])))
        self._split(x, tensors, -len(flat) % code.digits)

    def _write_scales(self) -> None:
        """Write the scales in half precision if they have no more digits than that."""
        if not self.scales:
            return
        flat = np.concatenate(list(self.scales.values()))
        factor = np.float32(2.0) ** (np.floor(np.log2(flat.max())) - 15)
        short = (flat / factor).astype(np.float16)
        w = self.body
        if np.array_equal(short.astype(np.float32) * factor, flat):
            x = w.emit("Mul", w.emit("Cast", w.constant(short), to=TensorProto.FLOAT), w.constant(factor))
        else:
            x = w.constant(flat)
        self._split(x, self.scales, 0)

    def _split(self, x: str, tensors: Mapping[str, npt.NDArray[Any]], padding: int) -> None:
        """Cut the line `x` into its tensors; the first dimension is left open, so that layers share shapes."""
        w = self.body
        parts = {name: name if tensor.ndim == 1 else w.fresh() for name, tensor in tensors.items()}
        sizes = [tensor.size for tensor in tensors.values()] + ([padding] if padding else [])
        ends = [*parts.values(), *([w.fresh()] if padding else [])]
        w.emit("Split", x, w.constant(np.array(sizes)), out=ends)
        for name, tensor in tensors.items():
            if tensor.ndim > 1:
                w.emit("Reshape", parts[name], w.constant(np.array([-1, *tensor.shape[1:]])), out=name)


def _key(array: npt.NDArray[Any]) -> Key:
    return array.dtype.str, array.shape, array.tobytes()
