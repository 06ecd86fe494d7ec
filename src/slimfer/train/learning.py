"""Which parameters of a network learn, and by which rule."""

from collections.abc import Sequence
from fnmatch import fnmatchcase

import torch
from torch import nn

from slimfer.errors import InputError
from slimfer.train.config import TrainConfig


def frozen_layers(net: nn.Module, patterns: Sequence[str]) -> list[nn.Module]:
    """Return the innermost layers whose dotted names match one of the glob `patterns`.

    Raises:
        InputError: if a pattern matches no layer, or nothing is left to learn.
    """
    layers = {name: module for name, module in net.named_modules() if name and not any(module.children())}
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in layers):
            raise InputError(f"frozen: no layer is called {pattern!r} (there are {', '.join(list(layers)[:5])}, ...)")
    chosen = [m for name, m in layers.items() if any(fnmatchcase(name, pattern) for pattern in patterns)]
    fixed = {id(p) for module in chosen for p in module.parameters()}
    if chosen and all(id(p) in fixed for p in net.parameters()):
        raise InputError(f"frozen: {', '.join(patterns)} leaves nothing to learn")
    return chosen


def optimizer_of(net: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """Return the optimizer of everything that learns; only weights with more than one axis decay."""
    decayed = [p for p in net.parameters() if p.requires_grad and p.ndim > 1]
    plain = [p for p in net.parameters() if p.requires_grad and p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=config.lr)
    return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, nesterov=config.momentum > 0)
