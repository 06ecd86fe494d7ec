"""Cut named groups of channels to given widths: the step that carries out what a search found."""

from collections.abc import Mapping
from dataclasses import asdict

import numpy as np
import torch

from slimfer.compress.config import PruneConfig
from slimfer.compress.goal import CutConfig
from slimfer.compress.prune import CRITERIA
from slimfer.compress.sensitivity import Group, find_groups
from slimfer.compress.surgery import channels_of, count_params, cut, recalibrate
from slimfer.data.frames import Frames
from slimfer.errors import InputError
from slimfer.model.groups import Atoms, ChannelMap
from slimfer.train.checkpoint import Checkpoint


def cut_groups(checkpoint: Checkpoint, frames: Frames, config: CutConfig, *, seed: int = 0) -> Checkpoint:
    """Cut each named group to its width, the weakest channels first, and return the network, not yet fine-tuned.

    Args:
        checkpoint: a float network.
        frames: training pictures, for BN recalibration and the criterion that looks at some.
        config: widths by group, and the criterion.
        seed: of the random criterion and of the choice of pictures.

    Raises:
        InputError: if the network is quantized, has no group of a name, or too few channels in it.
    """
    if checkpoint.quant:
        raise InputError("cut needs a float network; cut before quantize")
    net = checkpoint.build()
    channels = channels_of(checkpoint, net)
    groups = _named(find_groups(channels), config.keep)
    removed = _weakest(channels, groups, frames, config, seed)
    record = {"config": asdict(config), "params": [count_params(channels), count_params(channels, removed)]}
    with torch.no_grad():
        spec = cut(checkpoint, net, channels, removed)
    recalibrate(net, frames, batches=config.recalibrate, seed=seed)
    return checkpoint.after("cut", net, spec=spec, **record)


def _named(groups: tuple[Group, ...], keep: Mapping[str, int]) -> dict[str, Group]:
    """Return the groups that are to be cut, by name."""
    known = {group.name: group for group in groups}
    for name, width in keep.items():
        if name not in known:
            some = ", ".join(list(known)[:5]) or "none"
            raise InputError(f"keep: no group of channels is called {name!r} (there are {some}, ...)")
        if width > len(known[name].atoms):
            raise InputError(f"keep: group {name} has {len(known[name].atoms)} channels, not {width}")
    return {name: known[name] for name in keep}


def _weakest(channels: ChannelMap, groups: Mapping[str, Group], frames: Frames, config: CutConfig, seed: int) -> Atoms:
    """Return the channels that go: of each group the lowest by the criterion; those of `gamma` are in order already."""
    if config.criterion == "gamma":
        orders = {name: group.atoms for name, group in groups.items()}
    else:
        settings = PruneConfig(criterion=config.criterion, images=config.images)
        scores = CRITERIA[config.criterion](channels, frames, settings, seed)
        score = dict(zip(scores.atoms.tolist(), scores.values.tolist(), strict=True))
        orders = {
            name: np.array(sorted(group.atoms.tolist(), key=lambda atom: (score[atom], atom)), dtype=np.int64)
            for name, group in groups.items()
        }
    gone = [order[: len(order) - config.keep[name]] for name, order in orders.items()]
    return np.sort(np.concatenate(gone)) if gone else np.array([], dtype=np.int64)
