"""Which channels belong together, found by following them through the network's fx graph.

Every channel of every tensor is an *atom*, a number. A convolution or linear layer makes new atoms for its outputs and
reads those of its inputs; BN, activation, pooling and depthwise convolution pass atoms on; `add` makes the atoms of both
sides one; `cat` joins the lists; flatten repeats each atom once per pixel. Two channels must be cut together exactly
when their atoms are the same in the end. No network carries a list of its own groups, so the user's module works alike.
"""

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from slimfer.errors import InputError

Atoms = npt.NDArray[np.int64]

# Operations that act on each channel alone, so atoms pass through. Kept as visible tables: an operation that is in
# none of them is refused by name, never guessed.
PASS_MODULES: tuple[type[nn.Module], ...] = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.SiLU, nn.GELU, nn.Hardswish, nn.Hardsigmoid, nn.Hardtanh,
    nn.Sigmoid, nn.Tanh, nn.Identity, nn.Dropout, nn.Dropout2d, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d,
    nn.AdaptiveMaxPool2d, nn.ZeroPad2d,
)  # fmt: skip
PASS_FUNCTIONS: tuple[Callable[..., Any], ...] = (
    F.relu, torch.relu, F.relu6, F.leaky_relu, F.elu, F.silu, F.gelu, F.hardswish, F.hardsigmoid, F.sigmoid,
    torch.sigmoid, torch.tanh, F.dropout, F.max_pool2d, F.avg_pool2d, F.adaptive_avg_pool2d, torch.clone,
)  # fmt: skip
PASS_METHODS = ("relu", "relu_", "sigmoid", "tanh", "contiguous", "clone", "clamp", "mean")
ADD_FUNCTIONS = (operator.add, operator.iadd, torch.add, operator.mul, torch.mul, operator.sub, torch.sub)
ADD_METHODS = ("add", "add_", "mul", "mul_", "sub")


@dataclass(frozen=True)
class Layer:
    """One layer's channels, by atom: position i holds channel i (for a flattened linear layer, feature i)."""

    name: str
    module: nn.Module
    inputs: Atoms
    outputs: Atoms

    @property
    def depthwise(self) -> bool:
        """Return whether each output channel reads only the input channel of the same number."""
        return isinstance(self.module, nn.Conv2d) and self.module.groups > 1


@dataclass(frozen=True)
class ChannelMap:
    """All channels of a network.

    Attributes:
        layers: convolutions, linear layers and batch normalizations in the order of execution.
        locked: atoms that must stay (network outputs, inputs), with the reason.
        graph: the traced network.
        node_atoms: atoms of each node's output, by node name (absent for values without channels).
    """

    layers: tuple[Layer, ...]
    locked: Mapping[int, str]
    graph: fx.GraphModule
    node_atoms: Mapping[str, Atoms] = field(repr=False, default_factory=dict)

    def producers(self) -> tuple[Layer, ...]:
        """Return convolutions and linear layers that make channels (depthwise ones pass theirs on)."""
        return tuple(
            layer for layer in self.layers if not isinstance(layer.module, nn.BatchNorm2d) and not layer.depthwise
        )

    def norms(self) -> tuple[Layer, ...]:
        """Return the batch normalizations."""
        return tuple(layer for layer in self.layers if isinstance(layer.module, nn.BatchNorm2d))

    def free_atoms(self) -> Atoms:
        """Return the atoms that may be cut, ascending."""
        atoms = np.unique(np.concatenate([layer.outputs for layer in self.producers()]))
        return np.array([atom for atom in atoms if int(atom) not in self.locked], dtype=np.int64)


class _Tracer(fx.Tracer):
    """Keep the known layers whole; everything else is traced through."""

    def is_leaf_module(self, module: nn.Module, qualified_name: str) -> bool:
        return isinstance(module, (nn.Conv2d, nn.Linear, nn.BatchNorm2d, nn.Flatten, *PASS_MODULES))


def trace(net: nn.Module) -> fx.GraphModule:
    """Trace `net`; the returned module shares its layers and parameters.

    Raises:
        InputError: if the module has control flow that depends on data, or another thing that torch.fx cannot follow.
    """
    try:
        return fx.GraphModule(net, _Tracer().trace(net))
    except Exception as error:
        raise InputError(f"torch.fx cannot trace {type(net).__name__}: {error}") from None


def channel_map(net: nn.Module, channels: int, image: int) -> ChannelMap:
    """Find the channels of `net` for inputs of shape (N, channels, image, image).

    Raises:
        InputError: if the network cannot be traced or has an operation whose channels cannot be followed, by name.
    """
    was_training = net.training
    graph = trace(net)
    try:
        follower = _Follower(graph.eval(), channels)
        device = next((p.device for p in net.parameters()), torch.device("cpu"))
        with torch.no_grad():
            follower.run(torch.zeros(1, channels, image, image, device=device))
    finally:
        net.train(was_training)
    return follower.result()


class _Follower(fx.Interpreter):
    """Run the graph once on zeros, for shapes, and follow the atoms beside it."""

    def __init__(self, graph: fx.GraphModule, channels: int) -> None:
        super().__init__(graph)
        self.channels = channels
        self.parent: list[int] = []
        self.atoms: dict[fx.Node, Atoms] = {}
        self.shapes: dict[fx.Node, torch.Size] = {}
        self.layers: list[tuple[str, nn.Module, Atoms, Atoms]] = []
        self.locks: dict[int, str] = {}

    # --- union-find -------------------------------------------------------------------------------------------------
    def new(self, count: int) -> Atoms:
        start = len(self.parent)
        self.parent.extend(range(start, start + count))
        return np.arange(start, start + count, dtype=np.int64)

    def root(self, atom: int) -> int:
        while self.parent[atom] != atom:
            self.parent[atom] = self.parent[self.parent[atom]]
            atom = self.parent[atom]
        return atom

    def join(self, left: Atoms, right: Atoms) -> None:
        for a, b in zip(left, right, strict=True):
            low, high = sorted((self.root(int(a)), self.root(int(b))))
            self.parent[high] = low

    def lock(self, atoms: Atoms, reason: str) -> None:
        for atom in atoms:
            self.locks.setdefault(int(atom), reason)

    # --- the graph ----------------------------------------------------------------------------------------------------
    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if isinstance(value, Tensor):
            self.shapes[n] = value.shape
        if n.op == "placeholder":
            self.atoms[n] = self.new(self.channels)
            self.lock(self.atoms[n], "network input")
        elif n.op == "output":
            for source in n.all_input_nodes:
                self.lock(self.atoms[source], "network output")
        elif n.op == "call_module":
            self._module(n, self.fetch_attr(str(n.target)))
        elif n.op in ("call_function", "call_method"):
            self._function(n)
        return value

    def _module(self, n: fx.Node, module: nn.Module) -> None:
        source = self.atoms[n.all_input_nodes[0]]
        if isinstance(module, nn.Conv2d):
            if module.groups == 1:
                made = self.new(module.out_channels)
            elif module.groups == module.in_channels == module.out_channels:
                made = source
            else:
                self.lock(source, f"grouped convolution {n.target}")
                made = self.new(module.out_channels)
                self.lock(made, f"grouped convolution {n.target}")
        elif isinstance(module, nn.Linear):
            made = self.new(module.out_features)
        elif isinstance(module, nn.BatchNorm2d):
            made = source
        elif isinstance(module, nn.Flatten):
            self._flatten(n, source)
            return
        else:
            self.atoms[n] = source
            return
        self.layers.append((str(n.target), module, source, made))
        self.atoms[n] = made

    def _function(self, n: fx.Node) -> None:
        sources = [node for node in n.all_input_nodes if node in self.atoms]
        if not sources:
            return  # arithmetic on sizes
        if n not in self.shapes:
            return  # x.size(0), x.shape: not a tensor
        if n.target in ADD_FUNCTIONS or (n.op == "call_method" and n.target in ADD_METHODS):
            self.atoms[n] = self.atoms[sources[0]]
            for other in sources[1:]:
                self.join(self.atoms[sources[0]], self.atoms[other])
        elif n.target in (torch.cat, torch.concat) and self._cat_axis(n) == 1:
            self.atoms[n] = np.concatenate([self.atoms[source] for source in sources])
        elif n.target is torch.flatten or (n.op == "call_method" and n.target in ("flatten", "view", "reshape")):
            self._flatten(n, self.atoms[sources[0]])
        elif n.target in PASS_FUNCTIONS or (n.op == "call_method" and n.target in PASS_METHODS):
            self.atoms[n] = self.atoms[sources[0]]
        else:
            raise InputError(f"cannot follow channels through {n.target!r} (node {n.name}); supported operations: "
                             "conv2d, linear, batch_norm2d, activations, add, cat, pooling, flatten")  # fmt: skip

    def _flatten(self, n: fx.Node, source: Atoms) -> None:
        before = self.shapes[n.all_input_nodes[0]]
        after = self.shapes[n]
        if after == before:
            self.atoms[n] = source
        elif len(after) == 2 and after[1] == before[1:].numel():
            self.atoms[n] = np.repeat(source, before[2:].numel())
        else:
            raise InputError(
                f"cannot follow channels through the reshape {n.name} from {tuple(before)} to {tuple(after)}"
            )

    @staticmethod
    def _cat_axis(n: fx.Node) -> int:
        return int(n.kwargs.get("dim", n.args[1] if len(n.args) > 1 else 0))  # type: ignore[arg-type]

    def result(self) -> ChannelMap:
        roots = np.array([self.root(atom) for atom in range(len(self.parent))], dtype=np.int64)
        return ChannelMap(
            layers=tuple(Layer(name, module, roots[i], roots[o]) for name, module, i, o in self.layers),
            locked={int(roots[atom]): reason for atom, reason in self.locks.items()},
            graph=self.module,  # type: ignore[arg-type]
            node_atoms={node.name: roots[atoms] for node, atoms in self.atoms.items()},
        )
