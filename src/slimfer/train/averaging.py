"""A moving average of the weights, which is judged and kept instead of the weights themselves."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class WeightAverage:
    """Exponential moving average of all floating-point weights and BN statistics of a network.

    After update t: `average += (1 - d_t) * (weights - average)` with `d_t = min(decay, (1 + t) / (10 + t))`, so that
    the random start is soon forgotten (the warm-up of Tan and Le 2019). BN's counts of batches stay as they were.
    """

    def __init__(self, net: nn.Module, decay: float) -> None:
        """Start from the weights of `net`; `decay` in [0, 1), 0 switches the average off."""
        self.decay = decay
        self.updates = 0
        self.tensors = {name: tensor.detach().clone() for name, tensor in net.state_dict().items()}

    @torch.no_grad()
    def update(self, net: nn.Module) -> None:
        """Take in the weights of `net` after one step."""
        self.updates += 1
        if not self.decay:
            return
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        state = net.state_dict()
        names = [name for name, tensor in state.items() if tensor.is_floating_point()]
        torch._foreach_lerp_([self.tensors[name] for name in names], [state[name] for name in names], 1 - decay)

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Put back saved values, in the memory layout they had (arithmetic on another layout may round otherwise)."""
        for name, tensor in tensors.items():
            self.tensors[name].copy_(tensor)
