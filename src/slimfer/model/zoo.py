"""The table of networks, and `build`: from a spec to a module."""

import importlib
import inspect
from collections.abc import Callable, Mapping

import torch
from torch import nn

from slimfer.errors import InputError
from slimfer.model.blocks import init_weights
from slimfer.model.groups import channel_map
from slimfer.model.microexpnet import microexpnet, microexpnet_p1, microexpnet_p2, microexpnet_v
from slimfer.model.mobile import mobile
from slimfer.model.mode import evaluating
from slimfer.model.narrow import narrow_to
from slimfer.model.resnet import resnet18, resnet34, resnet50
from slimfer.model.spec import NetSpec
from slimfer.model.vgg import vgg11, vgg13, vgg16, vgg19

MODELS: Mapping[str, Callable[..., nn.Module]] = {
    "microexpnet": microexpnet,
    "microexpnet-p1": microexpnet_p1,
    "microexpnet-p2": microexpnet_p2,
    "microexpnet-v": microexpnet_v,
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

    The zoo's networks are initialized by `init_weights`; the user's own keep the weights their function gives them,
    with BN scales multiplied by `gamma`.

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
            net = builder(**_sizes(builder, spec), **spec.args)
        except (TypeError, ValueError) as error:
            raise InputError(f"network {spec.builder}: {error}") from None
        if not isinstance(net, nn.Module):
            raise InputError(f"{spec.builder} returned {type(net).__name__}, not a torch module")
        if spec.builder in MODELS:
            init_weights(net, gamma)
        else:
            _scale_norms(net, gamma)
            _check_outputs(net, spec)
    if spec.widths:
        narrow_to(channel_map(net, spec.channels, spec.image), spec.widths)
    return net


def _sizes(builder: Callable[..., nn.Module], spec: NetSpec) -> dict[str, int]:
    """Return what every builder is given; those with a parameter `image` get the size of the picture, too."""
    given = {"classes": spec.classes, "channels": spec.channels}
    try:
        named = inspect.signature(builder).parameters
    except ValueError:  # some of Python's own functions have none
        return given
    return {**given, "image": spec.image} if "image" in named and "image" not in spec.args else given


def _builder(name: str) -> Callable[..., nn.Module]:
    if name in MODELS:
        return MODELS[name]
    module_name, colon, function = name.partition(":")
    if not colon:
        raise InputError(f"unknown network {name!r}; the zoo has {', '.join(MODELS)}; yours is package.module:function")
    try:
        found = getattr(importlib.import_module(module_name), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(f"cannot import {name}: {error}") from None
    if not callable(found):
        raise InputError(f"{name} is not a function")
    return found


def _scale_norms(net: nn.Module, gamma: float) -> None:
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d) and module.affine:
            module.weight.detach().mul_(gamma)


def _check_outputs(net: nn.Module, spec: NetSpec) -> None:
    """Try the user's network on two black pictures."""
    with evaluating(net), torch.no_grad():
        try:
            answer = net(torch.zeros(2, spec.channels, spec.image, spec.image))
        except RuntimeError as error:
            raise InputError(f"{spec.builder} cannot read pictures of {spec.image} px: {error}") from None
    shape = tuple(answer.shape) if isinstance(answer, torch.Tensor) else type(answer).__name__
    if shape != (2, spec.classes):
        raise InputError(f"{spec.builder} must return logits of shape (N, {spec.classes}), not {shape}")
