"""Network slimming (Liu et al., ICCV 2017, arXiv 1708.06519).

Train with an L1 penalty on all BN scales, cut the channels whose |gamma| is below one global threshold, fine-tune.
"""

from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import nn

from slimfer.compress.config import SlimConfig
from slimfer.compress.surgery import Scores, channels_of, choose, count_params, cut, recalibrate
from slimfer.data.frames import Frames
from slimfer.errors import InputError
from slimfer.model.groups import ChannelMap
from slimfer.train.checkpoint import Checkpoint
from slimfer.train.loop import Hook

# All BN scales start here (section 4.2), so that the penalty has less way to go.
INITIAL_GAMMA = 0.5


class SlimmingPenalty(Hook):
    """Add lambda * sign(gamma) to the gradient of every BN scale: the sub-gradient of lambda * sum |gamma| (eq. 1)."""

    def __init__(self, penalty: float) -> None:
        """Take lambda, e.g. 1e-4; the paper uses 1e-4 for VGG and 1e-5 for ResNet at 80k-120k steps."""
        if not 0 <= penalty < 1:
            raise InputError(f"penalty must be at least 0 and below 1, not {penalty}")
        self.penalty = penalty

    def after_backward(self, net: nn.Module, progress: float) -> None:
        """Add the sub-gradient; sign(0) = 0, so a scale that reached 0 is not pushed."""
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d) and module.weight.grad is not None:
                module.weight.grad.add_(torch.sign(module.weight.detach()), alpha=self.penalty)


def gamma_scores(channels: ChannelMap, reduce: str = "max") -> Scores:
    """Return |gamma| of every channel that has a BN scale (raw, not normalized per layer)."""
    per_layer = {layer.name: layer.module.weight.detach().abs() for layer in channels.norms()}  # type: ignore[operator]
    return Scores.collect(channels, per_layer, reduce)


def scale_distribution(channels: ChannelMap, bins: int = 40) -> dict[str, Any]:
    """Return how |gamma| is spread in each batch normalization, as JSON values.

    Keys: `edges`, bins + 1 numbers from 0 to the largest |gamma| of the network, and `layers`, rows with `name`,
    `channels`, `quantiles` (`0`, `5`, `25`, `50`, `75`, `95`, `100` percent) and `counts` (channels in each bin).
    """
    scales = {layer.name: layer.module.weight.detach().abs().numpy() for layer in channels.norms()}  # type: ignore[operator]
    edges = np.linspace(0, max((values.max() for values in scales.values()), default=1.0) or 1.0, bins + 1)
    percents = (0, 5, 25, 50, 75, 95, 100)
    rows = [
        {
            "name": name,
            "channels": len(values),
            "quantiles": dict(zip(map(str, percents), np.percentile(values, percents).tolist(), strict=True)),
            "counts": np.histogram(values, edges)[0].tolist(),
        }
        for name, values in scales.items()
    ]
    return {"edges": edges.tolist(), "layers": rows}


def slim(checkpoint: Checkpoint, config: SlimConfig, frames: Frames) -> Checkpoint:
    """Cut channels by their BN scales and return the narrower network, not yet fine-tuned.

    Args:
        checkpoint: a network, best trained with `SlimmingPenalty`.
        config: ratio and limits.
        frames: training pictures for BN recalibration.

    Raises:
        InputError: if the network has no BN scale to go by, or a value is out of range.
    """
    net = checkpoint.build()
    channels = channels_of(checkpoint, net)
    scores = gamma_scores(channels, config.reduce)
    if not len(scores.atoms):
        raise InputError(f"network {checkpoint.spec.builder} has no batch normalization to slim by")
    removed = choose(channels, scores, config.ratio, config.limits)
    record = {
        "config": asdict(config),
        "cut": scores.share(removed),
        "params": [count_params(channels), count_params(channels, removed)],
    }
    spec = cut(checkpoint, net, channels, removed, fold=config.fold)
    recalibrate(net, frames, batches=config.recalibrate)
    return checkpoint.after("slim", net, spec=spec, **record)
