"""Cut channels out of a network's layers, in place: the mechanical half of surgery.

Which channels to cut and how to make up for them is decided in `slimfer.compress`; this file only slices.
"""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from slimfer.errors import InputError
from slimfer.model.groups import Atoms, ChannelMap


def remove_atoms(channels: ChannelMap, removed: Atoms) -> dict[str, int]:
    """Cut the channels `removed` out of all layers that have them, in place.

    Returns:
        The new width of each convolution and linear layer whose outputs changed, for `NetSpec.with_widths`.

    Raises:
        InputError: if a channel is locked or a layer would be left without channels; nothing is cut then.
    """
    for atom in removed:
        if int(atom) in channels.locked:
            raise InputError(f"channel {int(atom)} cannot be cut: {channels.locked[int(atom)]}")
    keeps = [
        (layer, np.flatnonzero(~np.isin(layer.outputs, removed)), np.flatnonzero(~np.isin(layer.inputs, removed)))
        for layer in channels.layers
    ]
    for layer, keep_out, keep_in in keeps:
        if len(keep_in) == 0 or len(keep_out) == 0:
            raise InputError(f"layer {layer.name} would be left without channels")
    widths: dict[str, int] = {}
    for layer, keep_out, keep_in in keeps:
        if len(keep_in) == len(layer.inputs) and len(keep_out) == len(layer.outputs):
            continue
        module = layer.module
        if isinstance(module, nn.BatchNorm2d):
            _slice_norm(module, keep_out)
            continue
        if isinstance(module, nn.Linear):
            _slice_linear(module, keep_out, keep_in)
        elif isinstance(module, nn.Conv2d):
            _slice_conv(module, keep_out, keep_in)
        if len(keep_out) < len(layer.outputs):
            widths[layer.name] = len(keep_out)
    return widths


def narrow_to(channels: ChannelMap, widths: Mapping[str, int]) -> None:
    """Shrink freshly built layers to `widths` (their weights are loaded afterwards).

    Only the number of channels per layer matters here, not which ones go: the cut network keeps its channels in order,
    so its weights fit whatever was cut.

    Raises:
        InputError: if a layer is unknown, or widths of layers that share channels contradict each other.
    """
    named = {layer.name: layer for layer in channels.layers if not isinstance(layer.module, nn.BatchNorm2d)}
    for name, width in widths.items():
        if name not in named:
            raise InputError(f"the spec has a width for layer {name}, which the network does not have")
        if width > len(named[name].outputs):
            raise InputError(f"layer {name} has {len(named[name].outputs)} channels, the spec asks for {width}")
    removed = _choose({name: layer.outputs for name, layer in named.items()}, widths)
    remove_atoms(channels, np.array(sorted(removed), dtype=np.int64))


def _choose(outputs: Mapping[str, Atoms], widths: Mapping[str, int]) -> set[int]:
    """Return atoms to remove so that layer l keeps `widths[l]` of `outputs[l]`, and all where no width is given.

    Atoms that the same layers have are one class, of which a number is to be kept. A layer with only one class left
    open decides it; this goes on until nothing is open. (With residual streams most layers have one class; classes
    that share a layer come from a concatenation that is added to something.)
    """
    members: dict[int, dict[str, int]] = {}
    for name, atoms in outputs.items():
        for atom, times in zip(*np.unique(atoms, return_counts=True), strict=True):
            members.setdefault(int(atom), {})[name] = int(times)
    classes: dict[tuple[tuple[str, int], ...], list[int]] = {}
    for atom, layers in members.items():
        classes.setdefault(tuple(layers.items()), []).append(atom)

    kept: dict[tuple[tuple[str, int], ...], int] = {}
    left = {name: widths.get(name, len(atoms)) for name, atoms in outputs.items()}
    of_layer = {name: [key for key in classes if name in dict(key)] for name in outputs}
    waiting = list(outputs)
    while waiting:
        ready = [name for name in waiting if sum(key not in kept for key in of_layer[name]) <= 1]
        if not ready:
            raise InputError(f"the widths of layers {', '.join(waiting)} do not say which channels to keep")
        for name in ready:
            waiting.remove(name)
            for key in of_layer[name]:
                if key in kept:
                    continue
                count, rest = divmod(left[name], dict(key)[name])
                if rest or not 0 <= count <= len(classes[key]):
                    raise _contradiction(name, widths)
                kept[key] = count
                for other, times in key:
                    left[other] -= count * times
            if left[name]:
                raise _contradiction(name, widths)
    return {atom for key, atoms in classes.items() for atom in atoms[kept[key] :]}


def _contradiction(name: str, widths: Mapping[str, int]) -> InputError:
    width = f"the width {widths[name]}" if name in widths else "the full width"
    return InputError(f"{width} of layer {name} contradicts the layers that share its channels")


def _cut(tensor: Tensor, keep: Atoms, axis: int) -> Tensor:
    return tensor.detach().index_select(axis, torch.as_tensor(keep, device=tensor.device)).clone()


def _cut_parameter(parameter: Tensor, *cuts: tuple[Atoms, int]) -> nn.Parameter:
    tensor = parameter
    for keep, axis in cuts:
        tensor = _cut(tensor, keep, axis)
    return nn.Parameter(tensor, requires_grad=parameter.requires_grad)


def _slice_conv(conv: nn.Conv2d, keep_out: Atoms, keep_in: Atoms) -> None:
    if conv.groups == 1:
        conv.weight = _cut_parameter(conv.weight, (keep_out, 0), (keep_in, 1))
    else:  # depthwise: one filter per channel
        conv.weight = _cut_parameter(conv.weight, (keep_out, 0))
        conv.groups = len(keep_out)
    conv.out_channels, conv.in_channels = len(keep_out), len(keep_in)
    if conv.bias is not None:
        conv.bias = _cut_parameter(conv.bias, (keep_out, 0))


def _slice_linear(linear: nn.Linear, keep_out: Atoms, keep_in: Atoms) -> None:
    linear.weight = _cut_parameter(linear.weight, (keep_out, 0), (keep_in, 1))
    linear.out_features, linear.in_features = len(keep_out), len(keep_in)
    if linear.bias is not None:
        linear.bias = _cut_parameter(linear.bias, (keep_out, 0))


def _slice_norm(norm: nn.BatchNorm2d, keep: Atoms) -> None:
    norm.num_features = len(keep)
    if norm.affine:
        norm.weight, norm.bias = _cut_parameter(norm.weight, (keep, 0)), _cut_parameter(norm.bias, (keep, 0))
    if norm.running_mean is not None and norm.running_var is not None:
        norm.running_mean, norm.running_var = _cut(norm.running_mean, keep, 0), _cut(norm.running_var, keep, 0)
