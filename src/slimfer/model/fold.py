"""The network as it is computed: functions become layers, batch normalization becomes part of convolutions.

Quantization and export both start here, so that neither has to know how a network spells its operations.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from slimfer.errors import InputError
from slimfer.model.groups import trace

# Functions and methods that have a layer of the same meaning and the same arguments.
LAYERS: Mapping[Any, Callable[..., nn.Module]] = {
    F.relu: nn.ReLU, torch.relu: nn.ReLU, torch.relu_: nn.ReLU, "relu": nn.ReLU, "relu_": nn.ReLU,
    F.relu6: nn.ReLU6, F.leaky_relu: nn.LeakyReLU, F.elu: nn.ELU, F.silu: nn.SiLU, F.gelu: nn.GELU,
    F.hardswish: nn.Hardswish, F.hardsigmoid: nn.Hardsigmoid, F.hardtanh: nn.Hardtanh,
    F.sigmoid: nn.Sigmoid, torch.sigmoid: nn.Sigmoid, "sigmoid": nn.Sigmoid,
    F.tanh: nn.Tanh, torch.tanh: nn.Tanh, "tanh": nn.Tanh,
    F.max_pool2d: nn.MaxPool2d, torch.max_pool2d: nn.MaxPool2d, F.avg_pool2d: nn.AvgPool2d,
    F.adaptive_avg_pool2d: nn.AdaptiveAvgPool2d, F.adaptive_max_pool2d: nn.AdaptiveMaxPool2d,
}  # fmt: skip
CLAMPS = (torch.clamp, "clamp")
POOLS: Mapping[Any, Callable[..., nn.Module]] = {
    torch.mean: nn.AdaptiveAvgPool2d, "mean": nn.AdaptiveAvgPool2d,
    torch.amax: nn.AdaptiveMaxPool2d, "amax": nn.AdaptiveMaxPool2d,
}  # fmt: skip
FLATTENS = (torch.flatten, "flatten")
VIEWS = (torch.reshape, "view", "reshape")

# What does nothing once training is over.
NOTHING_MODULES = (nn.Identity, nn.Dropout, nn.Dropout2d)
NOTHING_FUNCTIONS = (F.dropout, F.dropout2d, torch.clone, "contiguous", "clone", "float")


def fold(net: nn.Module) -> fx.GraphModule:
    """Return `net` in evaluation as a graph of layers, additions and the like, without batch normalization.

    The layers keep their names. A batch normalization is folded into the convolution before it where that convolution
    feeds nothing else; otherwise it becomes a depthwise 1x1 convolution, which computes the same. `net` is changed: its
    convolutions are shared with the result or replaced.

    Raises:
        InputError: if torch.fx cannot follow the network.
    """
    graph = trace(net.eval()).eval()
    for node in list(graph.graph.nodes):
        _to_layer(graph, node)
    for node in list(graph.graph.nodes):
        if node.op == "call_module" and isinstance(graph.get_submodule(node.target), nn.BatchNorm2d):
            _fold_norm(graph, node)
    graph.graph.eliminate_dead_code()
    graph.delete_all_unused_submodules()
    graph.recompile()
    return graph


def layer_calls(graph: fx.GraphModule) -> Iterator[fx.Node]:
    """Yield the calls of convolutions and linear layers of a folded network, in the order of execution."""
    for node in graph.graph.nodes:
        if node.op == "call_module" and isinstance(graph.get_submodule(str(node.target)), (nn.Conv2d, nn.Linear)):
            yield node


def _to_layer(graph: fx.GraphModule, node: fx.Node) -> None:
    """Replace a function by its layer; drop what does nothing."""
    if node.op == "call_module":
        if isinstance(graph.get_submodule(str(node.target)), NOTHING_MODULES):
            _drop(node)
        return
    if node.op not in ("call_function", "call_method"):
        return
    arguments: Any = node.args[1:]
    if node.target in NOTHING_FUNCTIONS:
        _drop(node)
    elif node.target in LAYERS:
        _replace(graph, node, LAYERS[node.target](*arguments, **node.kwargs))
    elif node.target in CLAMPS:
        _replace(graph, node, _clamp(*arguments, **node.kwargs))
    elif node.target in POOLS and _over_pixels(*arguments, **node.kwargs):
        pool = POOLS[node.target](1)
        _replace(graph, node, pool, *([] if node.kwargs.get("keepdim") or True in arguments else [nn.Flatten()]))
    elif _flattens(node):
        _replace(graph, node, nn.Flatten())


def _drop(node: fx.Node) -> None:
    node.replace_all_uses_with(node.all_input_nodes[0])
    node.graph.erase_node(node)


def _replace(graph: fx.GraphModule, node: fx.Node, *layers: nn.Module) -> None:
    value = node.args[0]
    with graph.graph.inserting_before(node):
        for index, layer in enumerate(layers):
            name = f"{node.name}_{index}" if index else node.name
            target = f"functions.{name}"
            graph.add_submodule(target, layer.eval())
            value = graph.graph.create_node("call_module", target, (value,), name=name)
    assert isinstance(value, fx.Node)
    node.replace_all_uses_with(value)
    graph.graph.erase_node(node)


def _clamp(low: Any = None, high: Any = None, **named: Any) -> nn.Module:
    low, high = named.get("min", low), named.get("max", high)
    if low is None or high is None:
        raise InputError("clamp with only one bound is not supported; use relu or give both bounds")
    return nn.Hardtanh(low, high)


def _over_pixels(dim: Any = None, keepdim: Any = False) -> bool:
    return isinstance(dim, Sequence) and tuple(dim) in ((2, 3), (-2, -1))


def _flattens(node: fx.Node) -> bool:
    """Return whether `node` reshapes (N, ...) to (N, features); a wrong number of features fails at the next layer."""
    arguments: Any = node.args[1:]
    if node.target in VIEWS:
        shape = arguments[0] if len(arguments) == 1 and isinstance(arguments[0], Sequence) else arguments
        return len(shape) == 2
    return node.target in FLATTENS and (arguments == (1,) or node.kwargs == {"start_dim": 1})


def _fold_norm(graph: fx.GraphModule, node: fx.Node) -> None:
    norm = graph.get_submodule(str(node.target))
    assert isinstance(norm, nn.BatchNorm2d)
    before = node.all_input_nodes[0]
    source = graph.get_submodule(str(before.target)) if before.op == "call_module" else None
    shared = [n for n in graph.graph.nodes if n.op == "call_module" and n.target == before.target]
    if isinstance(source, nn.Conv2d) and len(before.users) == 1 and len(shared) == 1:
        graph.add_submodule(str(before.target), fuse_conv_bn_eval(source, norm))
        node.replace_all_uses_with(before)
        graph.graph.erase_node(node)
    else:
        graph.add_submodule(str(node.target), _as_convolution(norm))


def _as_convolution(norm: nn.BatchNorm2d) -> nn.Conv2d:
    channels = norm.num_features
    conv = nn.Conv2d(channels, channels, 1, groups=channels, bias=False, device="meta")
    conv.weight = nn.Parameter(norm.weight.new_ones(channels, 1, 1, 1))
    return fuse_conv_bn_eval(conv.eval(), norm)
