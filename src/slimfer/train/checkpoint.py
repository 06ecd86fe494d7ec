"""Networks on disk: safetensors for the numbers, JSON in its header for the rest, a hash over both, no pickle."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from slimfer.errors import InputError
from slimfer.files import atomic_write
from slimfer.model.placing import load_quantized, split_state
from slimfer.model.spec import NetSpec
from slimfer.model.zoo import build

FORMAT = 1


@dataclass(frozen=True)
class Checkpoint:
    """A network with weights, and how it came to be. Every compression step takes one and gives one.

    Attributes:
        spec: structure.
        weights: `state_dict` of the network, on the CPU; of the folded network if it is quantized.
        labels: class names in the order of the outputs.
        lineage: one entry per step since the first training: `{"step": ..., "config": ..., "scores": ...}`.
        quant: numbers of the quantizers by name, for quantized networks; empty otherwise.
    """

    spec: NetSpec
    weights: Mapping[str, Tensor]
    labels: tuple[str, ...]
    lineage: tuple[Mapping[str, Any], ...] = ()
    quant: Mapping[str, Tensor] = field(default_factory=dict)

    def build(self) -> nn.Module:
        """Return the network with its weights, in evaluation mode; fake-quantized if `quant` is not empty.

        Raises:
            InputError: if weights and structure do not fit.
        """
        net = build(self.spec)
        try:
            if self.quant:
                return load_quantized(net, self.weights, self.quant)
            net.load_state_dict(dict(self.weights))
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:200]  # torch lists every layer, on lines of their own
            raise InputError(f"weights do not fit the network {self.spec.builder}: {reason}") from None
        return net.eval()

    def after(self, step: str, net: nn.Module, *, spec: NetSpec | None = None, **record: Any) -> "Checkpoint":
        """Return the checkpoint of `net` after one more step, with `record` in its lineage."""
        entry = {"step": step, **record}
        weights, quant = split_state(net)
        return replace(self, spec=spec or self.spec, weights=weights, lineage=(*self.lineage, entry), quant=quant)

    def digest(self) -> str:
        """Return the SHA-256 over structure, weights and lineage: equal exactly for equal checkpoints."""
        tensors, meta = self._content()
        return digest(tensors, json.dumps(meta, sort_keys=True))

    def save(self, path: Path | str) -> None:
        """Write the checkpoint atomically."""
        save_tensors(path, *self._content())

    def _content(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        tensors = {f"weights.{name}": tensor for name, tensor in self.weights.items()}
        tensors |= {f"quant.{name}": tensor for name, tensor in self.quant.items()}
        return tensors, {
            "kind": "checkpoint",
            "spec": self.spec.to_dict(),
            "labels": list(self.labels),
            "lineage": list(self.lineage),
        }

    @classmethod
    def load(cls, path: Path | str) -> "Checkpoint":
        """Read a checkpoint.

        Raises:
            InputError: if the file is missing, cut, changed, or not a checkpoint of ours.
        """
        tensors, meta = load_tensors(path)
        if meta.get("kind") != "checkpoint":
            raise InputError(f"{path}: a {meta.get('kind')}, not a network checkpoint")
        if missing := {"spec", "labels", "lineage"} - meta.keys():
            raise InputError(f"{path}: a network checkpoint without {', '.join(sorted(missing))}")
        return cls(
            spec=NetSpec.from_dict(meta["spec"]),
            weights={k.removeprefix("weights."): v for k, v in tensors.items() if k.startswith("weights.")},
            labels=tuple(meta["labels"]),
            lineage=tuple(meta["lineage"]),
            quant={k.removeprefix("quant."): v for k, v in tensors.items() if k.startswith("quant.")},
        )


def weights_of(net: nn.Module) -> dict[str, Tensor]:
    """Return a copy of the network's state on the CPU, in plain layout."""
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in net.state_dict().items()}


def save_tensors(path: Path | str, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
    """Write tensors and JSON values as one safetensors file, atomically, with a SHA-256 over all of them."""
    plain = {name: tensor.contiguous() for name, tensor in tensors.items()}
    header = json.dumps({"format": FORMAT, **meta}, sort_keys=True)
    data = safetensors.torch.save(plain, {"slimfer": header, "sha256": digest(plain, header)})
    atomic_write(path, _sorted_metadata(data))


def load_tensors(path: Path | str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `save_tensors` wrote.

    Raises:
        InputError: if the file is missing, not ours, of a newer format, or its content does not match its hash.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        with safetensors.safe_open(path, framework="pt") as stream:
            meta = stream.metadata() or {}
            tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118 (not a dict)
    except (OSError, safetensors.SafetensorError) as error:
        raise InputError(f"{path}: not a readable safetensors file ({error})") from None
    if "slimfer" not in meta:
        raise InputError(f"{path}: a safetensors file, but not one of slimfer's")
    header = _header(meta["slimfer"])
    if header.get("format", 0) > FORMAT:  # before the hash, which a newer format may take otherwise
        raise InputError(
            f"{path}: format {header['format']} is newer than {FORMAT}, which this slimfer reads; update it"
        )
    if meta.get("sha256") != digest(tensors, meta["slimfer"]):
        raise InputError(f"{path}: the content does not match its SHA-256; the file is damaged")
    return tensors, header


def digest(tensors: Mapping[str, Tensor], header: str = "") -> str:
    """Return the SHA-256, in hex, over names, types, shapes and values of tensors on the CPU, and a text."""
    sha = hashlib.sha256(header.encode())
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        sha.update(tensor.flatten().view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")
    return sha.hexdigest()


def _sorted_metadata(data: bytes) -> bytes:
    """Return the same safetensors file with its metadata in order: safetensors writes them in a random one."""
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # so that the tensors stay aligned
    return len(text).to_bytes(8, "little") + text + data[end:]


def _header(text: str) -> dict[str, Any]:
    """Return the JSON values of a header; a damaged one is empty, and the hash will tell."""
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        return {}
    return value if isinstance(value, dict) and isinstance(value.get("format"), int) else {}
