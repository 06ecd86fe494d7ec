"""A network's mode, left as it was found."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def evaluating(net: nn.Module) -> Iterator[nn.Module]:
    """Put `net` into evaluation mode for a while; each submodule then gets back its own mode.

    `net.train(was_training)` would not do: it wakes the layers that the user keeps frozen in evaluation mode.
    """
    modes = [(module, module.training) for module in net.modules()]
    net.eval()
    try:
        yield net
    finally:
        for module, mode in modes:
            module.training = mode
