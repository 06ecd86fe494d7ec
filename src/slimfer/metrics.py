"""Scores of a classifier from its probabilities; names as in CONVENTIONS (fractions 0-1).

Shapes: N pictures, K classes. probabilities (N, K), labels (N,).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Probabilities = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]
Hits = npt.NDArray[np.bool_]


def confusion(labels: Labels, predicted: Labels, classes: int) -> npt.NDArray[np.int64]:
    """Return (K, K) counts: rows are true classes, columns predicted ones."""
    return np.bincount(labels * classes + predicted, minlength=classes**2).reshape(classes, classes)


def score(probabilities: Probabilities, labels: Labels, classes: Sequence[str]) -> dict[str, Any]:
    """Return all scores of one evaluation as JSON values.

    Keys: `accuracy`, `macro_f1`, `balanced_accuracy`, `per_class`, `nll`, `ece`, `n`, `ci95` (of the accuracy, Wilson),
    `confusion` (rows = truth). Classes without pictures count 0 in macro-F1 and are left out of balanced accuracy.
    """
    k = len(classes)
    n = len(labels)
    predicted = probabilities.argmax(1)
    matrix = confusion(labels, predicted, k)
    hits = np.diag(matrix).astype(float)
    support, read = matrix.sum(1), matrix.sum(0)
    precision = hits / np.maximum(read, 1)
    recall = hits / np.maximum(support, 1)
    f1 = 2 * hits / np.maximum(support + read, 1)
    return {
        "accuracy": float(hits.sum() / max(n, 1)),
        "macro_f1": float(f1.mean()),
        "balanced_accuracy": float(recall[support > 0].mean()) if n else 0.0,
        "per_class": {
            name: {
                "precision": float(precision[i]),
                "recall": float(recall[i]),
                "f1": float(f1[i]),
                "support": int(support[i]),
            }
            for i, name in enumerate(classes)
        },
        "nll": float(-np.log(np.maximum(probabilities[np.arange(n), labels], 1e-12)).mean()) if n else 0.0,
        "ece": expected_calibration_error(probabilities, labels),
        "n": n,
        "ci95": list(wilson(int(hits.sum()), n)),
        "confusion": matrix.tolist(),
    }


def wilson(hits: int, n: int, z: float = 1.959964) -> tuple[float, float]:
    """Return Wilson's 95 % score interval for a share of `hits` in `n` trials."""
    if n == 0:
        return 0.0, 1.0
    p = hits / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    # At p = 0 and p = 1 the bound equals p exactly; rounding must not push it past.
    return float(min(max(0.0, centre - half), p)), float(max(min(1.0, centre + half), p))


def paired_difference(before: Hits, after: Hits, z: float = 1.959964) -> tuple[float, float, float]:
    """Return after - before, and its 95 % interval, for two shares of hits on the same n pictures.

    Only pictures on which the two differ count, so the interval is far tighter than those of the shares themselves.
    Half a picture is added to each of the four cells of the table of hits and misses, which keeps the interval honest
    where hardly any differ (Agresti and Min 2005, Statistics in Medicine 24(5), section 3).

    Args:
        before: (n,) whether each picture was read correctly.
        after: (n,) the same by the other network.
        z: quantile of the normal distribution.
    """
    n = len(before) + 2
    gained, lost = int((after & ~before).sum()) + 0.5, int((before & ~after).sum()) + 0.5
    difference = (int(after.sum()) - int(before.sum())) / max(len(before), 1)
    middle = (gained - lost) / n
    half = z * float(np.sqrt(gained + lost - (gained - lost) ** 2 / n)) / n
    return difference, max(-1.0, min(middle - half, difference)), min(1.0, max(middle + half, difference))


def reliability(probabilities: Probabilities, labels: Labels, bins: int = 15) -> list[tuple[float, float, int]]:
    """Return (mean confidence, accuracy, count) for each non-empty bin of equal width in confidence."""
    confidence = probabilities.max(1)
    hit = probabilities.argmax(1) == labels
    index = np.minimum((confidence * bins).astype(int), bins - 1)
    return [
        (float(confidence[index == b].mean()), float(hit[index == b].mean()), int((index == b).sum()))
        for b in range(bins)
        if (index == b).any()
    ]


def expected_calibration_error(probabilities: Probabilities, labels: Labels, bins: int = 15) -> float:
    """Return the mean gap between confidence and accuracy over bins (Guo et al. 2017, equation 3)."""
    rows = reliability(probabilities, labels, bins)
    return float(sum(abs(c - a) * n for c, a, n in rows) / max(len(labels), 1))


def sqnr_db(reference: npt.NDArray[np.float32], other: npt.NDArray[np.float32]) -> float:
    """Return the signal-to-quantization-noise ratio in dB, `inf` for equal arrays."""
    noise = float(np.square(reference - other, dtype=np.float64).sum())
    signal = float(np.square(reference, dtype=np.float64).sum())
    return float("inf") if noise == 0 else float(10 * np.log10(max(signal, 1e-30) / noise))
