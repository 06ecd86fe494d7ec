"""Single weights set to zero and kept there, by magnitude: unstructured, or N of every M along the input.

A mask is the zero pattern of a checkpoint and stands nowhere else, so it cannot get lost, and a killed training that
goes on has the right one by construction. The sparse phase of dense-sparse-dense training (Han et al. 2017, arXiv
1607.04381) keeps such a pattern; with `schedule = "cubic"` it grows instead, by gradual magnitude pruning (Zhu and
Gupta 2017, arXiv 1710.01878, eq. 1).

Shapes: O outputs, I inputs. Weights are (O, I) or (O, I, height, width); what is found has the shape of its tensor.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from fnmatch import fnmatchcase

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from slimfer.compress.config import MaskConfig
from slimfer.errors import InputError
from slimfer.train.checkpoint import Checkpoint
from slimfer.train.loop import Hook


def smallest(magnitudes: Tensor, count: int) -> Tensor:
    """Return where the `count` smallest magnitudes are; of equal ones, the first."""
    found = torch.zeros(magnitudes.numel(), dtype=torch.bool, device=magnitudes.device)
    found[torch.argsort(magnitudes.flatten(), stable=True)[:count]] = True
    return found.view(magnitudes.shape)


def smallest_of_groups(magnitudes: Tensor, keep: int, group: int) -> Tensor:
    """Return where all but the `keep` largest of every `group` magnitudes along the input are.

    Groups are consecutive inputs at one output and one place of the kernel, as NVIDIA's sparse tensor cores have them
    (Mishra et al. 2021, arXiv 2104.08378). A last, incomplete group keeps at most `keep`, too; so layers that read a
    single channel (depthwise, the first of a gray network) keep all.
    """
    inputs = magnitudes.shape[1]
    rows = F.pad(magnitudes.movedim(1, -1), (0, -inputs % group), value=-1.0)  # what is not there goes first
    groups = rows.reshape(*rows.shape[:-1], -1, group)
    found = torch.zeros_like(groups, dtype=torch.bool)
    found.scatter_(-1, torch.argsort(groups, dim=-1, stable=True)[..., : group - keep], True)
    return found.flatten(-2)[..., :inputs].movedim(-1, 1)


def grown(progress: float, config: MaskConfig) -> float:
    """Return which share of the final sparsity is reached: 1 - (1 - progress / ramp)^3, in `updates` stairs.

    That is eq. 1 of Zhu and Gupta 2017 with initial sparsity 0 and begin 0; 1 after the ramp, and always for `oneshot`.
    """
    if config.schedule == "oneshot" or progress >= config.ramp:
        return 1.0
    stair = int(progress / config.ramp * config.updates) / config.updates
    return 1 - (1 - stair) ** 3


def sparsities(net: nn.Module, config: MaskConfig) -> dict[str, float]:
    """Return the sparsity of each tensor of `net` that is masked, by name: weights of the layers that `config` names.

    Raises:
        InputError: if a pattern matches no convolution or linear layer, or nothing is left to mask.
    """
    names = [name for name, module in net.named_modules() if name and not any(module.children())]
    layers = {name: net.get_submodule(name) for name in names}
    layers = {name: module for name, module in layers.items() if isinstance(module, (nn.Conv2d, nn.Linear))}
    wanted = [pattern for pattern in config.layers if not pattern.startswith("!")]
    unwanted = [pattern[1:] for pattern in config.layers if pattern.startswith("!")]
    for pattern in unwanted:
        _check_matches(pattern, names, "layer")
    for pattern in wanted:
        _check_matches(pattern, list(layers), "convolution or linear layer")
    chosen = [name for name in layers if _matches(name, wanted) and not _matches(name, unwanted)]
    if not chosen:
        raise InputError(f"the layers {', '.join(config.layers) or '(none)'} leave nothing to mask")
    for pattern in config.per_layer:
        _check_matches(pattern, chosen, "masked layer")
    found = {}
    for name in chosen:
        own = [value for pattern, value in config.per_layer.items() if fnmatchcase(name, pattern)]
        for part in ("weight", "bias") if config.biases and layers[name].bias is not None else ("weight",):
            found[f"{name}.{part}"] = own[0] if own else config.sparsity
    return found


@torch.no_grad()
def mask(checkpoint: Checkpoint, config: MaskConfig) -> Checkpoint:
    """Set the smallest weights of each layer that `config` names to zero.

    Unstructured, exactly `round(sparsity * n)` of a layer's n weights are zero afterwards (more, if more were zero
    before). BN is never masked. A schedule is a matter of training (`Mask`): here all goes at once.

    Raises:
        InputError: if a pattern matches no layer.
    """
    net = checkpoint.build()
    sizes = []
    for name, sparsity in sparsities(net, config).items():
        tensor = net.get_parameter(name)
        if config.keep:
            gone = smallest_of_groups(tensor.abs(), config.keep, config.group)
        else:
            gone = smallest(tensor.abs(), round(sparsity * tensor.numel()))
        tensor.masked_fill_(gone, 0.0)
        sizes.append((int((tensor == 0).sum()), tensor.numel()))
    zeros, of = map(sum, zip(*sizes, strict=True))
    return checkpoint.after("mask", net, config=asdict(config), zeros=[zeros, of])


class Mask(Hook):
    """Keeps zero what was zero in the checkpoint that training started from, in the layers that the config names.

    Masked weights get no gradient and are set to exactly 0 after each step, which undoes what momentum and weight decay
    do; so their moving average is 0, too. With the cubic schedule, the smallest weights join them on the way; the
    average is masked whenever it is judged, and no epoch before the end of the ramp is chosen.
    """

    def __init__(self, checkpoint: Checkpoint, config: MaskConfig) -> None:
        """Take the zeros of `checkpoint`.

        Raises:
            InputError: if a pattern matches no layer.
        """
        net = checkpoint.build()
        self.settings = json.dumps(asdict(config), sort_keys=True)  # a text: part of the run's identity
        self._config = config
        self._sparsity = sparsities(net, config)
        # 1 = free, 0 = masked: in float, since multiplying is six times as fast as filling where a bool says so.
        self._free = {name: (net.get_parameter(name).detach() != 0).float() for name in self._sparsity}
        self._share = 1.0 if config.schedule == "oneshot" else 0.0

    def after_backward(self, net: nn.Module, progress: float) -> None:
        """Take the gradient off masked weights."""
        for parameter, free in self._pairs(net):
            if parameter.grad is not None:
                parameter.grad.mul_(free)

    @torch.no_grad()
    def after_step(self, net: nn.Module, progress: float) -> None:
        """Let the mask grow, if it is time, and set what is masked to zero."""
        self._grow(net, grown(progress, self._config))
        for parameter, free in self._pairs(net):
            parameter.mul_(free)

    @torch.no_grad()
    def before_judging(self, net: nn.Module, progress: float) -> bool:
        """Mask the averaged weights, which remember what was not always zero; a mask that still grows is not ready."""
        if progress >= 1:  # a training of a few steps may end before its last stair
            self._grow(net, 1.0)
        for parameter, free in self._pairs(net):
            parameter.masked_fill_(free == 0, 0.0)  # not -0, which would cost bytes in a zip file
        return self._share == 1.0

    def state_dict(self) -> Mapping[str, Tensor]:
        """Return the mask if it changes during training; else it follows from the start."""
        return dict(self._free) if self._config.schedule == "cubic" else {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take the mask back; how far it is grown follows from the progress, and growing twice changes nothing."""
        self._free.update(state)

    def _pairs(self, net: nn.Module) -> Iterator[tuple[nn.Parameter, Tensor]]:
        """Yield each masked parameter with its mask, on the same device and in the same layout."""
        for name, free in self._free.items():
            parameter = net.get_parameter(name)
            if free.device != parameter.device or free.stride() != parameter.stride():
                self._free[name] = torch.empty_like(parameter).copy_(free)
            yield parameter, self._free[name]

    def _grow(self, net: nn.Module, share: float) -> None:
        """Mask `share` of the final number of weights; what is masked already goes first, and so stays masked."""
        if share <= self._share:
            return
        self._share = share
        for (parameter, free), sparsity in zip(self._pairs(net), self._sparsity.values(), strict=True):
            magnitudes = parameter.abs().masked_fill(free == 0, -1.0)
            free.masked_fill_(smallest(magnitudes, round(share * sparsity * parameter.numel())), 0.0)


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _check_matches(pattern: str, names: Sequence[str], kind: str) -> None:
    if not any(fnmatchcase(name, pattern) for name in names):
        raise InputError(f"layers: no {kind} is called {pattern!r} (there are {', '.join(names[:5])}, ...)")
