"""Answers about a video as text: JSON lines or CSV, one row per face and frame, and one for a frame without faces."""

import csv
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

from slimfer.errors import InputError
from slimfer.runtime.video import Moment

ENDINGS = (".jsonl", ".ndjson", ".csv")
STDOUT = Path("-")

# Of a CSV, before raw_angry ... and smoothed_angry ...
COLUMNS = (
    "frame", "seconds", "status", "face", "track", "x", "y", "w", "h", "detection_score",
    "raw_label", "raw_score", "smoothed_label", "smoothed_score", "confidence", "uncertain", "smoothing", "error",
)  # fmt: skip


def rows(moment: Moment) -> list[dict[str, Any]]:
    """Return a row of JSON values for each face, or one without a face's columns.

    `raw_` is what the model says about this frame alone, `smoothed_` the average over the track with a half-life of
    `smoothing` seconds; status, confidence and uncertain are those of the average. Fractions have six digits.
    """
    smoothed = moment.smoothed
    about = {"frame": moment.frame, "seconds": round(moment.seconds, 6), "status": smoothed.status}
    last: dict[str, Any] = {"smoothing": moment.smoothing}
    if smoothed.error is not None:
        last["error"] = smoothed.error
    if not smoothed.faces:
        return [{**about, **last}]
    return [
        {
            **about,
            "face": number,
            "track": face.track,
            "box": asdict(face.box),
            "detection_score": None if face.detection_score is None else round(face.detection_score, 6),
            "raw_label": raw.label,
            "raw_score": round(raw.score, 6),
            "raw_scores": _rounded(raw.scores),
            "smoothed_label": face.label,
            "smoothed_score": round(face.score, 6),
            "smoothed_scores": _rounded(face.scores),
            "confidence": round(face.confidence, 6),
            "uncertain": face.uncertain,
            **last,
        }
        for number, (raw, face) in enumerate(zip(moment.prediction.faces, smoothed.faces, strict=True), 1)
    ]


class MomentFile:
    """A file that grows by whole rows, frame by frame, so that another program can follow it; a context manager."""

    def __init__(self, path: Path, labels: Sequence[str]) -> None:
        """Begin.

        Args:
            path: .jsonl or .csv, written over if it is there; `-` is JSON lines on stdout.
            labels: of the model.

        Raises:
            InputError: if it cannot be written, or its name says nothing.
        """
        self.path, self._labels = path, labels
        if path != STDOUT and path.suffix.lower() not in ENDINGS:
            raise InputError(f"{path}: the name of a file for answers ends in {', '.join(ENDINGS)}")
        try:
            if path != STDOUT:
                path.parent.mkdir(parents=True, exist_ok=True)
            # Beyond this object's construction the file is its own to close.
            self._stream = sys.stdout if path == STDOUT else open(path, "w", encoding="utf-8", newline="")  # noqa: SIM115
        except OSError as error:
            raise InputError(f"{path}: {error.strerror}") from None
        self._csv = csv.writer(self._stream, lineterminator="\n") if path.suffix.lower() == ".csv" else None
        if self._csv:
            head = (*COLUMNS, *(f"{kind}_{label}" for kind in ("raw", "smoothed") for label in labels))
            self._write([head])

    def write(self, moment: Moment) -> None:
        """Add the rows of a frame.

        Raises:
            InputError: if the disk is full or the like.
        """
        self._write([self._cells(row) if self._csv else row for row in rows(moment)])

    def close(self) -> None:
        """Close the file."""
        if self.path != STDOUT:
            self._stream.close()

    def __enter__(self) -> "MomentFile":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _write(self, lines: Sequence[Any]) -> None:
        try:
            if self._csv:
                self._csv.writerows(lines)
            else:
                self._stream.write("".join(json.dumps(line, allow_nan=False) + "\n" for line in lines))
            self._stream.flush()
        except BrokenPipeError:
            raise  # whoever reads stdout has had enough
        except OSError as error:
            raise InputError(f"{self.path}: {error.strerror}") from None

    def _cells(self, row: dict[str, Any]) -> list[Any]:
        flat = {**row, **row.get("box", {})}
        cells = [_cell(flat.get(column)) for column in COLUMNS]
        scores = [row.get(f"{kind}_scores", {}) for kind in ("raw", "smoothed")]
        return cells + [_cell(values.get(label)) for values in scores for label in self._labels]


def _rounded(scores: Mapping[str, float]) -> dict[str, float]:
    return {label: round(score, 6) for label, score in scores.items()}


def _cell(value: Any) -> Any:
    return "" if value is None else str(value).lower() if isinstance(value, bool) else value
