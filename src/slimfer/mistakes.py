"""What a network gets wrong on labelled pictures: which classes a change cost, sure mistakes, and doubtful labels.

Shapes: N pictures, K classes. probabilities (N, K), labels and answers (N,).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from slimfer.metrics import Labels, Probabilities, paired_difference


@dataclass(frozen=True)
class LabelIssue:
    """A picture whose label is probably wrong.

    Attributes:
        index: of the picture.
        suggested: class that the network suggests.
        probability: of that class, 0-1.
        self_confidence: probability of the given label, 0-1.
    """

    index: int
    suggested: int
    probability: float
    self_confidence: float


def paired_change(labels: Labels, before: Labels, after: Labels, classes: Sequence[str]) -> dict[str, Any]:
    """Return what one network reads differently from another on the same pictures, as JSON values.

    Keys: `n`; `lost` (pictures that only `before` read correctly), `gained` (only `after`), `difference` of the
    accuracy and its `ci95` (see `metrics.paired_difference`); `per_class` the same of each class's pictures, with
    `support`, where `difference` is that of the recall.

    Args:
        labels: (N,) true classes.
        before: (N,) answers of the one.
        after: (N,) answers of the other.
        classes: names.
    """
    right_before, right_after = before == labels, after == labels

    def counted(chosen: npt.NDArray[np.bool_]) -> dict[str, Any]:
        old, new = right_before[chosen], right_after[chosen]
        difference, low, high = paired_difference(old, new)
        lost, gained = int((old & ~new).sum()), int((new & ~old).sum())
        return {"lost": lost, "gained": gained, "difference": difference, "ci95": [low, high]}

    per_class = {
        name: {"support": int((labels == number).sum()), **counted(labels == number)}
        for number, name in enumerate(classes)
    }
    return {"n": len(labels), **counted(np.ones(len(labels), bool)), "per_class": per_class}


def confident_mistakes(probabilities: Probabilities, labels: Labels, most: int) -> npt.NDArray[np.int64]:
    """Return the pictures that are read wrongly with the highest confidence, surest first; at most `most`."""
    wrong = np.flatnonzero(probabilities.argmax(1) != labels)
    return wrong[np.argsort(-probabilities[wrong].max(1), kind="stable")][:most]


def label_issues(probabilities: Probabilities, labels: Labels) -> list[LabelIssue]:
    """Return the pictures whose labels are probably wrong, the most doubtful first.

    Confident learning (Northcutt, Jiang and Chuang 2021, "Confident learning: estimating uncertainty in dataset
    labels", section 3.1): the threshold of a class is the mean probability that its own pictures get for it. A picture
    belongs to another class's pictures if its probability for that class is above the threshold; of several such
    classes the most probable. Departure: its own label must be below its own threshold as well, which spares pictures
    that fit both. Ranked by how far the suggested class is ahead of the given one (the normalized margin).

    Args:
        probabilities: (N, K), calibrated, of pictures that the network was not trained on.
        labels: (N,) given classes.
    """
    rows = np.arange(len(labels))
    own = probabilities[rows, labels]
    counts = np.bincount(labels, minlength=probabilities.shape[1])
    sums = np.bincount(labels, weights=own, minlength=probabilities.shape[1])
    # A class without pictures has no threshold and is never suggested.
    thresholds = np.where(counts > 0, sums / np.maximum(counts, 1), np.inf)
    above = np.where(probabilities > thresholds, probabilities, -1.0)
    above[rows, labels] = -1.0
    suggested = above.argmax(1)
    best = above[rows, suggested]
    found = np.flatnonzero((best > 0) & (own < thresholds[labels]))
    ranked = found[np.argsort(own[found] - best[found], kind="stable")]
    return [LabelIssue(int(i), int(suggested[i]), float(best[i]), float(own[i])) for i in ranked]
