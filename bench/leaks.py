"""How much of a validation accuracy comes from pictures that also stand in the training split."""

from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from slimfer.data.frames import Dataset, Frames
from slimfer.metrics import score
from slimfer.report.tables import Table
from slimfer.runtime.session import Session


def run(models: Sequence[Path | bytes], dataset: Dataset) -> dict[str, Any]:
    """Score artifacts on the validation pictures that are in the training split, and on those that are not."""
    validation = dataset["validation"]
    seen = set(_digests(dataset["train"]))
    leaked = np.array([digest in seen for digest in _digests(validation)])
    parts = {"all": np.ones(len(leaked), bool), "also in the training split": leaked, "new": ~leaked}
    rows = []
    for model in models:
        session = Session(model)
        probabilities = session.run_all(validation.images)
        for name, part in parts.items():
            scores = score(probabilities[part], validation.labels[part], validation.classes)
            keys = ("accuracy", "macro_f1", "ci95", "n")
            rows.append({"model": session.artifact.name, "pictures": name, **{key: scores[key] for key in keys}})
    return {"rows": rows}


def table(result: Mapping[str, Any]) -> Table:
    """Return the scores as a table."""
    rows = [
        (
            row["pictures"],
            f"{row['n']:,}",
            f"{100 * row['accuracy']:.2f} ({100 * row['ci95'][0]:.1f}–{100 * row['ci95'][1]:.1f})",
            f"{100 * row['macro_f1']:.2f}",
        )
        for row in result["rows"]
    ]
    return Table(("validation pictures", "number", "accuracy %", "macro-F1 %"), tuple(rows), (False, True, True, True))


def _digests(frames: Frames) -> list[bytes]:
    return [sha256(np.ascontiguousarray(image)).digest() for image in frames.images]
