"""The table of networks, and `build`: from a spec to a module."""

import importlib
from collections.abc import Callable, Mapping

import torch
from torch import nn

from slimfer.errors import InputError
from slimfer.model.blocks import init_weights
from slimfer.model.groups import channel_map
from slimfer.model.mobile import mobile
from slimfer.model.narrow import narrow_to
from slimfer.model.resnet import resnet18, resnet34, resnet50
from slimfer.model.spec import NetSpec
from slimfer.model.vgg import vgg11, vgg13, vgg16, vgg19

MODELS: Mapping[str, Callable[..., nn.Module]] = {
    "mobile": mobile,
    "resnet18": resnet18,
    "resnet34": resnet34,
    "resnet50": resnet50,
    "vgg11": vgg11,
    "vgg13": vgg13,
    "vgg16": vgg16,
    "vgg19": vgg19,
}


def build(spec: NetSpec, *, seed: int = 0, gamma: float = 1.0) -> nn.Module:
    """Build the network of `spec` with fresh weights.

    Args:
        spec: structure; its `widths` are applied by cutting the full network (see `slimfer.model.narrow`).
        seed: of the initial weights; torch's global generator is left as it was.
        gamma: initial BN scale, 0.5 for network slimming.

    Raises:
        InputError: if the builder is unknown, its arguments do not fit, or the widths are impossible.
    """
    builder = _builder(spec.builder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            net = builder(classes=spec.classes, channels=spec.channels, **spec.args)
        except TypeError as error:
            raise InputError(f"network {spec.builder}: {error}") from None
        if not isinstance(net, nn.Module):
            raise InputError(f"{spec.builder} returned {type(net).__name__}, not a torch module")
        if spec.builder in MODELS:
            init_weights(net, gamma)
    if spec.widths:
        narrow_to(channel_map(net, spec.channels, spec.image), spec.widths)
    return net


def _builder(name: str) -> Callable[..., nn.Module]:
    if name in MODELS:
        return MODELS[name]
    module_name, colon, function = name.partition(":")
    if not colon:
        raise InputError(f"unknown network {name!r}; the zoo has {', '.join(MODELS)}; yours is package.module:function")
    try:
        return getattr(importlib.import_module(module_name), function)  # type: ignore[no-any-return]
    except (ImportError, AttributeError) as error:
        raise InputError(f"cannot import {name}: {error}") from None
