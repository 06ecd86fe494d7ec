"""What MODEL means on the command line: a run, a checkpoint, an artifact, a name of what ships or of a network."""

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from slimfer.errors import InputError
from slimfer.files import read_json
from slimfer.shipped import SHIPPED, model_file

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
    if path.exists() or path.suffix in (".onnx", ".safetensors") or text in SHIPPED:
        found = model_file(text, prefer)
        return ArtifactFile(found) if found.suffix == ".onnx" else CheckpointFile(found)
    if re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", text):
        return Network(text)
    names = list(zoo())
    if text in names:
        return Network(text)
    near = difflib.get_close_matches(text, [*names, *SHIPPED], n=1)
    known = f"the networks are {', '.join(names)}, the trained models {', '.join(SHIPPED)}"
    advice = f"did you mean {near[0]!r}?" if near else known
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
