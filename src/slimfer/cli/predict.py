"""`slimfer predict`."""

import csv
import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter
from cyclopts.validators import Number

from slimfer.cli.classifier import Runtime, RuntimeName
from slimfer.cli.common import Answer, Common, table
from slimfer.cli.resolve import ArtifactFile, load_checkpoint, resolve
from slimfer.errors import InputError
from slimfer.report.numbers import percent

if TYPE_CHECKING:
    from slimfer.runtime.predict import Prediction, Recognizer

# A lone hyphen is a picture on stdin, so hyphens must reach `_sources`.
Picture = Annotated[str, Parameter(allow_leading_hyphen=True)]


def predict(
    image: Picture,
    /,
    *images: Picture,
    model: Annotated[str, Parameter(alias="-m")],
    format: Literal["table", "jsonl", "csv"] = "table",
    recursive: Annotated[bool, Parameter(alias="-r")] = False,
    threshold: Annotated[float, Parameter(validator=Number(gte=0, lte=1))] = 0.0,
    runtime: Runtime = "onnxruntime",
    common: Common = Common(),
) -> Answer | None:
    """Read the expression of face crops; a picture that cannot be read is a status in the answer, not an error.

    Args:
        image: a picture of one face, a folder of them, or - for a picture on stdin.
        images: more of them.
        model: an .onnx artifact, a run folder or a checkpoint.
        format: jsonl and csv print each answer as soon as it is there; --json prints one array.
        recursive: look into folders of folders, too.
        threshold: faces whose best score is below it are marked uncertain.
        runtime: see flags.
        common: see `Common`.
    """
    sources = list(_sources((image, *images), recursive))
    recognizer = _open(model, common, threshold, runtime)
    predictions = _answers(recognizer, sources)
    if common.json:
        return Answer([prediction.to_dict() for prediction in predictions])
    if format == "table":
        return Answer(None, (_table(list(predictions)),))
    for line in _jsonl(predictions) if format == "jsonl" else _csv(predictions, recognizer.labels):
        sys.stdout.write(line)
        sys.stdout.flush()
    return None


def _open(text: str, common: Common, threshold: float, runtime: RuntimeName) -> "Recognizer":
    """Open an artifact, or write the checkpoint as one in memory, so that both give the same answers."""
    from slimfer.runtime.predict import Recognizer

    source: Path | bytes
    model = resolve(text, prefer="artifact")
    if isinstance(model, ArtifactFile):
        source = model.path
    else:
        from slimfer.export.onnx import to_onnx

        source = to_onnx(load_checkpoint(text))
    return Recognizer(source, threads=common.thread_count(), threshold=threshold, runtime=runtime)


def _sources(names: tuple[str, ...], recursive: bool) -> Iterator[str]:
    """Give every picture that the arguments name.

    Raises:
        InputError: if one of them is not there, or is a folder without pictures.
    """
    from slimfer.images import SUFFIXES

    for name in names:
        path = Path(name)
        if path.is_dir():
            found = sorted(p for p in path.glob("**/*" if recursive else "*") if p.suffix.lower() in SUFFIXES)
            if not found:
                deeper = "" if recursive else "; --recursive looks into its folders, too"
                raise InputError(f"{name}: a folder without pictures ({', '.join(SUFFIXES)}){deeper}")
            yield from map(str, found)
        elif name == "-" or path.is_file():
            yield name
        else:
            raise InputError(f"{name}: no such {'option' if name.startswith('-') else 'file or folder'}")


def _answers(recognizer: "Recognizer", sources: list[str]) -> "Iterator[Prediction]":
    for source in sources:
        yield recognizer.predict(sys.stdin.buffer.read() if source == "-" else source)


def _table(predictions: "list[Prediction]") -> Any:
    rows = [(one.path or "-", *_verdict(one)) for one in predictions]
    return table(("picture", "expression", "score %", "note"), rows, numeric=(False, False, True, False))


def _verdict(prediction: "Prediction") -> tuple[str, str, str]:
    if prediction.status != "ok":
        return prediction.status, "", prediction.error or ""
    face = prediction.faces[0]
    return face.label, percent(face.score), "uncertain" if face.uncertain else ""


def _jsonl(predictions: "Iterator[Prediction]") -> Iterator[str]:
    for prediction in predictions:
        yield json.dumps(prediction.to_dict(), allow_nan=False) + "\n"


def _csv(predictions: "Iterator[Prediction]", labels: tuple[str, ...]) -> Iterator[str]:
    """Give the lines of a csv: one row per picture, one column per class."""
    yield _row("path", "status", "label", "score", "uncertain", *labels)
    for one in predictions:
        path = one.path or "-"
        if one.faces:
            face = one.faces[0]
            scores = (f"{face.scores[label]:.6f}" for label in labels)
            yield _row(path, one.status, face.label, f"{face.score:.6f}", str(face.uncertain).lower(), *scores)
        else:
            yield _row(path, one.status, *[""] * (3 + len(labels)))


def _row(*cells: str) -> str:
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerow(cells)
    return stream.getvalue()
