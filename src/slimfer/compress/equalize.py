"""Cross-layer equalization (Nagel et al. 2019, arXiv 1906.04721, section 4.1).

Between two layers with nothing but a ReLU in between, channel i may be divided by any s_i > 0 in the first (weights and
bias) and multiplied by it in the second: the function stays, because `relu(s x) = s relu(x)`. With r1_i and r2_i, the
largest absolute weights of channel i in both, `s_i = sqrt(r1_i / r2_i)` makes them equal (equation 11), so that one
scale per tensor fits all channels. Pairs that share a layer are gone through until nothing changes.

Departures from the paper: poolings that commute with scaling may stand in between as well, and a flattening into a
linear layer. High biases are not absorbed: here ranges are calibrated on pictures, biases are int32. With one scale per
output channel, as here, the first layer of a pair gains nothing; what gains is its output, which has one scale, and the
second layer, whose output channels each mix all its inputs.
"""

import torch
from torch import Tensor, fx, nn

from slimfer.model.quant import ActivationQuantizer

ROUNDS = 20
# Layers for which f(s x) = s f(x) for positive s, per channel. Quantizers have no range yet and do nothing.
HOMOGENEOUS = (
    nn.ReLU, nn.LeakyReLU, nn.PReLU, nn.ZeroPad2d, nn.Flatten,
    nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, ActivationQuantizer,
)  # fmt: skip


@torch.no_grad()
def equalize(graph: fx.GraphModule) -> list[tuple[str, str]]:
    """Even out the channels between the layers of a folded network, in place; what it computes stays.

    Args:
        graph: folded (see `slimfer.model.fold.fold`), with or without quantizers that have no range yet.

    Returns:
        The names of the layers of each pair.
    """
    pairs = _pairs(graph)
    for _ in range(ROUNDS):
        factors = [_equalize_pair(graph.get_submodule(first), graph.get_submodule(second)) for first, second in pairs]
        if max((float(s.log().abs().max()) for s in factors), default=0.0) < 1e-3:
            break
    return pairs


def _equalize_pair(first: nn.Module, second: nn.Module) -> Tensor:
    """Return the factors s (channels,) that were taken out of `first` and put into `second`."""
    assert isinstance(first, (nn.Conv2d, nn.Linear))
    assert isinstance(second, (nn.Conv2d, nn.Linear))
    channels = len(first.weight)
    r1, r2 = first.weight.abs().flatten(1).amax(1), _by_input(second, channels).abs().amax((0, 2))
    s = torch.where((r1 > 0) & (r2 > 0), (r1 / r2).sqrt(), 1.0)
    first.weight /= s.view(-1, *(1,) * (first.weight.dim() - 1))
    if first.bias is not None:
        first.bias /= s
    _by_input(second, channels).mul_(s.view(1, -1, 1))
    return s


def _by_input(layer: nn.Conv2d | nn.Linear, channels: int) -> Tensor:
    """Return the weight as a view (outputs, input channels, rest)."""
    if isinstance(layer, nn.Conv2d) and layer.groups > 1:  # depthwise: each channel is its own group
        return layer.weight.view(1, channels, -1)
    return layer.weight.view(len(layer.weight), channels, -1)


def _pairs(graph: fx.GraphModule) -> list[tuple[str, str]]:
    """Return the pairs of layers that may exchange factors; layers that are called more than once are in none."""
    calls = [str(node.target) for node in graph.graph.nodes if node.op == "call_module"]
    found = []
    for node in graph.graph.nodes:
        if not _is_layer(graph, node) or calls.count(str(node.target)) > 1:
            continue
        reader = node
        while len(reader.users) == 1:
            reader = next(iter(reader.users))
            if not (reader.op == "call_module" and isinstance(graph.get_submodule(str(reader.target)), HOMOGENEOUS)):
                break
        if _is_layer(graph, reader) and reader is not node and calls.count(str(reader.target)) == 1:
            # An input of a grouped convolution is read by some outputs only; of a depthwise one, by its own alone.
            second = graph.get_submodule(str(reader.target))
            if not isinstance(second, nn.Conv2d) or second.groups in (1, second.in_channels):
                found.append((str(node.target), str(reader.target)))
    return found


def _is_layer(graph: fx.GraphModule, node: fx.Node) -> bool:
    return node.op == "call_module" and isinstance(graph.get_submodule(str(node.target)), (nn.Conv2d, nn.Linear))
