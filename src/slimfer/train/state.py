"""What a training run must save besides weights to go on exactly: the optimizer's memory, and which run it was."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor

from slimfer.data.frames import Frames
from slimfer.train.checkpoint import Checkpoint, digest
from slimfer.train.config import TrainConfig


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the optimizer's memory on the CPU, as `index.name` -> tensor."""
    return {
        f"{index}.{name}": torch.as_tensor(value).cpu()
        for index, memory in optimizer.state_dict()["state"].items()
        for name, value in memory.items()
        if value is not None
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put back what `optimizer_tensors` returned, in the memory layout of the parameters it belongs to.

    The layout matters: a momentum in plain layout beside a channels_last weight is slower, and may round otherwise.
    """
    memory: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        index, _, name = key.partition(".")
        memory.setdefault(int(index), {})[name] = tensor
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": memory, "param_groups": groups})
    for parameter, values in optimizer.state.items():
        for name, value in values.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                values[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def identity(
    start: Checkpoint,
    data: Mapping[str, Frames],
    config: TrainConfig,
    objective: object,
    hooks: Sequence[object],
    step_name: str,
) -> dict[str, Any]:
    """Return, as JSON values, everything that decides a run's result; how often it is saved is not part of it."""
    values = {
        "spec": start.spec.to_dict(),
        "start": digest(start.weights),
        "data": {name: _digest_frames(frames) for name, frames in data.items()},
        "config": {name: value for name, value in asdict(config).items() if name != "save_seconds"},
        "objective": _describe(objective),
        "hooks": [_describe(hook) for hook in hooks],
        "step": step_name,
    }
    return json.loads(json.dumps(values))


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Return the dotted names of the values that differ between two identities."""
    found = []
    for name in sorted(one.keys() | other.keys()):
        a, b = one.get(name), other.get(name)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            found += [f"{name}.{inner}" for inner in differences(a, b)]
        elif a != b:
            found.append(name)
    return found


def _describe(thing: object) -> dict[str, Any]:
    """Return the name of a function, or of an object's class with its plain attributes."""
    name = getattr(thing, "__qualname__", type(thing).__qualname__)
    attributes = getattr(thing, "__dict__", {})
    return {"name": name, **{k: v for k, v in attributes.items() if isinstance(v, (bool, int, float, str))}}


def _digest_frames(frames: Frames) -> str:
    sha = hashlib.sha256(f"{frames.images.shape} {frames.classes}".encode())
    for array in (frames.images, frames.labels, frames.targets()):
        sha.update(np.ascontiguousarray(array).data)
    return sha.hexdigest()
