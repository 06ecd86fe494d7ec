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
from slimfer.files import atomic_write, write_text
from slimfer.report.numbers import percent, size, whole
from slimfer.report.results import Results, load_results, parse_results

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

    The model card is written beside it, model.md for model.onnx, if the run has results.

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
    from slimfer.report.card import is_card

    results, card = _results(Path(model)), out.with_suffix(".md")
    if results is not None and card.exists() and not is_card(card):
        raise InputError(f"{card}, where the model card goes, exists and is not one of slimfer")

    artifact = _written(model, results, again=data is not None or threshold is not None)
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
    if results is not None:
        write_text(card, _card(results, artifact, out, told))
        told["card"] = str(card)
    view = [f"{out}: {size(len(artifact.data))} ({len(artifact.data):,} bytes), sha256 {artifact.sha256}"]
    if data is not None:
        before, after, n = (told["calibration"][key] for key in ("ece_before", "ece_after", "n"))
        view.append(
            f"temperature {artifact.calibration.temperature:.3f}; calibration error {percent(before)} % without,"
            f" {percent(after)} % with it (halves of {whole(n)} validation pictures, each calibrated by the other)"
        )
    return Answer(told, view, f"slimfer predict FACE.jpg --model {out}")


def _written(model: str, results: Results | None, *, again: bool) -> "Artifact":
    """Return the artifact of a run or checkpoint, read back through every check that a user's copy will meet.

    Args:
        model: what the user named.
        results: of the run, if it has some; what they know of calibration goes into the artifact.
        again: whether it may be an artifact, to be written again.
    """
    from slimfer.artifact import calibrated, open_artifact

    found = resolve(model)
    if again and isinstance(found, ArtifactFile):
        return open_artifact(found.path)
    from slimfer.export.onnx import to_onnx

    checkpoint = load_checkpoint(model)
    # What a search found is a recipe of its own; the run's tells only what it was asked for.
    recipe = next((file for name in ("found.toml", "recipe.toml") if (file := Path(model) / name).is_file()), None)
    artifact = open_artifact(
        to_onnx(
            checkpoint,
            scores=None if results is None else results.last.scores,
            recipe=tomllib.loads(recipe.read_text(encoding="utf-8")) if recipe is not None else None,
        )
    )
    if results is None or results.calibration is None:
        return artifact
    from slimfer.calibration import Calibration

    known = {name: results.calibration[name] for name in ("temperature", "threshold")}
    return open_artifact(calibrated(artifact, Calibration.from_dict(known)))


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


def _results(run: Path) -> Results | None:
    """Return the results of a run folder; None for what has none (a bare checkpoint, an artifact)."""
    file = run / "results.json"
    return load_results(file) if file.is_file() else None


def _card(results: Results, artifact: "Artifact", out: Path, told: dict[str, Any]) -> str:
    """Return the model card of what was exported: the run's results with the file as it is now.

    Args:
        results: of the run.
        artifact: what was written.
        out: where.
        told: what the verb answers about it.
    """
    from slimfer.report.card import model_card

    calibration = told["calibration"]
    if "ece_before" not in calibration:  # not fitted now: the run's own figures hold as long as its temperature does
        known = results.calibration
        same = known is not None and known["temperature"] == calibration["temperature"]
        calibration = {**known, **calibration} if known is not None and same else None
    data = {**results.data, "calibration": calibration}
    data["artifact"] = {"path": out.name, **{key: told[key] for key in ("bytes", "sha256")}}
    return model_card(parse_results(data), channels=artifact.channels, image=artifact.image)
