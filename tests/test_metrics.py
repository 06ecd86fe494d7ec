import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slimfer.metrics import (
    confusion,
    expected_calibration_error,
    paired_difference,
    reliability,
    score,
    sqnr_db,
    wilson,
)

CLASSES = ("a", "b", "c", "d")


@st.composite
def answers(draw):
    n = draw(st.integers(1, 60))
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    probabilities = generator.dirichlet([0.5] * len(CLASSES), n).astype(np.float32)
    return probabilities, generator.integers(0, len(CLASSES), n)


def slow_f1(labels, predicted, index):
    """F1 from precision and recall by counting, as a textbook has it."""
    hit = sum(t == index and p == index for t, p in zip(labels, predicted, strict=True))
    read = sum(p == index for p in predicted)
    true = sum(t == index for t in labels)
    if hit == 0:
        return 0.0
    precision, recall = hit / read, hit / true
    return 2 * precision * recall / (precision + recall)


@given(answers())
def test_score_equals_counting_by_hand(answer):
    probabilities, labels = answer
    predicted = [int(np.argmax(row)) for row in probabilities]
    result = score(probabilities, labels, CLASSES)
    assert result["accuracy"] == pytest.approx(np.mean([t == p for t, p in zip(labels, predicted, strict=True)]))
    f1 = [slow_f1(labels, predicted, index) for index in range(len(CLASSES))]
    assert result["macro_f1"] == pytest.approx(sum(f1) / len(f1))
    assert [row["f1"] for row in result["per_class"].values()] == pytest.approx(f1)
    recalls = [np.mean([p == i for t, p in zip(labels, predicted, strict=True) if t == i]) for i in set(labels)]
    assert result["balanced_accuracy"] == pytest.approx(np.mean(recalls))
    nll = -np.mean([math.log(max(float(row[t]), 1e-12)) for row, t in zip(probabilities, labels, strict=True)])
    assert result["nll"] == pytest.approx(nll, rel=1e-5)
    assert result["n"] == len(labels)


@given(answers(), st.integers(0, 2**32 - 1))
def test_order_of_the_pictures_does_not_matter(answer, seed):
    probabilities, labels = answer
    order = np.random.default_rng(seed).permutation(len(labels))
    before, after = score(probabilities, labels, CLASSES), score(probabilities[order], labels[order], CLASSES)
    assert after["confusion"] == before["confusion"]
    assert after["macro_f1"] == before["macro_f1"]
    assert after["nll"] == pytest.approx(before["nll"], rel=1e-5)
    assert after["ece"] == pytest.approx(before["ece"], abs=1e-6)


@given(answers(), st.permutations(range(len(CLASSES))))
def test_renaming_the_classes_changes_no_overall_score(answer, order):
    probabilities, labels = answer
    inverse = np.argsort(order)
    renamed = score(probabilities[:, order], inverse[labels], CLASSES)
    plain = score(probabilities, labels, CLASSES)
    for key in ("accuracy", "macro_f1", "balanced_accuracy"):
        assert renamed[key] == pytest.approx(plain[key])


@given(answers())
def test_confusion_holds_every_picture_once(answer):
    probabilities, labels = answer
    matrix = confusion(labels, probabilities.argmax(1), len(CLASSES))
    assert matrix.sum() == len(labels)
    assert matrix.sum(1).tolist() == np.bincount(labels, minlength=len(CLASSES)).tolist()


def test_confusion_has_truth_in_rows():
    assert confusion(np.array([0, 0, 1]), np.array([1, 1, 1]), 2).tolist() == [[0, 2], [0, 1]]


def test_a_perfect_answer_scores_one():
    labels = np.array([0, 1, 2, 3, 3])
    result = score(np.eye(4, dtype=np.float32)[labels], labels, CLASSES)
    assert (result["accuracy"], result["macro_f1"], result["balanced_accuracy"]) == (1, 1, 1)
    assert (result["nll"], result["ece"]) == (0, 0)
    assert result["ci95"][1] == 1


def test_a_class_without_pictures_counts_zero_in_macro_f1_and_not_in_balanced_accuracy():
    result = score(np.eye(4, dtype=np.float32)[[0, 1]], np.array([0, 1]), CLASSES)
    assert result["macro_f1"] == pytest.approx(0.5)
    assert result["balanced_accuracy"] == 1


def test_no_pictures_at_all_give_numbers_all_the_same():
    result = score(np.empty((0, 4), np.float32), np.empty(0, np.int64), CLASSES)
    assert result["n"] == 0
    assert result["accuracy"] == 0
    assert result["ci95"] == [0, 1]


@given(st.integers(1, 5000), st.data())
def test_wilson_solves_its_defining_equation(n, data):
    """Both ends p satisfy |hits/n - p| = z sqrt(p (1 - p) / n) (Wilson 1927)."""
    hits = data.draw(st.integers(0, n))
    low, high = wilson(hits, n)
    assert 0 <= low <= hits / n <= high <= 1
    for end in (low, high):
        if 1e-9 < end < 1 - 1e-9:
            assert abs(hits / n - end) == pytest.approx(1.959964 * math.sqrt(end * (1 - end) / n), rel=1e-6, abs=1e-9)


def test_wilson_of_a_published_example():
    """Newcombe 1998, table I: 81 of 263 gives 0.2553 to 0.3662."""
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)


@given(answers(), st.integers(1, 30))
def test_reliability_holds_every_picture_once_and_in_order(answer, bins):
    rows = reliability(*answer, bins=bins)
    assert sum(count for _, _, count in rows) == len(answer[1])
    confidences = [confidence for confidence, _, _ in rows]
    assert confidences == sorted(confidences)


@given(answers())
def test_calibration_error_of_one_bin_is_confidence_minus_accuracy(answer):
    probabilities, labels = answer
    gap = abs(probabilities.max(1).mean() - (probabilities.argmax(1) == labels).mean())
    assert expected_calibration_error(probabilities, labels, bins=1) == pytest.approx(gap, abs=1e-6)


def test_calibration_error_of_a_sure_and_wrong_answer_is_one():
    assert expected_calibration_error(np.eye(2, dtype=np.float32), np.array([1, 0])) == 1


@given(st.integers(0, 2**32 - 1), st.floats(0.01, 100))
@settings(max_examples=50)
def test_sqnr_does_not_depend_on_the_scale_and_falls_by_20_db_per_tenfold_noise(seed, scale):
    generator = np.random.default_rng(seed)
    signal, noise = generator.normal(size=(2, 50)).astype(np.float64)
    plain = sqnr_db(signal, signal + 0.01 * noise)
    assert sqnr_db(scale * signal, scale * (signal + 0.01 * noise)) == pytest.approx(plain, abs=1e-6)
    assert sqnr_db(signal, signal + 0.1 * noise) == pytest.approx(plain - 20, abs=1e-6)


def test_sqnr_of_equal_arrays_is_infinite():
    assert sqnr_db(np.ones(3, np.float32), np.ones(3, np.float32)) == math.inf


@given(n=st.integers(1, 300), seed=st.integers(0, 1000), share=st.floats(0, 1))
def test_the_paired_difference_lies_in_its_interval(n: int, seed: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    before, after = rng.random(n) < 0.6, rng.random(n) < share
    difference, low, high = paired_difference(before, after)
    assert difference == pytest.approx(after.mean() - before.mean())
    assert -1 <= low <= difference <= high <= 1
    back, low_back, high_back = paired_difference(after, before)
    assert (back, low_back, high_back) == pytest.approx((-difference, -high, -low))


def test_the_paired_interval_holds_what_it_promises_and_is_tighter() -> None:
    """Networks that differ on one picture in twenty: the true difference, 3 points, is inside 19 times of 20."""
    rng = np.random.default_rng(0)
    inside, widths = 0, []
    for _ in range(1000):
        before = rng.random(400) < 0.6
        lost, gained = before & (rng.random(400) < 0.06 / 0.6), ~before & (rng.random(400) < 0.03 / 0.4)
        _, low, high = paired_difference(before, (before & ~lost) | gained)
        inside += low <= -0.03 <= high
        widths.append(high - low)
    assert 0.935 <= inside / 1000 <= 0.975
    low, high = wilson(240, 400)
    assert np.mean(widths) < 0.7 * (high - low)


def test_equal_answers_still_have_an_interval() -> None:
    hits = np.ones(100, dtype=bool)
    assert paired_difference(hits, hits) == pytest.approx((0, -0.0192, 0.0192), abs=1e-3)
