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

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import TensorProto, helper

from slimfer.export.body import Body, Key, content

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
        """Return the largest absolute value of a digit: balanced, and no word beyond bytes of 127."""
        largest_word = 127 * (256**self.bytes - 1) // 255
        return min((self.base - 1) // 2, largest_word // sum(self.base**j for j in range(self.digits)))

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
    assert not rest.any()
    return words


def matrices(code: Code) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Return what turns bytes into f (bytes, digits), and rounded f into digits (digits, digits)."""
    powers = np.arange(code.digits)
    shares = 256.0 ** np.arange(code.bytes)[:, None] / float(code.base) ** powers
    differences = np.eye(code.digits) - code.base * np.eye(code.digits, k=-1)
    return shares.astype(np.float32), differences.astype(np.float32)


class Pool:
    """Constants of one graph that are stored together, in few bytes.

    A name is handed out at once; the operators that make the tensor of that name are written by `write`, which has to
    come before everything that reads them.
    """

    def __init__(self, body: Body) -> None:
        self.body = body
        self.groups: dict[Code, dict[str, Integers]] = {}
        self.scales: dict[str, npt.NDArray[np.float32]] = {}
        self._known: dict[Key, str] = {}

    def weight(self, integers: Integers, bits: int) -> str:
        """Return the name of int8 weights of any shape."""
        if bits not in WEIGHTS:
            return self.body.constant(integers)
        return self._name(integers, self.groups.setdefault(WEIGHTS[bits], {}))

    def bias(self, integers: Integers) -> str:
        """Return the name of int32 biases (channels,)."""
        largest = int(np.abs(integers, dtype=np.int64).max(initial=0))
        for code in BIASES:
            if largest <= code.limit:
                return self._name(integers, self.groups.setdefault(code, {}))
        return self.body.constant(integers)

    def scale(self, scales: npt.NDArray[np.float32]) -> str:
        """Return the name of float32 scales (channels,)."""
        if len(scales) == 1:
            return self.body.constant(scales)  # OpenVINO 2026.4 cannot read a single scale that comes out of Split
        return self._name(scales, self.scales)

    def write(self) -> None:
        """Write everything."""
        for code, tensors in self.groups.items():
            flat = np.concatenate([tensor.ravel() for tensor in tensors.values()])
            words = encode(flat, code)
            if flat.nbytes - words.nbytes > GROUP_BYTES:
                self._write_words(words, code, tensors)
            else:
                for name, tensor in tensors.items():
                    self.body.store(name, tensor)
        if self.scales:
            self._write_scales()

    def _name(self, array: npt.NDArray[Any], group: dict[str, Any]) -> str:
        """Return the name of an equal tensor, or put this one into the group under a new name."""
        key = content(array)
        if key not in self._known:
            self._known[key] = self.body.fresh()
            group[self._known[key]] = array
        return self._known[key]

    def _write_words(self, words: npt.NDArray[np.int8], code: Code, tensors: Mapping[str, Integers]) -> None:
        b, (shares, differences) = self.body, matrices(code)
        x = b.emit("MatMul", b.emit("Cast", b.constant(words), to=TensorProto.FLOAT), b.constant(shares))
        if code.digits > 1:
            x = b.emit("MatMul", b.emit("Round", x), b.constant(differences))
        first = next(iter(tensors.values()))
        x = b.emit("Cast", x, to=helper.np_dtype_to_tensor_dtype(first.dtype))
        self._split(b.emit("Reshape", x, b.constant(np.array([-1]))), tensors, words.shape[0] * code.digits)

    def _write_scales(self) -> None:
        """Write the scales in half precision if they have no more digits than that."""
        b, flat = self.body, np.concatenate(list(self.scales.values()))
        unit = np.float32(2.0) ** (np.floor(np.log2(flat.max())) - 14)  # the largest is well inside half precision
        half = (flat / unit).astype(np.float16)
        if np.array_equal(half.astype(np.float32) * unit, flat):
            x = b.emit("Mul", b.emit("Cast", b.constant(half), to=TensorProto.FLOAT), b.constant(unit))
        else:
            x = b.constant(flat)
        self._split(x, self.scales, len(flat))

    def _split(self, x: str, tensors: Mapping[str, npt.NDArray[Any]], length: int) -> None:
        """Cut the line `x` into its tensors; their first dimension is left open, so that layers share shapes."""
        b = self.body
        parts = [name if tensor.ndim == 1 else b.fresh() for name, tensor in tensors.items()]
        sizes = [tensor.size for tensor in tensors.values()]
        if length > sum(sizes):
            sizes.append(length - sum(sizes))
        b.emit("Split", x, b.constant(np.array(sizes)), out=[*parts, *(b.fresh() for _ in sizes[len(parts) :])])
        for part, (name, tensor) in zip(parts, tensors.items(), strict=True):
            if part != name:
                b.emit("Reshape", part, b.constant(np.array([-1, *tensor.shape[1:]])), out=name)
