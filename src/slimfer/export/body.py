"""The graph of an ONNX file while it is being written."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import NodeProto, TensorProto, helper, numpy_helper

Key = tuple[str, tuple[int, ...], bytes]


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
        key = content(array)
        if key not in self._known:
            self._known[key] = self.fresh()
            self.store(self._known[key], array)
        return self._known[key]

    def store(self, name: str, array: npt.NDArray[Any]) -> None:
        """Add an initializer of this name."""
        self.tensors.append(numpy_helper.from_array(array, name))


def content(array: npt.NDArray[Any]) -> Key:
    """Return what two arrays share only if they are equal."""
    return array.dtype.str, array.shape, array.tobytes()
