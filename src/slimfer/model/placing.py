"""Where quantizers stand in a network, and the network's numbers with them.

They stand where an integer runtime needs them in order to leave no float operation between two integer ones (measured
on onnxruntime): after the input, every ReLU, every convolution, linear layer or addition that does not go straight into
a ReLU, every other operation that makes new values. Operations that only move values (max-pooling, flatten) get the
quantizer of their input once more, which changes nothing. There is none after the last layer.
"""

import operator
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from slimfer.errors import InputError
from slimfer.model.fold import fold
from slimfer.model.groups import CAT_FUNCTIONS, JOIN_FUNCTIONS, JOIN_METHODS, RESHAPE_FUNCTIONS, RESHAPE_METHODS
from slimfer.model.quant import (
    ACTIVATION_RULES,
    WEIGHT_RULES,
    ActivationQuantizer,
    QuantConv2d,
    QuantizedWeight,
    QuantLinear,
)
from slimfer.preprocess import SCALE, ZERO_POINT

# Additions take a ReLU in.
ADDS = (operator.add, operator.iadd, torch.add, "add", "add_")
# Functions that make new values, and functions that only arrange them anew (in a folded graph all others are sizes).
MAKES_VALUES = (
    *JOIN_FUNCTIONS,
    *(method for method in JOIN_METHODS if method != "expand_as"),
    *CAT_FUNCTIONS,
    operator.neg,
)
RESHAPES = (*RESHAPE_FUNCTIONS, *RESHAPE_METHODS, torch.squeeze, torch.unsqueeze, "squeeze", "unsqueeze")

# Layers whose outputs are values of their input, or 0, which is exact.
MOVES = (nn.MaxPool2d, nn.AdaptiveMaxPool2d, nn.Flatten, nn.ZeroPad2d)


@dataclass(frozen=True)
class QuantLayer:
    """One call of a quantized layer: its node's name, the layer's, the layer, and the quantizer of its input."""

    name: str
    target: str
    module: QuantConv2d | QuantLinear
    source: ActivationQuantizer


def place(net: nn.Module) -> fx.GraphModule:
    """Fold `net` and put quantizers of 8 bits into it; their scales are NaN until they are calibrated.

    Args:
        net: changed in place; takes normalized pixels.

    Raises:
        InputError: if the network cannot be traced, or has a layer with weights that has no integer form.
    """
    graph = fold(net)
    for name, module in list(graph.named_modules()):
        if isinstance(module, nn.Conv2d):
            graph.add_submodule(name, QuantConv2d.of(module))
        elif isinstance(module, nn.Linear):
            graph.add_submodule(name, QuantLinear.of(module))
        elif any(True for _ in module.parameters(recurse=False)) and not isinstance(module, nn.PReLU):
            raise InputError(f"cannot quantize layer {name}: {type(module).__name__} has no integer form here")
    for node in list(graph.graph.nodes):
        if node.op == "placeholder":
            pixels = ActivationQuantizer()
            pixels.set(SCALE, ZERO_POINT)
            _insert(graph, node, pixels)
        elif _makes_values(graph, node) and not _fuses(graph, node) and not _is_last(node):
            _insert(graph, node, ActivationQuantizer())
        elif _moves(graph, node) and not _is_last(node):
            source = node.args[0]
            if _is_module(graph, source, ActivationQuantizer):
                _insert(graph, node, str(source.target))
    graph.recompile()
    return graph.eval()


def load_quantized(net: nn.Module, weights: Mapping[str, Tensor], quant: Mapping[str, Tensor]) -> fx.GraphModule:
    """Return the quantized form of a freshly built network with the numbers of a checkpoint.

    Raises:
        RuntimeError: if the numbers do not fit, as `load_state_dict` does.
    """
    graph = place(net)
    # Checkpoints from before activations had a choice of bits do not name them.
    bits = {name: tensor for name, tensor in graph.state_dict().items() if name.endswith(".activation_bits")}
    for name, code in quant.items():
        layer, _, kind = name.rpartition(".")
        if kind == "rule":
            module = graph.get_submodule(layer)
            if isinstance(module, ActivationQuantizer):
                module.learn(ACTIVATION_RULES[int(code)])
            elif isinstance(module, QuantizedWeight):
                module.learn(WEIGHT_RULES[int(code)])
    graph.load_state_dict({**bits, **weights, **quant})
    if learns(quant):
        _lighten(graph)
    found = list(quant_layers(graph))
    calls = Counter(one.target for one in found)
    for one in found:
        if calls[one.target] == 1:
            one.module.reads(one.source)
    return graph


def learns(quant: Mapping[str, Tensor]) -> bool:
    """Return whether these numbers of quantizers are of a network that learns while it rounds."""
    return any(name.endswith(".rule") for name in quant)


def _lighten(graph: fx.GraphModule) -> None:
    """Take out of a network that learns what changes none of its answers.

    A ReLU whose only reader is a quantizer that clips at 0 itself costs a seventh of a training step. A quantizer that
    is applied once more behind max-pooling would stop the gradients of all values on the edge of its range.
    """
    for node in list(graph.graph.nodes):
        if not _is_module(graph, node, ActivationQuantizer):
            continue
        source, quantizer = node.args[0], graph.get_submodule(node.target)
        if _moves(graph, source):
            node.replace_all_uses_with(source)
            graph.graph.erase_node(node)
        elif _is_module(graph, source, nn.ReLU) and quantizer.zero_point == 0 and len(source.users) == 1:
            node.args = source.args
            graph.graph.erase_node(source)
    graph.recompile()


def split_state(net: nn.Module) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return (weights, numbers of the quantizers) of any network, copied to the CPU in plain layout."""
    numbers = {
        f"{name}.{number}"
        for name, module in net.named_modules()
        if isinstance(module, (ActivationQuantizer, QuantizedWeight))
        for number, _ in (*module.named_buffers(recurse=False), *module.named_parameters(recurse=False))
        if number not in ("weight", "bias")
    }
    state = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in net.state_dict().items()}
    weights = {name: tensor for name, tensor in state.items() if name not in numbers}
    return weights, {name: state[name] for name in state if name in numbers}


def quant_layers(graph: fx.GraphModule) -> Iterator[QuantLayer]:
    """Yield the calls of quantized layers in the order of execution.

    Raises:
        InputError: if a layer reads a value that has no quantizer.
    """
    for node in graph.graph.nodes:
        if _is_module(graph, node, (QuantConv2d, QuantLinear)):
            source = node.args[0]
            while _moves(graph, source):
                source = source.args[0]
            if not _is_module(graph, source, ActivationQuantizer):
                raise InputError(f"layer {node.target} reads {source}, which cannot be quantized")
            layer, quantizer = graph.get_submodule(node.target), graph.get_submodule(str(source.target))
            yield QuantLayer(node.name, str(node.target), layer, quantizer)  # type: ignore[arg-type]


def _insert(graph: fx.GraphModule, node: fx.Node, quantizer: ActivationQuantizer | str) -> None:
    """Put a quantizer, new or (by its name) one that is there already, between `node` and its users."""
    target = quantizer if isinstance(quantizer, str) else f"quantizers.{node.name}"
    if not isinstance(quantizer, str):
        graph.add_submodule(target, quantizer)
    with graph.graph.inserting_after(node):
        added = graph.graph.call_module(target)
    node.replace_all_uses_with(added)
    added.args = (node,)


def _is_module(graph: fx.GraphModule, node: object, kinds: type[nn.Module] | tuple[type[nn.Module], ...]) -> bool:
    return (
        isinstance(node, fx.Node)
        and node.op == "call_module"
        and isinstance(graph.get_submodule(str(node.target)), kinds)
    )


def _moves(graph: fx.GraphModule, node: fx.Node) -> bool:
    """Return whether the values of `node` are values of its input."""
    return _is_module(graph, node, MOVES) or (isinstance(node, fx.Node) and node.target in RESHAPES)


def _makes_values(graph: fx.GraphModule, node: fx.Node) -> bool:
    if node.op == "call_module":
        return not _is_module(graph, node, (*MOVES, ActivationQuantizer))
    return node.op in ("call_function", "call_method") and node.target in MAKES_VALUES


def _fuses(graph: fx.GraphModule, node: fx.Node) -> bool:
    """Return whether the value goes into a ReLU and nowhere else, from an operation that takes the ReLU in."""
    users = list(node.users)
    takes = _is_module(graph, node, (QuantConv2d, QuantLinear)) or node.target in ADDS
    return takes and len(users) == 1 and _is_module(graph, users[0], nn.ReLU)


def _is_last(node: fx.Node) -> bool:
    return all(user.op == "output" for user in node.users)
