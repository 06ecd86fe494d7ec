"""From a network's probabilities to a confidence that can be believed: temperature scaling, and when to abstain.

Guo et al. 2017, "On calibration of modern neural networks", section 4.2: one temperature T for all logits, chosen so
that the validation split gets the least negative log likelihood. It never changes which class comes first.

Shapes: N pictures, K classes. probabilities (N, K), labels (N,).
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from slimfer.errors import InputError
from slimfer.metrics import expected_calibration_error

Probabilities = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]

MIN_TEMPERATURE, MAX_TEMPERATURE = 0.05, 20.0
_SMALLEST = 1e-12  # a probability that a network rounded to 0 must not become a logit of minus infinity


@dataclass(frozen=True)
class Calibration:
    """How an artifact's probabilities become confidences.

    Attributes:
        temperature: that the logits are divided by; above 1 the network was too sure of itself.
        threshold: confidence below which an answer is marked uncertain, in [0, 1]; 0 = never.
    """

    temperature: float = 1.0
    threshold: float = 0.0

    def __post_init__(self) -> None:
        """Refuse values outside their range."""
        if not MIN_TEMPERATURE <= self.temperature <= MAX_TEMPERATURE:
            raise InputError(
                f"temperature must be between {MIN_TEMPERATURE} and {MAX_TEMPERATURE:g}, not {self.temperature}"
            )
        if not 0 <= self.threshold <= 1:
            raise InputError(f"threshold must be between 0 and 1, not {self.threshold}")

    def calibrated(self, probabilities: Probabilities) -> Probabilities:
        """Return (N, K) probabilities softened by the temperature; `softmax(logits / T)`."""
        if self.temperature == 1:
            return probabilities
        logits = np.log(np.maximum(probabilities, _SMALLEST)) / np.float32(self.temperature)
        powers = np.exp(logits - logits.max(-1, keepdims=True))
        result: Probabilities = powers / powers.sum(-1, keepdims=True)
        return result

    def confidence(self, probabilities: Probabilities) -> npt.NDArray[np.float32]:
        """Return (N,) calibrated probabilities that the class that comes first is the right one."""
        result: npt.NDArray[np.float32] = self.calibrated(probabilities).max(-1)
        return result

    def to_dict(self) -> dict[str, float]:
        """Return JSON values."""
        return asdict(self)

    @staticmethod
    def from_dict(values: Any) -> "Calibration":
        """Return what `to_dict` wrote; unknown keys are refused, missing ones have their defaults.

        Raises:
            InputError: if the values are no numbers in their range.
        """
        known = Calibration().to_dict()
        if not isinstance(values, Mapping) or not set(values) <= set(known):
            raise InputError(f"a calibration holds {', '.join(known)}, not {values!r}")
        if any(isinstance(value, bool) or not isinstance(value, int | float) for value in values.values()):
            raise InputError(f"the values of a calibration are numbers, not {values!r}")
        return Calibration(**values)


def fit(probabilities: Probabilities, labels: Labels, *, threshold: float = 0.0) -> Calibration:
    """Return the calibration with the temperature of least negative log likelihood.

    Args:
        probabilities: (N, K) of pictures that the network was not trained on.
        labels: (N,) their true classes.
        threshold: see `Calibration`.

    Raises:
        InputError: if there are no pictures.
    """
    if not len(labels):
        raise InputError("calibration needs labelled pictures, not 0")
    logits = np.log(np.maximum(probabilities.astype(np.float64), _SMALLEST))
    rows = np.arange(len(labels))

    def loss(log_t: float) -> float:
        scaled = logits / np.exp(log_t)
        top = scaled.max(1)
        return float((np.log(np.exp(scaled - top[:, None]).sum(1)) + top - scaled[rows, labels]).mean())

    # The loss is convex in 1/T, so it has one valley in log T as well, and golden sections close in on it.
    low, high = np.log(MIN_TEMPERATURE), np.log(MAX_TEMPERATURE)
    ratio = (np.sqrt(5) - 1) / 2
    while high - low > 1e-4:
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        low, high = (low, right) if loss(left) <= loss(right) else (left, high)
    found = float(np.clip(np.exp((low + high) / 2), MIN_TEMPERATURE, MAX_TEMPERATURE))
    return Calibration(round(found, 4), threshold)


def cross_fitted_errors(probabilities: Probabilities, labels: Labels) -> tuple[float, float]:
    """Return the expected calibration error without and with `fit`, each half of the pictures calibrated by the other.

    Every second picture makes a half. A temperature judged on the pictures that it was fitted to looks too good; and
    since few pictures alone give some error, both figures are means over the same halves.
    """
    halves = slice(0, None, 2), slice(1, None, 2)
    before, after = [], []
    for own, other in (halves, halves[::-1]):
        if len(labels[own]) and len(labels[other]):
            answers = probabilities[own]
            softened = fit(probabilities[other], labels[other]).calibrated(answers)
            before.append(expected_calibration_error(answers, labels[own]))
            after.append(expected_calibration_error(softened, labels[own]))
    return sum(before) / max(len(before), 1), sum(after) / max(len(after), 1)
