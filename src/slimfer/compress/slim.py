"""Network slimming (Liu et al., ICCV 2017, arXiv 1708.06519): the penalty during training."""

import torch
from torch import nn

from slimfer.train.loop import Hook


class SlimmingPenalty(Hook):
    """Add lambda * sign(gamma) to the gradient of every BN scale: the sub-gradient of lambda * sum |gamma| (eq. 1)."""

    def __init__(self, penalty: float) -> None:
        """Take lambda, e.g. 1e-4; the paper uses 1e-4 for VGG and 1e-5 for ResNet at 80k-120k steps."""
        self.penalty = penalty

    def after_backward(self, net: nn.Module, progress: float) -> None:
        """Add the sub-gradient; sign(0) = 0, so a scale that reached 0 is not pushed."""
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d) and module.weight.grad is not None:
                module.weight.grad.add_(torch.sign(module.weight.detach()), alpha=self.penalty)
