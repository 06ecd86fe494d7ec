"""`slimfer export`."""

import tomllib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter
from cyclopts.validators import Number

from slimfer.cli.common import Answer, Common
from slimfer.cli.resolve import ArtifactFile, load_checkpoint, resolve
from slimfer.errors import InputError
from slimfer.files import atomic_write, read_json
from slimfer.report.numbers import percent, size, whole

if TYPE_CHECKING:
    from slimfer.artifact import Artifact


def export(
    model: str,
    /,
    *,
    out: Annotated[Path, Parameter(alias="-o", help="The file to write, .onnx.")],
    data: Annotated[str | None, Parameter(help="Dataset whose validation split calibrates the confidence.")] = None,
    threshold: Annotated[float | None, Parameter(validator=Number(gte=0, lte=1))] = None,
    force: Annotated[bool, Parameter(help="Write over an existing file.")] = False,
    common: Common = Common(),
) -> Answer:
    """Write a run or a checkpoint as an artifact: one .onnx file, uint8 pixels in, probabilities out.

    With --data, a temperature is fitted to the validation split (Guo et al. 2017) and goes into the file, so that the
    runtime's confidence is the share of right answers to be expected; probabilities stay as they are.

    Args:
        model: a run folder or a checkpoint; with --data or --threshold also an artifact, which keeps all else.
        out: see flags.
        data: see flags.
        threshold: faces read with less confidence than this will be marked uncertain; goes into the file.
        force: see flags.
        common: see `Common`.
    """
    if out.suffix != ".onnx":
        raise InputError(f"{out}: an artifact's name ends in .onnx")
    if out.exists() and not force:
        raise InputError(f"{out} exists; --force writes over it")
    from slimfer.artifact import calibrated, open_artifact

    artifact = _written(model, again=data is not None or threshold is not None)
    told: dict[str, Any] = {}
    if data is not None:
        artifact, told = _calibrated(artifact, data, common)
    if threshold is not None:
        artifact = open_artifact(calibrated(artifact, replace(artifact.calibration, threshold=threshold)))
    atomic_write(out, artifact.data)
    told = {
        "path": str(out),
        "bytes": len(artifact.data),
        "sha256": artifact.sha256,
        "calibration": {**artifact.calibration.to_dict(), **told},
    }
    view = [f"{out}: {size(len(artifact.data))} ({len(artifact.data):,} bytes), sha256 {artifact.sha256}"]
    if data is not None:
        before, after, n = (told["calibration"][key] for key in ("ece_before", "ece_after", "n"))
        view.append(
            f"temperature {artifact.calibration.temperature:.3f}; calibration error {percent(before)} % without,"
            f" {percent(after)} % with it (halves of {whole(n)} validation pictures, each calibrated by the other)"
        )
    return Answer(told, view, f"slimfer predict FACE.jpg --model {out}")


def _written(model: str, again: bool) -> "Artifact":
    """Return the artifact of a run or checkpoint, read back through every check that a user's copy will meet.

    Args:
        model: what the user named.
        again: whether it may be an artifact, to be written again.
    """
    from slimfer.artifact import open_artifact

    found = resolve(model)
    if again and isinstance(found, ArtifactFile):
        return open_artifact(found.path)
    from slimfer.export.onnx import to_onnx

    checkpoint = load_checkpoint(model)
    scores, recipe = _recorded(Path(model))
    return open_artifact(to_onnx(checkpoint, scores=scores, recipe=recipe))


def _calibrated(artifact: "Artifact", data: str, common: Common) -> "tuple[Artifact, dict[str, Any]]":
    """Return the artifact with a fitted temperature, and what that changed, cross-fitted on two halves."""
    from slimfer.artifact import calibrated, open_artifact
    from slimfer.calibration import cross_fitted_errors, fit
    from slimfer.data.loader import load
    from slimfer.runtime.session import Session

    frames = load(data, image=artifact.image, channels=artifact.channels).get("validation")
    if frames is None or tuple(frames.classes) != artifact.labels:
        raise InputError(f"{data} needs a validation split with the classes {', '.join(artifact.labels)}")
    answers = Session(artifact, threads=common.thread_count()).run_all(frames.images)
    fitted = fit(answers, frames.labels, threshold=artifact.calibration.threshold)
    before, after = cross_fitted_errors(answers, frames.labels)
    errors = {"ece_before": before, "ece_after": after, "n": len(frames)}
    return open_artifact(calibrated(artifact, fitted)), errors


def _recorded(run: Path) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """Return the final scores and the recipe of a run folder; None for what is not there (a bare checkpoint)."""
    results, recipe = run / "results.json", run / "recipe.toml"
    scores = read_json(results)["stages"][-1].get("scores") if results.is_file() else None
    return scores, tomllib.loads(recipe.read_text(encoding="utf-8")) if recipe.is_file() else None
