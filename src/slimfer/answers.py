"""What every stage answered to every picture: in figures for results.json, in full in two plain files beside it.

- `answers.npy`: (1 + S, N) uint8 (uint16 from 257 classes on): true labels, then the answers of each stage.
- `pictures.npy`: (M, C, H, W) uint8: the pictures that the report shows, at most 48 pixels wide; only if wanted.

results.json holds their SHA-256, so that neither a damaged file nor one of another run is taken for them.
"""

import hashlib
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from slimfer.calibration import Calibration, cross_fitted_errors
from slimfer.files import atomic_write
from slimfer.metrics import Labels, Probabilities
from slimfer.mistakes import confident_mistakes, label_issues, paired_change

ANSWERS, PICTURES = "answers.npy", "pictures.npy"
SIDE = 48  # pixels of a kept picture
MISTAKES, ISSUES = 24, 120  # listed in results.json
SHOWN = 48  # labels in doubt with their pictures; mistakes are often the same ones

Pixels = npt.NDArray[np.uint8]


def examine(
    folder: Path,
    stages: Mapping[str, Probabilities],
    labels: Labels,
    classes: Sequence[str],
    *,
    images: Pixels,
    names: Sequence[str] = (),
    calibration: Calibration,
    pictures: bool = True,
) -> dict[str, Any]:
    """Write `answers.npy`, and `pictures.npy` if wanted, into a run's folder; return these parts of results.json.

    - `answers`: `path`, `sha256`, `stages` (the rows), and what tells whether another run saw the same pictures:
      `sha256_pictures` of the pixels, `sha256_names` (None without names).
    - `change`: `from`, `to`, and `slimfer.mistakes.paired_change` of the first and the last stage; only if there are
      two stages.
    - `calibration`: that of the last stage with `ece_before` and `ece_after`, cross-fitted, and `n`.
    - `mistakes`: the surest ones of the last stage: `index`, `name` (or None), `label`, `predicted`, calibrated
      `confidence`, `before` (what the first stage answered).
    - `label_issues`: `count`, and in `rows` the most doubtful: `index`, `name`, `label`, `suggested`, calibrated
      `probability` of the suggested class and `self_confidence` of the given one.
    - `pictures`: `path`, `sha256` and `index`, the picture of each row of the file; None if none are kept.

    Args:
        folder: of the run.
        stages: (N, K) probabilities of each stage by name; the first is the control, the last is what ships.
        labels: (N,) true classes.
        classes: their names.
        images: (N, C, H, W) the pictures.
        names: where each came from; may be empty.
        calibration: of the last stage.
        pictures: keep the pictures that the report shows.
    """
    answers = {name: probabilities.argmax(1) for name, probabilities in stages.items()}
    first, last = next(iter(answers)), next(reversed(answers))
    calibrated = calibration.calibrated(stages[last])
    issues = label_issues(calibrated, labels)
    mistakes = confident_mistakes(calibrated, labels, MISTAKES)

    def about(index: int) -> dict[str, Any]:
        return {"index": index, "name": names[index] if names else None, "label": classes[labels[index]]}

    before, after = cross_fitted_errors(stages[last], labels)
    parts: dict[str, Any] = {
        "answers": {
            "path": ANSWERS,
            "sha256": _write(folder / ANSWERS, _table(labels, answers.values(), len(classes))),
            "stages": list(answers),
            "sha256_pictures": hashlib.sha256(np.ascontiguousarray(images).data).hexdigest(),
            "sha256_names": hashlib.sha256("\0".join(names).encode(errors="surrogateescape")).hexdigest()
            if names
            else None,
        },
        "calibration": {**calibration.to_dict(), "ece_before": before, "ece_after": after, "n": len(labels)},
        "mistakes": [
            {
                **about(index),
                "predicted": classes[answers[last][index]],
                "confidence": round(float(calibrated[index].max()), 4),
                "before": classes[answers[first][index]],
            }
            for index in mistakes.tolist()
        ],
        "label_issues": {
            "count": len(issues),
            "rows": [
                {
                    **about(issue.index),
                    "suggested": classes[issue.suggested],
                    "probability": round(issue.probability, 4),
                    "self_confidence": round(issue.self_confidence, 4),
                }
                for issue in issues[:ISSUES]
            ],
        },
        "pictures": None,
    }
    if first != last:
        changed = paired_change(labels, answers[first], answers[last], classes)
        parts["change"] = {"from": first, "to": last, **changed}
    if pictures:
        shown = list(dict.fromkeys([*mistakes.tolist(), *(issue.index for issue in issues[:SHOWN])]))
        written = _write(folder / PICTURES, _small(images[shown]))
        parts["pictures"] = {"path": PICTURES, "sha256": written, "index": shown}
    else:
        (folder / PICTURES).unlink(missing_ok=True)  # of an earlier run that was asked otherwise
    return parts


def read_answers(folder: Path, part: Mapping[str, Any] | None) -> dict[str, Labels] | None:
    """Return the answers of each stage by name, the true labels under the empty name.

    None if there are none, or if the file is not the one that results.json speaks of.

    Args:
        folder: of the run.
        part: `answers` of its results.json.
    """
    table = _read(folder / ANSWERS, part)
    if part is None or table is None or table.ndim != 2 or len(table) != 1 + len(part["stages"]):
        return None
    return dict(zip(("", *part["stages"]), table.astype(np.int64), strict=True))


def read_pictures(folder: Path, part: Mapping[str, Any] | None) -> dict[int, Pixels] | None:
    """Return the kept pictures, (C, H, W) each, by their number; None as for `read_answers`.

    Args:
        folder: of the run.
        part: `pictures` of its results.json.
    """
    pixels = _read(folder / PICTURES, part)
    if part is None or pixels is None or pixels.ndim != 4 or len(pixels) != len(part["index"]):
        return None
    return dict(zip(part["index"], pixels, strict=True))


def same_pictures(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Return whether two runs were judged on the same pictures, by `answers` of their results.json.

    Pixels differ if one run reads them in another size or in colour; then equal names do.
    """
    named = one["sha256_names"] is not None and one["sha256_names"] == other["sha256_names"]
    return named or one["sha256_pictures"] == other["sha256_pictures"]


def _table(labels: Labels, answers: Any, classes: int) -> npt.NDArray[Any]:
    return np.stack([labels, *answers]).astype(np.min_scalar_type(max(classes - 1, 0)))


def _small(images: Pixels) -> Pixels:
    """Return the pictures in the size of thumbnails; smaller ones stay as they are."""
    side = images.shape[2]
    if side <= SIDE or not len(images):
        return np.ascontiguousarray(images)
    planes = images.reshape(-1, side, images.shape[3])
    scaled = [np.asarray(Image.fromarray(plane).resize((SIDE, SIDE), Image.Resampling.BOX)) for plane in planes]
    return np.stack(scaled).reshape(*images.shape[:2], SIDE, SIDE)


def _write(path: Path, array: npt.NDArray[Any]) -> str:
    """Write an array as .npy and return its SHA-256."""
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=False)
    atomic_write(path, stream.getvalue())
    return hashlib.sha256(stream.getvalue()).hexdigest()


def _read(path: Path, part: Mapping[str, Any] | None) -> npt.NDArray[Any] | None:
    if part is None or not path.is_file():
        return None
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != part["sha256"]:
        return None
    try:
        loaded: npt.NDArray[Any] = np.load(io.BytesIO(data), allow_pickle=False)
    except ValueError:  # not an array of numbers
        return None
    return loaded
