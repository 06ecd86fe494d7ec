"""`slimfer export`."""

import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from slimfer.cli.common import Answer, Common
from slimfer.cli.resolve import load_checkpoint
from slimfer.errors import InputError
from slimfer.files import atomic_write, read_json
from slimfer.report.numbers import size

if TYPE_CHECKING:
    from slimfer.artifact import Artifact


def export(
    model: str,
    /,
    *,
    out: Annotated[Path, Parameter(alias="-o", help="The file to write, .onnx.")],
    force: Annotated[bool, Parameter(help="Write over an existing file.")] = False,
    common: Common = Common(),
) -> Answer:
    """Write a run or a checkpoint as an artifact: one .onnx file, uint8 pixels in, probabilities out.

    Args:
        model: a run folder or a checkpoint.
        out: see flags.
        force: see flags.
        common: see `Common`.
    """
    if out.suffix != ".onnx":
        raise InputError(f"{out}: an artifact's name ends in .onnx")
    if out.exists() and not force:
        raise InputError(f"{out} exists; --force writes over it")
    artifact = _written(model)
    atomic_write(out, artifact.data)
    told = {"path": str(out), "bytes": len(artifact.data), "sha256": artifact.sha256}
    view = f"{out}: {size(len(artifact.data))} ({len(artifact.data):,} bytes), sha256 {artifact.sha256}"
    return Answer(told, (view,), f"slimfer predict FACE.jpg --model {out}")


def _written(model: str) -> "Artifact":
    """Return the artifact of a run or checkpoint, read back through every check that a user's copy will meet."""
    from slimfer.artifact import open_artifact
    from slimfer.export.onnx import to_onnx

    checkpoint = load_checkpoint(model)
    scores, recipe = _recorded(Path(model))
    return open_artifact(to_onnx(checkpoint, scores=scores, recipe=recipe))


def _recorded(run: Path) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """Return the final scores and the recipe of a run folder; None for what is not there (a bare checkpoint)."""
    results, recipe = run / "results.json", run / "recipe.toml"
    scores = read_json(results)["stages"][-1].get("scores") if results.is_file() else None
    return scores, tomllib.loads(recipe.read_text(encoding="utf-8")) if recipe.is_file() else None
