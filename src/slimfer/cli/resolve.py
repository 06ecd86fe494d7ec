"""What MODEL means on the command line: a run folder, a checkpoint, an .onnx artifact or the name of a network."""

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from slimfer.errors import InputError
from slimfer.files import read_json

if TYPE_CHECKING:
    from slimfer.train.checkpoint import Checkpoint


@dataclass(frozen=True)
class CheckpointFile:
    """A trained network of torch, `.safetensors`."""

    path: Path


@dataclass(frozen=True)
class ArtifactFile:
    """A network for onnxruntime, `.onnx`."""

    path: Path


@dataclass(frozen=True)
class Network:
    """An untrained network: a name of the zoo, or `package.module:function`."""

    name: str


Model = CheckpointFile | ArtifactFile | Network


def zoo() -> Mapping[str, Mapping[str, Any]]:
    """Return what the networks of the zoo cost, by name; a table, so that it can be read without torch."""
    table: Mapping[str, Mapping[str, Any]] = read_json(Path(__file__).with_name("zoo.json"))
    return table


def resolve(text: str, *, prefer: Literal["checkpoint", "artifact"] = "checkpoint") -> Model:
    """Return what `text` names; in a run folder that holds both, `prefer` decides.

    Raises:
        InputError: if it names nothing of ours.
    """
    path = Path(text)
    if path.is_dir():
        return _in_folder(path, prefer)
    if path.is_file() or path.suffix in (".onnx", ".safetensors"):
        return _file(path)
    if re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", text):
        return Network(text)
    names = list(zoo())
    if text in names:
        return Network(text)
    near = difflib.get_close_matches(text, names, n=1)
    advice = f"did you mean {near[0]!r}?" if near else f"the networks are {', '.join(names)}"
    raise InputError(f"{text!r} is neither a file nor a run folder nor a network; {advice}")


def load_checkpoint(text: str) -> "Checkpoint":
    """Read the trained network that `text` names.

    Raises:
        InputError: if it names an artifact, which cannot be trained or cut further, or an untrained network.
    """
    model = resolve(text)
    if isinstance(model, ArtifactFile):
        raise InputError(f"{model.path} is a finished artifact; this verb needs the checkpoint or run it came from")
    if isinstance(model, Network):
        raise InputError(f"{model.name} is an untrained network; first: slimfer train --model {model.name}")
    from slimfer.train.checkpoint import Checkpoint

    return Checkpoint.load(model.path)


def _file(path: Path) -> Model:
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    if path.suffix == ".onnx":
        return ArtifactFile(path)
    if path.suffix == ".safetensors":
        return CheckpointFile(path)
    raise InputError(f"{path} is neither a checkpoint (.safetensors) nor an artifact (.onnx)")


def _in_folder(path: Path, prefer: str) -> Model:
    checkpoint, artifact = path / "weights" / "best.safetensors", path / "model.onnx"
    found: dict[str, Model] = {}
    if checkpoint.is_file():
        found["checkpoint"] = CheckpointFile(checkpoint)
    if artifact.is_file():
        found["artifact"] = ArtifactFile(artifact)
    if not found:
        raise InputError(f"{path} holds no finished network (neither weights/best.safetensors nor model.onnx)")
    return found.get(prefer) or next(iter(found.values()))
