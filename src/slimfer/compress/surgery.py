"""Choosing channels by a global threshold, folding what they carried onward, and cutting them out.

The method-specific part is only the score of each channel (`slimfer.compress.slim`, `slimfer.compress.prune`).
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, fx, nn

from slimfer.compress.config import Limits
from slimfer.data.frames import Frames
from slimfer.errors import InputError
from slimfer.model.groups import Atoms, ChannelMap, Layer, channel_map
from slimfer.model.mode import evaluating
from slimfer.model.narrow import remove_atoms
from slimfer.model.spec import NetSpec
from slimfer.train.augment import step_generator, to_input
from slimfer.train.checkpoint import Checkpoint


@dataclass(frozen=True)
class Scores:
    """How much each channel matters; channels that are not listed are never cut.

    Attributes:
        atoms: (n,) the channels, see `slimfer.model.groups`.
        values: (n,) their scores; the lowest go first.
        weights: (n,) in how many layers the channel stands, so that ratios count the channels of layers.
    """

    atoms: Atoms
    values: npt.NDArray[np.float64]
    weights: npt.NDArray[np.int64]

    @classmethod
    def collect(cls, channels: ChannelMap, per_layer: Mapping[str, Tensor], reduce: str = "max") -> "Scores":
        """Join per-layer channel scores (name -> (C,) tensor) into one score per atom.

        Args:
            channels: the network's channels.
            per_layer: scores of output channels, by layer name.
            reduce: for a channel that several layers share (a residual stream): `max`, `mean` or `sum` of its scores.
        """
        found: dict[int, list[float]] = defaultdict(list)
        for layer in channels.layers:
            if layer.name in per_layer:
                for atom, value in zip(layer.outputs, per_layer[layer.name].tolist(), strict=True):
                    found[int(atom)].append(value)
        atoms = [atom for atom in sorted(found) if atom not in channels.locked]
        joins: dict[str, Callable[..., Any]] = {"max": np.max, "mean": np.mean, "sum": np.sum}
        join = joins[reduce]
        return cls(
            np.array(atoms, dtype=np.int64),
            np.array([join(found[atom]) for atom in atoms], dtype=np.float64),
            np.array([len(found[atom]) for atom in atoms], dtype=np.int64),
        )

    def share(self, removed: Atoms) -> float:
        """Return which share of the scored channels, counted once per layer, `removed` is."""
        return float(self.weights[np.isin(self.atoms, removed)].sum() / self.weights.sum())


def choose(channels: ChannelMap, scores: Scores, ratio: float, limits: Limits) -> Atoms:
    """Return the channels to cut: the lowest scores up to the global threshold that `ratio` sets, within `limits`.

    The threshold is the `ratio` quantile of the scores, each counted once per layer that has the channel (Liu et al.
    2017, section 3.3). With `round_to` the threshold is raised until the rounded widths reach the ratio, if they can.

    Raises:
        InputError: if the ratio is not in [0, 1).
    """
    if not 0 <= ratio < 1:
        raise InputError(f"ratio must be at least 0 and below 1, not {ratio}")
    order = np.argsort(scores.values, kind="stable")
    total = int(scores.weights.sum())
    below = np.cumsum(scores.weights[order])
    first = int(np.searchsorted(below, ratio * total + 1e-9, side="right"))
    removed = _within(channels, scores, order[:first], limits)
    if limits.round_to > 1:
        step = max(1, len(order) // 500)
        for count in range(first, len(order), step):
            removed = _within(channels, scores, order[:count], limits)
            if scores.share(removed) >= ratio:
                break
    return removed


def choose_for_params(channels: ChannelMap, scores: Scores, params: int, limits: Limits) -> Atoms:
    """Return the lowest-scored channels whose removal brings the network closest to `params` parameters.

    This is how criteria are compared at equal cost: same parameter count, different choice.
    """
    order = np.argsort(scores.values, kind="stable")
    low, high = 0, len(order)
    while low < high:
        middle = (low + high) // 2
        if count_params(channels, _within(channels, scores, order[:middle], limits)) > params:
            low = middle + 1
        else:
            high = middle
    candidates = [_within(channels, scores, order[:count], limits) for count in {max(low - 1, 0), low}]
    return min(candidates, key=lambda removed: abs(count_params(channels, removed) - params))


def count_params(channels: ChannelMap, removed: Atoms | None = None) -> int:
    """Return the number of parameters of the known layers when `removed` channels are cut."""
    gone = np.array([], dtype=np.int64) if removed is None else removed
    total = 0
    for layer in channels.layers:
        w_in = int((~np.isin(layer.inputs, gone)).sum())
        w_out = int((~np.isin(layer.outputs, gone)).sum())
        module = layer.module
        if isinstance(module, nn.BatchNorm2d):
            total += 2 * w_out
        elif isinstance(module, nn.Conv2d):
            area = module.kernel_size[0] * module.kernel_size[1]
            total += (w_in if module.groups == 1 else module.weight.shape[1]) * w_out * area
            total += w_out if module.bias is not None else 0
        elif isinstance(module, nn.Linear):
            total += w_in * w_out + (w_out if module.bias is not None else 0)
    return total


def cut(checkpoint: Checkpoint, net: nn.Module, channels: ChannelMap, removed: Atoms, *, fold: bool = True) -> NetSpec:
    """Cut `removed` out of `net` in place and return the spec of the narrower network.

    Args:
        checkpoint: where `net` came from; its spec gets the new widths.
        net: the network that `channels` was made from.
        channels: its channels.
        removed: channels to cut.
        fold: add what the removed channels carried (their shift beta, through the activation) to the next layers.
    """
    if fold:
        fold_constants(channels, removed)
    return checkpoint.spec.with_widths(remove_atoms(channels, removed))


def cut_quantized(checkpoint: Checkpoint, channels: ChannelMap, removed: Atoms) -> Checkpoint:
    """Return a quantized network without the channels `removed`; what they carried is lost.

    Args:
        checkpoint: the quantized network: the same layers, folded, with a bias and a scale per channel.
        channels: of its float form (see `NetSpec`), which is cut in place.
        removed: channels to cut.
    """
    weights, quant = dict(checkpoint.weights), dict(checkpoint.quant)
    for layer in channels.layers:
        keep_out, keep_in = (
            torch.as_tensor(np.flatnonzero(~np.isin(atoms, removed))) for atoms in (layer.outputs, layer.inputs)
        )
        reads_all = not layer.depthwise and not isinstance(layer.module, nn.BatchNorm2d)
        for tensors in (weights, quant):
            # A BN has tensors of its own only where it could not be folded into a convolution.
            for name in [name for name in tensors if name.rpartition(".")[0] == layer.name and tensors[name].ndim]:
                tensors[name] = tensors[name].index_select(0, keep_out).contiguous()
                if tensors[name].ndim > 1 and reads_all:
                    tensors[name] = tensors[name].index_select(1, keep_in).contiguous()
    spec = checkpoint.spec.with_widths(remove_atoms(channels, removed))
    return replace(checkpoint, spec=spec, weights=weights, quant=quant)


def fold_constants(channels: ChannelMap, removed: Atoms) -> tuple[str, ...]:
    """Add the constant that each removed channel carries to the layers that read it; return layers that cannot take it.

    A channel whose BN scale is 0 still emits act(beta). A following convolution turns that into a constant per output
    channel, delta_o = sum_i sum_k W[o, i, k] c_i, which goes into the running mean of its BN (minus delta) or its bias
    (plus delta). Exact for 1x1 and unpadded convolutions; with zero padding the border pixels differ.
    """
    return _ConstantFolder(channels, removed).fold()


def recalibrate(net: nn.Module, frames: Frames, *, batches: int = 40, batch_size: int = 128, seed: int = 0) -> None:
    """Replace the BN statistics by averages over training pictures, without training anything.

    Args:
        net: changed in place; modes and other layers stay as they are.
        frames: training pictures; `batches * batch_size` of them are drawn without repeats (at most all).
        batches: number of batches; 0 leaves the statistics alone.
        batch_size: pictures per batch.
        seed: of the draw.
    """
    norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
    if not batches or not norms:
        return
    device = next(net.parameters()).device
    order = torch.randperm(len(frames), generator=step_generator(seed, 0)).numpy()[: batches * batch_size]
    with evaluating(net), relearning(norms), torch.no_grad():
        for start in range(0, len(order), batch_size):
            index = np.sort(order[start : start + batch_size])
            images = torch.from_numpy(np.ascontiguousarray(frames.images[index])).to(device)
            net(to_input(images).contiguous(memory_format=torch.channels_last))


@contextmanager
def relearning(norms: Sequence[nn.BatchNorm2d]) -> Iterator[None]:
    """Forget the statistics of `norms`; whatever runs through them meanwhile is averaged, batch by batch, to new ones.

    Their modes and momenta are as before in the end.
    """
    before = [(norm, norm.momentum, norm.training) for norm in norms]
    try:
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # cumulative average
            norm.train()
        yield
    finally:
        for norm, momentum, training in before:
            norm.momentum = momentum
            norm.train(training)


def channels_of(checkpoint: Checkpoint, net: nn.Module) -> ChannelMap:
    """Return the channel map of `net` at the input size of its spec."""
    return channel_map(net, checkpoint.spec.channels, checkpoint.spec.image)


def groups_of(channels: ChannelMap, atoms: Atoms) -> dict[tuple[str, ...], npt.NDArray[np.int64]]:
    """Return index sets into `atoms`, by the layers that make them: channels of exactly the same layers are one group.

    A group is what can be cut to any width without touching another one: all outputs of a layer, or a residual stream.
    """
    makers: dict[int, list[str]] = {int(atom): [] for atom in atoms}
    for layer in channels.producers():
        for atom in np.unique(layer.outputs):
            if int(atom) in makers:
                makers[int(atom)].append(layer.name)
    groups: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for index, atom in enumerate(atoms):
        groups[tuple(makers[int(atom)])].append(index)
    return {names: np.array(members, dtype=np.int64) for names, members in groups.items()}


def _within(channels: ChannelMap, scores: Scores, lowest: npt.NDArray[np.int64], limits: Limits) -> Atoms:
    """Apply the limits to a choice: per group, keep at least what `limits` ask, the best-scored first."""
    chosen = np.zeros(len(scores.atoms), dtype=bool)
    chosen[lowest] = True
    removed = []
    for members in groups_of(channels, scores.atoms).values():
        kept = limits.keep(len(members), int((~chosen[members]).sum()))
        weakest_first = members[np.argsort(scores.values[members], kind="stable")]
        removed.append(weakest_first[: len(members) - kept])
    index = np.concatenate(removed) if removed else np.array([], dtype=np.int64)
    return np.sort(scores.atoms[index])


# What leaves a constant as it is; zeros beside it are noticed at borders only, as those of padded convolutions are.
STILL = (nn.Dropout, nn.Dropout2d, nn.ZeroPad2d)
STILL_NAMES = ("mean", "amax", "view", "reshape", "flatten", "squeeze", "unsqueeze", "contiguous", "clone")


class _ConstantFolder:
    """Follow the constants of removed channels through the graph: one (C,) vector per node, NaN = not a constant."""

    def __init__(self, channels: ChannelMap, removed: Atoms) -> None:
        self.channels = channels
        self.layers = {layer.name: layer for layer in channels.layers}
        self.removed = removed
        self.values: dict[fx.Node, Tensor] = {}
        self.unfolded: list[str] = []

    @torch.no_grad()
    def fold(self) -> tuple[str, ...]:
        for node in self.channels.graph.graph.nodes:
            if node.name not in self.channels.node_atoms:
                continue
            gone = torch.as_tensor(np.isin(self.channels.node_atoms[node.name], self.removed))
            value = self._value(node, len(gone))
            # Channels that stay are not constants; what flows on is 0 for them.
            self.values[node] = torch.where(gone, value, torch.zeros(()))
        return tuple(self.unfolded)

    def _value(self, node: fx.Node, width: int) -> Tensor:
        sources = [self.values[source] for source in node.all_input_nodes if source in self.values]
        if node.op == "placeholder":
            return torch.zeros(width)
        layer = self.layers.get(str(node.target)) if node.op == "call_module" else None
        if layer is not None:
            return self._layer(node, layer, sources[0])
        if len(sources[0]) != width and len(sources) == 1:
            return sources[0].repeat_interleave(width // len(sources[0]))  # flatten
        if len(sources) > 1 and sum(len(source) for source in sources) == width:
            return torch.cat(sources)
        return self._pointwise(node, sources)

    def _layer(self, node: fx.Node, layer: Layer, source: Tensor) -> Tensor:
        module = layer.module
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            scale = module.weight / torch.sqrt(module.running_var + module.eps)
            known = module.bias + scale * (source - module.running_mean)
            return torch.where(torch.isnan(source), module.bias, known)
        if layer.depthwise:
            weight = module.weight.sum((1, 2, 3))  # type: ignore[operator]
            return source * weight + (module.bias if module.bias is not None else 0)  # type: ignore[operator]
        assert isinstance(module, (nn.Conv2d, nn.Linear))
        weight = module.weight.sum((2, 3)) if isinstance(module, nn.Conv2d) else module.weight
        if isinstance(module, nn.Conv2d) and module.groups > 1:
            return torch.full((len(weight),), torch.nan)  # its channels are locked, so nothing is removed
        delta = weight @ torch.nan_to_num(source)
        if bool(delta.any()):
            self._absorb(node, module, delta)
        return torch.full((len(weight),), torch.nan)

    def _absorb(self, node: fx.Node, module: nn.Conv2d | nn.Linear, delta: Tensor) -> None:
        users = list(node.users)
        follower = self.layers.get(str(users[0].target)) if len(users) == 1 else None
        if module.bias is not None:
            module.bias += delta
        elif follower is not None and isinstance(follower.module, nn.BatchNorm2d):
            assert follower.module.running_mean is not None
            follower.module.running_mean -= delta
        else:
            self.unfolded.append(str(node.target))

    def _pointwise(self, node: fx.Node, sources: list[Tensor]) -> Tensor:
        """Apply an operation that treats each channel alone; pooling, padding and dropout leave a constant as it is."""
        if node.op == "call_module":
            module = self.channels.graph.get_submodule(str(node.target))
            if "pool" in type(module).__name__.lower() or isinstance(module, STILL):
                return sources[0]
            return module(sources[0].clone().view(1, -1, 1, 1)).flatten()
        name = str(getattr(node.target, "__name__", node.target))
        if "pool" in name or "dropout" in name or name in STILL_NAMES:
            return sources[0]
        values = iter(sources)
        arguments = [next(values).clone() if argument in self.values else argument for argument in node.args]
        if node.op == "call_method":
            return getattr(arguments[0], str(node.target))(*arguments[1:], **node.kwargs)
        return node.target(*arguments, **node.kwargs)  # type: ignore[operator]
