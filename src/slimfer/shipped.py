"""The models that ship with slimfer, and which file a name, a run folder or a path means."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from slimfer.errors import InputError

_FOLDER = Path(__file__).with_name("artifacts")

# Name -> file; the first is the one that is used when none is named. Where they come from: artifacts/README.md.
SHIPPED: Mapping[str, Path] = {name: _FOLDER / f"{name}.onnx" for name in ("base", "small", "tiny")}
DEFAULT = next(iter(SHIPPED))


def model_file(path: str | Path, prefer: Literal["checkpoint", "artifact"] = "checkpoint") -> Path:
    """Return the checkpoint (.safetensors) or artifact (.onnx) that `path` is, or that the run folder `path` holds.

    Args:
        path: a file, a run folder, or the name of a model that ships (so that a name means the same in every folder, a
            run folder that is called like one is `./NAME`).
        prefer: which of the two, in a run folder that holds both.

    Raises:
        InputError: if there is none.
    """
    if isinstance(path, str) and path in SHIPPED:
        return SHIPPED[path]
    path = Path(path)
    if path.is_dir():
        found = {"checkpoint": path / "weights" / "best.safetensors", "artifact": path / "model.onnx"}
        held = {kind: file for kind, file in found.items() if file.is_file()}
        if not held:
            raise InputError(f"{path} holds no finished network (neither weights/best.safetensors nor model.onnx)")
        return held.get(prefer) or next(iter(held.values()))
    if path.is_file():
        if path.suffix not in (".safetensors", ".onnx"):
            raise InputError(f"{path} is neither a checkpoint (.safetensors) nor an artifact (.onnx)")
        return path
    raise InputError(f"{path}: no such file")
