import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slimfer.calibration import MAX_TEMPERATURE, MIN_TEMPERATURE, Calibration, cross_fitted_errors, fit
from slimfer.errors import InputError
from slimfer.metrics import expected_calibration_error


def answers(n: int, sharpness: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities that are `sharpness` times too sure: labels are drawn from softmax(logits), not from these."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (n, 5))
    honest = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    labels = (honest.cumsum(1) < rng.random((n, 1))).sum(1)
    sharp = np.exp(logits * sharpness)
    return (sharp / sharp.sum(1, keepdims=True)).astype(np.float32), labels


def nll(probabilities: np.ndarray, labels: np.ndarray) -> float:
    return float(-np.log(np.maximum(probabilities[np.arange(len(labels)), labels], 1e-12)).mean())


@pytest.mark.parametrize("sharpness", [0.3, 1.0, 2.5, 6.0])
def test_the_temperature_undoes_how_sure_the_network_was(sharpness):
    probabilities, labels = answers(20_000, sharpness)
    found = fit(probabilities, labels)
    assert found.temperature == pytest.approx(sharpness, rel=0.05)
    assert expected_calibration_error(found.calibrated(probabilities), labels) < 0.02


def test_no_temperature_of_a_fine_grid_is_better():
    probabilities, labels = answers(500, 1.7, seed=3)
    best = nll(fit(probabilities, labels).calibrated(probabilities), labels)
    grid = np.geomspace(MIN_TEMPERATURE, MAX_TEMPERATURE, 200)
    assert best <= min(nll(Calibration(float(t)).calibrated(probabilities), labels) for t in grid) + 1e-5


@given(st.floats(0.1, 10), st.integers(0, 50))
def test_the_order_of_classes_stays_and_sums_are_one(temperature, seed):
    probabilities, _ = answers(20, 1.5, seed)
    softened = Calibration(temperature).calibrated(probabilities)
    assert np.allclose(softened.sum(1), 1, atol=1e-5)
    assert (softened.argmax(1) == probabilities.argmax(1)).all()
    assert (Calibration(temperature).confidence(probabilities) == softened.max(1)).all()


def test_temperature_one_changes_nothing_and_zeros_stay_finite():
    probabilities, _ = answers(20, 1.5)
    assert (Calibration().calibrated(probabilities) == probabilities).all()
    certain = np.eye(5, dtype=np.float32)
    assert np.isfinite(Calibration(2.0).calibrated(certain)).all()
    assert np.isfinite(fit(certain, np.array([0, 1, 2, 3, 0])).temperature)


def test_half_by_half_shows_a_gain_where_there_is_one_and_none_where_not():
    before, after = cross_fitted_errors(*answers(4_000, 3.0))
    assert after < before / 2
    before, after = cross_fitted_errors(*answers(4_000, 1.0))
    assert after == pytest.approx(before, abs=0.01)


def test_it_survives_the_way_through_json():
    one = Calibration(1.3, 0.4)
    assert Calibration.from_dict(one.to_dict()) == one
    assert Calibration.from_dict({}) == Calibration()


@pytest.mark.parametrize(
    "values",
    [
        [1.0], "x", None, {"temperature": "1"}, {"temperature": True}, {"temperature": 0}, {"temperature": 99},
        {"temperature": float("nan")}, {"threshold": -0.1}, {"threshold": 1.1}, {"threshold": None}, {"other": 1},
    ],
)  # fmt: skip
def test_other_values_are_refused(values):
    with pytest.raises(InputError):
        Calibration.from_dict(values)


def test_calibration_needs_pictures():
    with pytest.raises(InputError, match="not 0"):
        fit(np.zeros((0, 7), np.float32), np.zeros(0, np.int64))
