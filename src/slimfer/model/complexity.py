"""Count parameters, multiply-adds, activations and bytes of any module; say what could not be counted.

Conventions: one multiply-add is 1 MAC, for one picture. Convolutions and linear layers are counted, without their bias;
normalization, activation functions, pooling, additions and softmax count 0 MACs. Activations are the elements of the
outputs of convolutions and linear layers (as in Radosavovic et al. 2020, arXiv 2003.13678, section 3.3).
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from slimfer.errors import InputError
from slimfer.model.mode import evaluating

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)

# Modules whose parameters are known to take part in no multiply-add of the convention above.
FREE = (
    nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.GroupNorm, nn.LayerNorm, nn.InstanceNorm2d, nn.PReLU,
    nn.Embedding,
)  # fmt: skip

# Operations of torch's dispatcher that multiply and add. Seen outside a counted layer, they are reported, not ignored.
COMPUTE = frozenset((
    "convolution", "linear", "matmul", "mm", "addmm", "bmm", "baddbmm", "addbmm", "mv", "addmv", "dot", "vdot",
    "einsum", "_trilinear", "bilinear", "mkldnn_rnn_layer", "lstm", "gru", "rnn_tanh", "rnn_relu", "_cdist_forward",
    "scaled_dot_product_attention", "_scaled_dot_product_attention_math", "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_efficient_attention",
    "_scaled_dot_product_cudnn_attention",
))  # fmt: skip


@dataclass(frozen=True)
class LayerCost:
    """What one layer costs.

    Attributes:
        name: of the module.
        kind: class of the module, e.g. `Conv2d`.
        shape: of the output, without the batch.
        params: own parameters.
        macs: multiply-adds for one picture, over all its calls.
        activations: elements of its outputs for one picture; 0 for layers that count 0 MACs.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    params: int
    macs: int
    activations: int


@dataclass(frozen=True)
class Complexity:
    """What a network costs for one picture.

    Attributes:
        params: trainable numbers, each counted once however often it is used.
        macs: multiply-adds.
        activations: elements of the outputs of convolutions and linear layers.
        bytes: parameters and buffers as they are stored.
        layers: rows for every layer with parameters, in the order of execution.
        uncounted: what computes but is in none of the sums above except `params` and `bytes`; empty when all is known.
    """

    params: int
    macs: int
    activations: int
    bytes: int
    layers: tuple[LayerCost, ...]
    uncounted: tuple[str, ...]


def complexity(net: nn.Module, channels: int, image: int) -> Complexity:
    """Count `net` for one picture of shape (channels, image, image).

    The network is run once on zeros, in evaluation mode; it is left as it was.

    Raises:
        InputError: if the network does not run on that shape.
    """
    counter = _Counter(net)
    like = next(net.parameters(), torch.zeros(()))
    x = torch.zeros(1, channels, image, image, device=like.device, dtype=like.dtype)
    with evaluating(net), torch.no_grad(), counter.watching(), counter:
        try:
            net(x)
        except RuntimeError as error:
            raise InputError(f"{type(net).__name__} does not run on {tuple(x.shape)}: {error}") from None
    stored = (*net.parameters(), *net.buffers())
    rows = tuple(counter.rows.values())
    return Complexity(
        params=sum(p.numel() for p in net.parameters()),
        macs=sum(row.macs for row in rows),
        activations=sum(row.activations for row in rows),
        bytes=sum(t.numel() * t.element_size() for t in stored),
        layers=rows,
        uncounted=(*counter.unknown, *counter.never_called()),
    )


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Watches one forward pass: hooks make the rows, the dispatcher shows whatever computes outside of them."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names = {module: name or type(net).__name__ for name, module in net.named_modules()}
        self.rows: dict[str, LayerCost] = {}
        self.unknown: dict[str, None] = {}  # an ordered set
        self.running: list[nn.Module] = []
        self.seen: set[nn.Module] = set()

    @contextmanager
    def watching(self) -> Iterator[None]:
        handles = []
        for module in self.names:
            handles.append(module.register_forward_pre_hook(self._enter))
            handles.append(module.register_forward_hook(self._leave))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def never_called(self) -> list[str]:
        return [
            f"{name} ({type(module).__name__}, never called)"
            for module, name in self.names.items()
            if module not in self.seen and _own_params(module) and not self._is_inside_unknown(name)
        ]

    def _is_inside_unknown(self, name: str) -> bool:
        return any(_is_unknown(m) and name.startswith(f"{self.names[m]}.") for m in self.seen)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        operation = func.overloadpacket.__name__
        if operation in COMPUTE and not any(isinstance(m, (*CONVOLUTIONS, nn.Linear)) for m in self.running):
            module = self.running[-1]
            if not _is_unknown(module):  # its whole module is reported already
                self.unknown[f"{self.names[module]} ({operation} called as a function)"] = None
        return func(*args, **(kwargs or {}))

    def _enter(self, module: nn.Module, inputs: Any) -> None:
        self.running.append(module)
        self.seen.add(module)
        if _is_unknown(module):
            self.unknown[f"{self.names[module]} ({type(module).__name__})"] = None

    def _leave(self, module: nn.Module, inputs: Any, output: Any) -> None:
        self.running.pop()
        params = _own_params(module)
        if not params or _is_unknown(module):
            return
        counts = isinstance(module, (*CONVOLUTIONS, nn.Linear))
        elements = output.numel() if counts else 0
        name = self.names[module]
        before = self.rows.get(name, LayerCost(name, type(module).__name__, tuple(output.shape[1:]), params, 0, 0))
        self.rows[name] = replace(
            before,
            macs=before.macs + elements * _macs_per_element(module),
            activations=before.activations + elements,
        )


def _own_params(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters(recurse=False))


def _is_unknown(module: nn.Module) -> bool:
    """Return whether `module` holds parameters itself and is of no kind that is counted or known to be free."""
    return _own_params(module) > 0 and not isinstance(module, (*CONVOLUTIONS, nn.Linear, *FREE))


def _macs_per_element(module: nn.Module) -> int:
    """Return the multiply-adds behind one element of the output."""
    if isinstance(module, CONVOLUTIONS):
        return module.in_channels // module.groups * math.prod(module.kernel_size)
    return module.in_features if isinstance(module, nn.Linear) else 0
