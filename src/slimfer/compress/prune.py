"""Filter pruning by other scores than BN scales: the controls that slimming has to beat at the same parameter count."""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from slimfer.compress.config import Limits
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
from slimfer.errors import InputError
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


def prune(
    checkpoint: Checkpoint,
    frames: Frames,
    *,
    criterion: str = "l1",
    ratio: float | None = None,
    params: int | None = None,
    limits: Limits | None = None,
    recalibrate_batches: int = 40,
    seed: int = 0,
) -> Checkpoint:
    """Cut channels by `criterion`, to a share of channels or to a parameter count.

    Args:
        checkpoint: the network.
        frames: training pictures for BN recalibration.
        criterion: a key of `CRITERIA`.
        ratio: share of layer channels to cut, in [0, 1).
        params: number of parameters to come as close to as possible; exactly one of `ratio` and `params` is given.
        limits: what the choice must respect.
        recalibrate_batches: batches for new BN statistics.
        seed: of the random criterion.

    Raises:
        InputError: if the criterion is unknown, or not exactly one of ratio and params is given.
    """
    if criterion not in CRITERIA:
        raise InputError(f"unknown criterion {criterion!r}; choose one of {', '.join(CRITERIA)}")
    if (ratio is None) == (params is None):
        raise InputError("give either a ratio or a number of parameters to prune to")
    limits = limits or Limits()
    net = checkpoint.build()
    channels = channels_of(checkpoint, net)
    with torch.no_grad():
        scores = CRITERIA[criterion](channels, seed)
    if params is not None:
        removed = choose_for_params(channels, scores, params, limits)
    else:
        assert ratio is not None
        removed = choose(channels, scores, ratio, limits)
    counts = [count_params(channels), count_params(channels, removed)]
    spec = cut(checkpoint, net, channels, removed)
    recalibrate(net, frames, batches=recalibrate_batches, seed=seed)
    return checkpoint.after("prune", net, spec=spec, criterion=criterion, params=counts)
