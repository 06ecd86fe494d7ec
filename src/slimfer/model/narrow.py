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
    """Cut the channels `removed` out of all layers that have them; return the new width of each changed layer."""
    widths: dict[str, int] = {}
    for layer in channels.layers:
        keep_in = np.flatnonzero(~np.isin(layer.inputs, removed))
        keep_out = np.flatnonzero(~np.isin(layer.outputs, removed))
        if len(keep_in) == len(layer.inputs) and len(keep_out) == len(layer.outputs):
            continue
        if len(keep_in) == 0 or len(keep_out) == 0:
            raise InputError(f"layer {layer.name} would be left without channels")
        module = layer.module
        if isinstance(module, nn.BatchNorm2d):
            _slice_norm(module, keep_out)
        elif isinstance(module, nn.Linear):
            _slice_linear(module, keep_out, keep_in)
        elif isinstance(module, nn.Conv2d):
            _slice_conv(module, keep_out, keep_in)
        if len(keep_out) < len(layer.outputs) and not isinstance(module, nn.BatchNorm2d):
            widths[layer.name] = len(keep_out)
    return widths


def narrow_to(channels: ChannelMap, widths: Mapping[str, int]) -> None:
    """Shrink freshly built layers to `widths`, keeping the first channels (their weights are loaded afterwards).

    Raises:
        InputError: if a layer is unknown, or widths of layers that share channels contradict each other.
    """
    named = {layer.name: layer for layer in channels.layers}
    removed: set[int] = set()
    for name, width in widths.items():
        if name not in named:
            raise InputError(f"the spec has a width for layer {name}, which the network does not have")
        atoms = _distinct(named[name].outputs)
        if width > len(atoms):
            raise InputError(f"layer {name} has {len(atoms)} channels, the spec asks for {width}")
        removed.update(int(atom) for atom in atoms[width:])
    if removed & channels.locked.keys():
        raise InputError("the spec cuts channels of the network's input or output")
    changed = remove_atoms(channels, np.array(sorted(removed), dtype=np.int64))
    for name, width in widths.items():
        if changed.get(name, len(named[name].outputs)) != width:
            raise InputError(f"the width {width} of layer {name} contradicts the layers that share its channels")


def _distinct(atoms: Atoms) -> Atoms:
    """Return the atoms without repeats, in order of first appearance."""
    _, first = np.unique(atoms, return_index=True)
    return atoms[np.sort(first)]


def _cut(parameter: Tensor, index: Tensor, axis: int) -> Tensor:
    return parameter.detach().index_select(axis, index).clone()


def _slice_conv(conv: nn.Conv2d, keep_out: Atoms, keep_in: Atoms) -> None:
    out = torch.as_tensor(keep_out, device=conv.weight.device)
    weight = _cut(conv.weight, out, 0)
    if conv.groups == 1:
        weight = _cut(weight, torch.as_tensor(keep_in, device=weight.device), 1)
        conv.in_channels = len(keep_in)
    else:
        conv.in_channels = conv.groups = len(keep_out)
    conv.out_channels = len(keep_out)
    conv.weight = nn.Parameter(weight)
    if conv.bias is not None:
        conv.bias = nn.Parameter(_cut(conv.bias, out, 0))


def _slice_linear(linear: nn.Linear, keep_out: Atoms, keep_in: Atoms) -> None:
    out = torch.as_tensor(keep_out, device=linear.weight.device)
    weight = _cut(linear.weight, out, 0)
    linear.weight = nn.Parameter(_cut(weight, torch.as_tensor(keep_in, device=weight.device), 1))
    linear.out_features, linear.in_features = len(keep_out), len(keep_in)
    if linear.bias is not None:
        linear.bias = nn.Parameter(_cut(linear.bias, out, 0))


def _slice_norm(norm: nn.BatchNorm2d, keep: Atoms) -> None:
    index = torch.as_tensor(keep, device=norm.weight.device)
    norm.num_features = len(keep)
    norm.weight = nn.Parameter(_cut(norm.weight, index, 0))
    norm.bias = nn.Parameter(_cut(norm.bias, index, 0))
    norm.running_mean = _cut(norm.running_mean, index, 0)  # type: ignore[arg-type]
    norm.running_var = _cut(norm.running_var, index, 0)  # type: ignore[arg-type]
