"""Filter pruning by other scores than BN scales: the controls that slimming has to beat at the same parameter count.

One global threshold over all layers needs scores that can be compared between layers. Norms and distances grow with
fan-in, so each layer's are divided by their mean (Li et al. and He et al. choose every layer's ratio by hand instead);
Taylor scores estimate one loss and are left as they are. Of a channel that several layers share (a residual stream),
norms and distances are averaged and Taylor terms summed.

Shapes: O filters of a layer, D weights per filter.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, replace

import numpy as np
import torch
from torch import Tensor, nn

from slimfer.compress.config import Criterion, PruneConfig
from slimfer.compress.surgery import (
    Scores,
    channels_of,
    choose,
    choose_for_params,
    count_params,
    cut,
    cut_quantized,
    recalibrate,
)
from slimfer.data.frames import Frames
from slimfer.errors import InputError
from slimfer.model.groups import ChannelMap
from slimfer.model.mode import evaluating
from slimfer.model.zoo import build
from slimfer.train.augment import step_generator, to_input
from slimfer.train.checkpoint import Checkpoint
from slimfer.train.objective import cross_entropy


def l1_norms(filters: Tensor) -> Tensor:
    """Return (O,) sums of magnitudes of (O, D) filters (Li et al. 2017, arXiv 1608.08710)."""
    return filters.abs().sum(1)


def l2_norms(filters: Tensor) -> Tensor:
    """Return (O,) Euclidean norms of (O, D) filters."""
    return filters.norm(dim=1)


def median_distances(filters: Tensor) -> Tensor:
    """Return, for each of (O, D) filters, the sum of its Euclidean distances to all filters of the layer.

    The filter with the smallest sum is nearest to the layer's geometric median, so the others can best stand in for it
    (FPGM; He et al. 2019, arXiv 1811.00250).
    """
    return torch.cdist(filters[None], filters[None])[0].sum(1)


def filter_scores(channels: ChannelMap, rule: Callable[[Tensor], Tensor]) -> Scores:
    """Return `rule` of each layer's filters, divided by the layer's mean."""
    per_layer: dict[str, Tensor] = {}
    for layer in channels.producers():
        values = rule(layer.module.weight.detach().flatten(1))  # type: ignore[operator]
        per_layer[layer.name] = values / values.mean().clamp(min=1e-12)
    return Scores.collect(channels, per_layer, "mean")


def random_scores(channels: ChannelMap, seed: int = 0) -> Scores:
    """Return a uniform random score per channel."""
    plain = filter_scores(channels, l1_norms)
    values = np.random.default_rng(seed).random(len(plain.atoms))
    return Scores(plain.atoms, values, plain.weights)


def taylor_scores(
    channels: ChannelMap, frames: Frames, *, images: int = 1024, batch_size: int = 64, seed: int = 0
) -> Scores:
    """Return how much the loss would change without each channel, to first order.

    I = mean over batches of (sum over s of g_s w_s)^2, with g_s the gradient of the cross-entropy (Molchanov et al.
    2019, arXiv 1906.10771, the form for groups of weights). The w_s are what scales the channel: gamma and beta of its
    batch normalizations, and of layers without one the filter and its bias. So the sum is the gradient of a gate on the
    channel; filters before a batch normalization, which takes their scale away, are no part of it.

    Args:
        channels: of the network, which is looked at in evaluation mode and left as it was.
        frames: training pictures.
        images: pictures that are looked at, drawn without repeats (at most all).
        batch_size: pictures per batch.
        seed: of the draw.
    """
    normed = {int(atom) for layer in channels.norms() for atom in layer.outputs}
    bare = [layer for layer in channels.producers() if not normed.issuperset(layer.outputs.tolist())]
    layers, net = (*channels.norms(), *bare), channels.graph
    order = torch.randperm(len(frames), generator=step_generator(seed, 0)).numpy()[:images]
    squares = []
    with evaluating(net):
        for start in range(0, len(order), batch_size):
            batch = frames.take(np.sort(order[start : start + batch_size]))
            net.zero_grad()
            x = to_input(torch.from_numpy(np.ascontiguousarray(batch.images)))
            cross_entropy(net(x), torch.from_numpy(batch.targets())).backward()  # type: ignore[no-untyped-call]
            terms = {layer.name: _gate_gradients(layer.module) for layer in layers}
            squares.append(Scores.collect(channels, terms, "sum").values ** 2)
    net.zero_grad()
    plain = filter_scores(channels, l1_norms)
    return Scores(plain.atoms, np.mean(squares, axis=0), plain.weights)


def _gate_gradients(module: nn.Module) -> Tensor:
    """Return (O,) sums of gradient times weight over everything that scales each output channel of a layer."""
    total = torch.zeros(())
    for parameter in (module.weight, module.bias):
        if isinstance(parameter, Tensor) and parameter.grad is not None:
            total = total + (parameter.detach() * parameter.grad).reshape(len(parameter), -1).sum(1)
    return total


# How each criterion scores the channels; the lowest go.
CRITERIA: Mapping[Criterion, Callable[[ChannelMap, Frames, PruneConfig, int], Scores]] = {
    "l1": lambda channels, frames, config, seed: filter_scores(channels, l1_norms),
    "l2": lambda channels, frames, config, seed: filter_scores(channels, l2_norms),
    "fpgm": lambda channels, frames, config, seed: filter_scores(channels, median_distances),
    "taylor": lambda channels, frames, config, seed: taylor_scores(channels, frames, images=config.images, seed=seed),
    "random": lambda channels, frames, config, seed: random_scores(channels, seed),
}


def prune(checkpoint: Checkpoint, frames: Frames, config: PruneConfig | None = None, *, seed: int = 0) -> Checkpoint:
    """Cut channels by a criterion, to a share of channels or to a parameter count, in one pass.

    Args:
        checkpoint: the network.
        frames: training pictures, for BN recalibration and the criterion that looks at some.
        config: the criterion and how much goes.
        seed: of the random criterion and of the choice of pictures.

    Raises:
        InputError: if the network has no channels that could be cut, or they cannot be followed, or the criterion
            needs gradients and the network is quantized.
    """
    config = config or PruneConfig()
    if checkpoint.quant and config.criterion == "taylor":
        raise InputError("taylor needs a float network; a quantized one can be cut by l1, l2, fpgm or random")
    net = _float_form(checkpoint) if checkpoint.quant else checkpoint.build()
    channels = channels_of(checkpoint, net)
    if not len(channels.free_atoms()):
        raise InputError(f"network {checkpoint.spec.builder} has no channels that could be cut")
    scores = CRITERIA[config.criterion](channels, frames, config, seed)
    if config.params:
        removed = choose_for_params(channels, scores, config.params, config.limits)
    else:
        removed = choose(channels, scores, config.ratio, config.limits)
    record = {
        "config": asdict(config),
        "cut": scores.share(removed),
        "params": [count_params(channels), count_params(channels, removed)],
    }
    if checkpoint.quant:
        narrow = cut_quantized(checkpoint, channels, removed)
        return replace(narrow, lineage=(*checkpoint.lineage, {"step": "prune", **record}))
    with torch.no_grad():
        spec = cut(checkpoint, net, channels, removed)
    recalibrate(net, frames, batches=config.recalibrate, seed=seed)
    return checkpoint.after("prune", net, spec=spec, **record)


def _float_form(checkpoint: Checkpoint) -> nn.Module:
    """Return the network before folding, with the filters of the quantized one: enough to find and score channels."""
    net = build(checkpoint.spec)
    with torch.no_grad():
        for name, module in net.named_modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                module.weight.copy_(checkpoint.weights[f"{name}.weight"])
    return net.eval()
