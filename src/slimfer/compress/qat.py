"""Quantization-aware training: a quantized network goes on learning while it rounds.

Training computes with rounded weights and activations; gradients pass the rounding as `slimfer.model.rounding` says.
The network is that of static quantization: batch normalization is folded, quantizers stand in the same places, and the
training starts from the integers that calibration gave. Three rules for weights, three for activations:

* `ste`: scales of weights follow the largest weight of their channel, ranges of activations stay as calibrated; the
  gradient passes straight through (Jacob et al. 2018, arXiv 1712.05877, section 3).
* `lsq`: scales are learned (Esser et al. 2020, arXiv 1902.08153).
* `dorefa`: weights go through tanh and fill their range (Zhou et al. 2016, arXiv 1606.06160).
* `pact`: the bound at which activations are clipped is learned (Choi et al. 2018, arXiv 1805.06085).

Departures from the papers: zero points stay as calibrated, and so do signs: also tensors that have negative values have
one learned scale. `ste` keeps each scale's share of the largest weight's, which for few bits is less than 1. `dorefa`
has a grid that is symmetric and has a zero, its range per channel is that of calibration (there is no batch
normalization behind it), and its weights are rescaled so that training starts from the integers of calibration. `pact`
has no decay of its bounds, so it learns from values outside of them alone: calibrate with `percentile` or `mse`.
"""

from dataclasses import asdict, replace

from torch import fx

from slimfer.compress.config import QatConfig
from slimfer.errors import InputError
from slimfer.model.placing import learns, quant_layers, split_state
from slimfer.model.quant import ActivationQuantizer
from slimfer.train.checkpoint import Checkpoint


def prepare_qat(checkpoint: Checkpoint, config: QatConfig) -> Checkpoint:
    """Return a quantized checkpoint whose network learns as `config` says; its answers are the same.

    Raises:
        InputError: if the network is not quantized, or prepared already.
    """
    graph = _graph(checkpoint)
    if learns(checkpoint.quant):
        raise InputError("the network is prepared for quantization-aware training already")
    layers = list(quant_layers(graph))
    for layer in {layer.target: layer for layer in layers}.values():
        layer.module.learn(config.weights)
    for module in graph.modules():
        if isinstance(module, ActivationQuantizer) and module is not layers[0].source:
            module.learn("fixed" if config.activations == "ste" else config.activations)
    rules = {name: value for name, value in asdict(config).items() if name != "train"}
    return checkpoint.after("prepare-qat", graph, **rules)


def finish_qat(checkpoint: Checkpoint) -> Checkpoint:
    """Return the trained checkpoint with plain frozen numbers, ready for export; its answers are the same.

    Only biases move, by half a step of their integers at most.

    Raises:
        InputError: if the network is not prepared for quantization-aware training.
    """
    graph = _graph(checkpoint)
    if not learns(checkpoint.quant):
        raise InputError("the network is not prepared for quantization-aware training")
    for module in graph.modules():
        if isinstance(module, ActivationQuantizer):
            module.settle()
    for layer in quant_layers(graph):
        layer.module.settle(float(layer.source.scale))
    weights, quant = split_state(graph)
    return replace(checkpoint, weights=weights, quant=quant)


def _graph(checkpoint: Checkpoint) -> fx.GraphModule:
    if not checkpoint.quant:
        raise InputError("quantization-aware training starts from a quantized network; first: slimfer quantize")
    graph = checkpoint.build()
    assert isinstance(graph, fx.GraphModule)
    return graph
