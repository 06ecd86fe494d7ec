"""Filter pruning by other scores than BN scales: the controls that slimming has to beat at the same parameter count."""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from slimfer.compress.config import PruneConfig
from slimfer.compress.surgery import (
    Scores,
    channels_of,
    choose,
    choose_for_params,
    count_params,
    cut,
    recalibrate,
)
from slimfer.data.frames import Frames
from slimfer.model.groups import ChannelMap
from slimfer.train.checkpoint import Checkpoint


def l1_scores(channels: ChannelMap, seed: int = 0) -> Scores:
    """Return the L1 norm of each filter (Li et al. 2016, arXiv 1608.08710), divided by its layer's mean.

    Raw norms depend on fan-in, so a global threshold needs a scale per layer; Li et al. choose each layer's ratio by
    hand instead.
    """
    per_layer: dict[str, Tensor] = {}
    for layer in channels.producers():
        norms = layer.module.weight.detach().abs().flatten(1).sum(1)  # type: ignore[operator]
        per_layer[layer.name] = norms / norms.mean().clamp(min=1e-12)
    return Scores.collect(channels, per_layer, "mean")


def random_scores(channels: ChannelMap, seed: int = 0) -> Scores:
    """Return a uniform random score per channel."""
    plain = l1_scores(channels)
    values = np.random.default_rng(seed).random(len(plain.atoms))
    return Scores(plain.atoms, values, plain.weights)


CRITERIA: Mapping[str, Callable[[ChannelMap, int], Scores]] = {"l1": l1_scores, "random": random_scores}


def prune(checkpoint: Checkpoint, frames: Frames, config: PruneConfig | None = None, *, seed: int = 0) -> Checkpoint:
    """Cut channels by a criterion, to a share of channels or to a parameter count.

    Args:
        checkpoint: the network.
        frames: training pictures for BN recalibration.
        config: the criterion and how much goes.
        seed: of the random criterion and of the choice of pictures.
    """
    config = config or PruneConfig()
    net = checkpoint.build()
    channels = channels_of(checkpoint, net)
    with torch.no_grad():
        scores = CRITERIA[config.criterion](channels, seed)
    if config.params:
        removed = choose_for_params(channels, scores, config.params, config.limits)
    else:
        removed = choose(channels, scores, config.ratio, config.limits)
    counts = [count_params(channels), count_params(channels, removed)]
    spec = cut(checkpoint, net, channels, removed)
    recalibrate(net, frames, batches=config.recalibrate, seed=seed)
    return checkpoint.after("prune", net, spec=spec, criterion=config.criterion, params=counts)
