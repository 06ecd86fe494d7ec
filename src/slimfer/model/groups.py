"""Which channels belong together, found by following them through the network's fx graph.

Every channel of every tensor is an *atom*, a number. A convolution or linear layer makes new atoms for its outputs and
reads those of its inputs; BN, activation, pooling and depthwise convolution pass atoms on; `add` makes the atoms of
both sides one; `cat` joins the lists; flatten repeats each atom once per pixel. Two channels must be cut together
exactly when their atoms are the same in the end. No network carries a list of its own groups, so the user's module
works alike.

What cannot be followed is refused by name, never guessed. What can be followed but not cut (a size written into the
code, a constant with one value per channel) is locked, with the reason.
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
from slimfer.model.mode import evaluating

Atoms = npt.NDArray[np.int64]

# Operations that act on each channel alone, so atoms pass through. Kept as visible tables: an operation that is in
# none of them is refused by name.
POINTWISE_MODULES: tuple[type[nn.Module], ...] = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.SiLU, nn.GELU, nn.Hardswish, nn.Hardsigmoid, nn.Hardtanh,
    nn.Sigmoid, nn.Tanh, nn.Identity, nn.Dropout, nn.Dropout2d,
)  # fmt: skip
POOL_MODULES: tuple[type[nn.Module], ...] = (
    nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.ZeroPad2d,
)  # fmt: skip
PASS_MODULES = (*POINTWISE_MODULES, *POOL_MODULES)
PASS_FUNCTIONS: tuple[Callable[..., Any], ...] = (
    F.relu, torch.relu, torch.relu_, F.relu6, F.leaky_relu, F.elu, F.silu, F.gelu, F.hardswish, F.hardsigmoid,
    F.hardtanh, F.sigmoid, torch.sigmoid, F.tanh, torch.tanh, torch.clamp, F.dropout, F.dropout2d, F.max_pool2d,
    torch.max_pool2d, F.avg_pool2d, F.adaptive_avg_pool2d, F.adaptive_max_pool2d, torch.clone, operator.neg,
)  # fmt: skip
PASS_METHODS = ("relu", "relu_", "sigmoid", "tanh", "contiguous", "clone", "clamp", "float")
# Operations on two tensors, channel by channel.
JOIN_FUNCTIONS: tuple[Callable[..., Any], ...] = (
    operator.add, operator.iadd, torch.add, operator.mul, operator.imul, torch.mul, operator.sub, operator.isub,
    torch.sub, operator.truediv, torch.div, torch.maximum, torch.minimum,
)  # fmt: skip
JOIN_METHODS = ("add", "add_", "mul", "mul_", "sub", "sub_", "div", "expand_as")
CAT_FUNCTIONS = (torch.cat, torch.concat, torch.concatenate)
# Operations that keep channel i at place i as long as they touch only the axes after it.
AXIS_FUNCTIONS = (torch.mean, torch.sum, torch.amax, torch.squeeze, torch.unsqueeze)
AXIS_METHODS = ("mean", "sum", "amax", "squeeze", "unsqueeze")
RESHAPE_FUNCTIONS = (torch.flatten, torch.reshape)
RESHAPE_METHODS = ("flatten", "view", "reshape")
_SUPPORTED = "convolutions, linear, batch_norm2d, activations, add, mul, cat, pooling, mean over pixels, flatten"


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
        return isinstance(self.module, nn.Conv2d) and _is_depthwise(self.module)


@dataclass(frozen=True)
class ChannelMap:
    """All channels of a network.

    Attributes:
        layers: convolutions, linear layers and batch normalizations in the order of execution, each one once.
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
        made = {int(atom) for layer in self.producers() for atom in layer.outputs}
        return np.array(sorted(made - self.locked.keys()), dtype=np.int64)


class _Tracer(fx.Tracer):
    """Keep torch's own layers whole, and subclasses of those that can be followed; trace through everything else."""

    def is_leaf_module(self, module: nn.Module, qualified_name: str) -> bool:
        known = isinstance(module, (nn.Conv2d, nn.Linear, nn.BatchNorm2d, nn.Flatten, *PASS_MODULES))
        return known or super().is_leaf_module(module, qualified_name)


def trace(net: nn.Module) -> fx.GraphModule:
    """Trace `net`; the returned module shares its layers and parameters.

    Raises:
        InputError: if the module has control flow that depends on data, or another thing that torch.fx cannot follow.
    """
    try:
        return fx.GraphModule(net, _Tracer().trace(net))
    except Exception as error:
        raise InputError(f"torch.fx cannot trace {type(net).__name__}: {_first_line(error)}") from None


def channel_map(net: nn.Module, channels: int, image: int) -> ChannelMap:
    """Find the channels of `net` for inputs of shape (N, channels, image, image); the network is left as it was.

    Raises:
        InputError: if the network cannot be traced, cannot read such pictures, or has an operation whose channels
            cannot be followed, by name.
    """
    graph = trace(net)
    follower = _Follower(graph, channels)
    device = next((p.device for p in net.parameters()), torch.device("cpu"))
    with evaluating(net), torch.no_grad():
        graph.eval()
        try:
            # Two pictures, so that a reshape that mixes pictures cannot pass for one that keeps them apart.
            follower.run(torch.zeros(2, channels, image, image, device=device))
        except (RuntimeError, TypeError) as error:
            raise InputError(
                f"{type(net).__name__} cannot read pictures of shape ({channels}, {image}, {image}): "
                f"{_first_line(error)}"
            ) from None
    return follower.result()


class _Follower(fx.Interpreter):
    """Run the graph once on zeros, for shapes, and follow the atoms beside it."""

    def __init__(self, graph: fx.GraphModule, channels: int) -> None:
        super().__init__(graph)
        self.extra_traceback = False  # else fx adds six lines to each error
        self.channels = channels
        self.parent: list[int] = []
        self.atoms: dict[fx.Node, Atoms] = {}
        self.shapes: dict[fx.Node, torch.Size] = {}
        self.layers: dict[nn.Module, tuple[str, Atoms, Atoms]] = {}
        self.constants: dict[fx.Node, Tensor] = {}
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
            self._placeholder(n)
        elif n.op == "output":
            self._output(n)
        elif n.op == "get_attr":
            self.constants[n] = value
        elif isinstance(value, Tensor):
            self._tensor(n)
        elif _holds_tensor(value):
            raise _refusal(n, "it returns several tensors")
        return value

    def _placeholder(self, n: fx.Node) -> None:
        if n not in self.shapes:
            return  # an optional argument that was left out
        self.atoms[n] = self.new(self.channels)
        self.lock(self.atoms[n], "network input")

    def _output(self, n: fx.Node) -> None:
        answer = n.args[0]
        if not isinstance(answer, fx.Node) or answer not in self.atoms:
            raise InputError("the network must return one tensor of shape (N, classes), computed from its input")
        self.lock(self.atoms[answer], "network output")

    def _tensor(self, n: fx.Node) -> None:
        """Find the atoms of a tensor that was computed."""
        if n.op == "call_module":
            atoms = self._module(n, self.fetch_attr(str(n.target)))
        elif any(node in self.atoms for node in n.all_input_nodes):
            atoms = self._operation(n)
        else:
            return  # arithmetic on constants
        shape = self.shapes[n]
        if len(shape) < 2 or shape[0] != 2 or shape[1] != len(atoms):
            raise _refusal(n, f"its result has shape {tuple(shape)}, not {len(atoms)} channels")
        self.atoms[n] = atoms

    def _module(self, n: fx.Node, module: nn.Module) -> Atoms:
        source = self._only_source(n)
        axes = len(self.shapes[n.all_input_nodes[0]])
        if isinstance(module, nn.Flatten):
            return self._reshape(n, source)
        if isinstance(module, POINTWISE_MODULES):
            if isinstance(module, nn.PReLU) and module.num_parameters > 1:
                self.lock(source, f"one slope per channel in {n.target}")
            return source
        if axes == (2 if isinstance(module, nn.Linear) else 4):
            if isinstance(module, POOL_MODULES):
                return source
            if isinstance(module, (nn.Conv2d, nn.Linear, nn.BatchNorm2d)):
                return self._layer(n, module, source)
        raise _refusal(n, f"a {type(module).__name__} that reads a tensor of {axes} axes")

    def _layer(self, n: fx.Node, module: nn.Module, source: Atoms) -> Atoms:
        """Note a layer with channels; one that is called again has the same channels each time."""
        if module in self.layers:
            _, inputs, outputs = self.layers[module]
            self.join(inputs, source)
            return outputs
        _check_plain(n, module)
        made = source
        if isinstance(module, nn.Linear):
            made = self.new(module.out_features)
        elif isinstance(module, nn.Conv2d) and not _is_depthwise(module):
            made = self.new(module.out_channels)
            if module.groups > 1:
                self.lock(source, f"grouped convolution {n.target}")
                self.lock(made, f"grouped convolution {n.target}")
        self.layers[module] = (str(n.target), source, made)
        return made

    def _operation(self, n: fx.Node) -> Atoms:
        """Follow a function or method that has at least one tensor with channels among its arguments."""
        if _is_one_of(n, CAT_FUNCTIONS, ()):
            return self._cat(n)
        if _is_one_of(n, JOIN_FUNCTIONS, JOIN_METHODS):
            return self._join_all(n)
        if _is_one_of(n, PASS_FUNCTIONS, PASS_METHODS):
            return self._only_source(n)
        if _is_one_of(n, AXIS_FUNCTIONS, AXIS_METHODS):
            return self._along_pixels(n)
        if _is_one_of(n, RESHAPE_FUNCTIONS, RESHAPE_METHODS):
            return self._reshape(n, self._only_source(n))
        raise _refusal(n, f"supported are {_SUPPORTED}")

    def _only_source(self, n: fx.Node) -> Atoms:
        tensors = [node for node in n.all_input_nodes if node in self.shapes]
        if len(tensors) != 1 or tensors[0] not in self.atoms:
            raise _refusal(n, "it reads more than one tensor, or one without channels")
        return self.atoms[tensors[0]]

    def _join_all(self, n: fx.Node) -> Atoms:
        """Make the channels of all operands one; what is spread over all channels is locked instead."""
        operands = [node for node in n.all_input_nodes if node in self.shapes]
        shape = self.shapes[n]
        tracked = [node for node in operands if node in self.atoms and len(self.atoms[node]) == shape[1]]
        if not tracked or any(node in self.atoms and len(self.shapes[node]) != len(shape) for node in operands):
            raise _refusal(n, f"its operands {[tuple(self.shapes[node]) for node in operands]} do not match")
        result = self.atoms[tracked[0]]
        for node in operands:
            if node in tracked:
                self.join(result, self.atoms[node])
            elif node in self.atoms:
                self.lock(self.atoms[node], f"spread over all channels by {n.name}")
            elif _channels_of_constant(self.shapes[node], len(shape)) > 1:
                self.lock(result, f"constant {node.name} has one value per channel")
        return result

    def _cat(self, n: fx.Node) -> Atoms:
        # Not all_input_nodes: that lists a tensor once even if it comes twice.
        parts = n.args[0] if n.args else n.kwargs.get("tensors")
        axis = n.kwargs.get("dim", n.kwargs.get("axis", n.args[1] if len(n.args) > 1 else 0))
        if not isinstance(parts, (list, tuple)) or axis not in (1, 1 - len(self.shapes[n])):
            raise _refusal(n, "only tensors side by side along axis 1 can be followed")
        if any(part not in self.atoms for part in parts):
            raise _refusal(n, "one of the tensors has no channels")
        return np.concatenate([self.atoms[part] for part in parts])

    def _along_pixels(self, n: fx.Node) -> Atoms:
        source = self._only_source(n)
        axes = n.args[1] if len(n.args) > 1 else n.kwargs.get("dim", n.kwargs.get("axis"))
        rank = len(self.shapes[n.all_input_nodes[0]]) + ("unsqueeze" in str(n.target))
        listed = axes if isinstance(axes, (list, tuple)) else [axes]
        if not all(isinstance(axis, int) and axis % rank >= 2 for axis in listed):
            raise _refusal(n, "only the axes of the pixels may be named, and they must be")
        return source

    def _reshape(self, n: fx.Node, source: Atoms) -> Atoms:
        before, after = self.shapes[n.all_input_nodes[0]], self.shapes[n]
        if len(after) < 2 or after[0] != before[0]:
            raise _refusal(n, f"the reshape from {tuple(before)} to {tuple(after)} mixes pictures")
        if after[1] == before[1:].numel():
            atoms = np.repeat(source, before[2:].numel())
        elif after[1] == before[1]:
            atoms = source
        else:
            raise _refusal(n, f"the reshape from {tuple(before)} to {tuple(after)} mixes channels")
        if (size := _written_channels(n)) is not None:
            self.lock(source, f"the size {size} is written into the reshape {n.name}")
        return atoms

    # --- the end ------------------------------------------------------------------------------------------------------
    def result(self) -> ChannelMap:
        self._check_parameters()
        roots = np.array([self.root(atom) for atom in range(len(self.parent))], dtype=np.int64)
        return ChannelMap(
            layers=tuple(Layer(name, module, roots[i], roots[o]) for module, (name, i, o) in self.layers.items()),
            locked={int(roots[atom]): reason for atom, reason in self.locks.items()},
            graph=self.module,  # type: ignore[arg-type]
            node_atoms={node.name: roots[atoms] for node, atoms in self.atoms.items()},
        )

    def _check_parameters(self) -> None:
        """Refuse parameters that would have to be cut in two ways: of two layers, or read by the code as well."""
        owner: dict[int, str] = {}
        for module, (name, _, _) in self.layers.items():
            for parameter in module.parameters(recurse=False):
                if id(parameter) in owner:
                    raise InputError(f"cannot follow channels: layers {owner[id(parameter)]} and {name} share weights")
                owner[id(parameter)] = name
        for node, value in self.constants.items():
            if id(value) in owner:
                raise InputError(
                    f"cannot follow channels: {node.target} is read outside of its layer {owner[id(value)]} "
                    f"(node {node.name})"
                )


def _is_depthwise(conv: nn.Conv2d) -> bool:
    return conv.groups > 1 and conv.groups == conv.in_channels == conv.out_channels


def _is_one_of(n: fx.Node, functions: tuple[Callable[..., Any], ...], methods: tuple[str, ...]) -> bool:
    return n.target in methods if n.op == "call_method" else n.target in functions


def _check_plain(n: fx.Node, module: nn.Module) -> None:
    """Refuse a layer whose weights are not what its class says."""
    kind = next(kind for kind in (nn.Conv2d, nn.Linear, nn.BatchNorm2d) if isinstance(module, kind))
    if type(module).forward is not kind.forward:
        raise _refusal(n, f"{type(module).__name__} has a forward of its own")
    if "weight" not in module._parameters:
        raise _refusal(n, "its weight is computed from other parameters")


def _written_channels(n: fx.Node) -> int | None:
    """Return the channel size that a reshape has as a number in the code, if any; -1 and computed sizes adapt."""
    if n.target not in ("view", "reshape", torch.reshape):
        return None
    shape = n.kwargs.get("shape", n.kwargs.get("size", n.args[1:]))
    if isinstance(shape, (list, tuple)) and len(shape) == 1 and isinstance(shape[0], (list, tuple)):
        shape = shape[0]
    size = shape[1] if isinstance(shape, (list, tuple)) and len(shape) > 1 else None
    return size if isinstance(size, int) and size >= 0 else None


def _channels_of_constant(shape: torch.Size, rank: int) -> int:
    """Return the extent along axis 1 of a constant that is broadcast to `rank` axes."""
    return shape[-(rank - 1)] if len(shape) >= rank - 1 else 1


def _holds_tensor(value: Any) -> bool:
    if isinstance(value, Mapping):
        value = tuple(value.values())
    return isinstance(value, Tensor) or (isinstance(value, (list, tuple)) and any(map(_holds_tensor, value)))


def _refusal(n: fx.Node, reason: str) -> InputError:
    target = n.target if isinstance(n.target, str) else getattr(n.target, "__name__", repr(n.target))
    return InputError(f"cannot follow channels through {target} (node {n.name}): {reason}")


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
