import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slimfer.mistakes import confident_mistakes, label_issues, paired_change

CLASSES = ("angry", "happy", "neutral")
ANSWERS = st.integers(0, len(CLASSES) - 1)


@given(st.lists(st.tuples(ANSWERS, ANSWERS, ANSWERS), min_size=1, max_size=40))
def test_paired_counts_add_up(rows):
    labels, before, after = (np.array(column) for column in zip(*rows, strict=True))
    change = paired_change(labels, before, after, CLASSES)
    per_class = change["per_class"].values()
    assert change["n"] == len(rows) == sum(row["support"] for row in per_class)
    for key in ("lost", "gained"):
        assert change[key] == sum(row[key] for row in per_class)
    assert change["difference"] == pytest.approx((after == labels).mean() - (before == labels).mean())
    for row in (change, *per_class):
        low, high = row["ci95"]
        assert -1 <= low <= row["difference"] <= high <= 1
        assert row["difference"] == pytest.approx((row["gained"] - row["lost"]) / max(row.get("support", len(rows)), 1))


@given(st.lists(st.tuples(ANSWERS, ANSWERS, ANSWERS), min_size=1, max_size=20))
def test_backwards_what_was_lost_is_gained(rows):
    labels, before, after = (np.array(column) for column in zip(*rows, strict=True))
    there, back = paired_change(labels, before, after, CLASSES), paired_change(labels, after, before, CLASSES)
    assert (there["lost"], there["gained"]) == (back["gained"], back["lost"])
    assert there["ci95"] == pytest.approx([-bound for bound in back["ci95"][::-1]])


def test_the_surest_mistakes_come_first():
    probabilities = np.array([[0.9, 0.1, 0], [0.2, 0.8, 0], [0.6, 0, 0.4], [0.1, 0.2, 0.7]], np.float32)
    labels = np.array([1, 1, 1, 0])
    assert confident_mistakes(probabilities, labels, 10).tolist() == [0, 3, 2]
    assert confident_mistakes(probabilities, labels, 2).tolist() == [0, 3]
    assert confident_mistakes(probabilities, probabilities.argmax(1), 10).tolist() == []


def sure_reader(labels, seed, sureness=6.0):
    """Return probabilities of a reader that knows the true classes, and is calibrated: it errs as often as it says."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(size=(len(labels), len(CLASSES)))
    logits[np.arange(len(labels)), labels] += sureness
    powers = np.exp(logits)
    return (powers / powers.sum(1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("seed", range(3))
def test_planted_label_errors_are_found_and_their_true_class_is_suggested(seed):
    truth = np.arange(600) % 3
    probabilities = sure_reader(truth, seed)
    planted = np.random.default_rng(seed + 50).choice(600, 30, replace=False)
    given_labels = truth.copy()
    given_labels[planted] = (truth[planted] + 1) % 3
    found = label_issues(probabilities, given_labels)
    # Of the true class's own pictures about half get a probability above the mean; planted ones likewise.
    right = [issue for issue in found if issue.index in set(planted.tolist())]
    assert len(right) >= 20
    assert all(issue.suggested == truth[issue.index] for issue in right)
    assert len(right) / len(found) > 0.9
    margins = [issue.probability - issue.self_confidence for issue in found]
    assert margins == sorted(margins, reverse=True)
    assert {issue.index for issue in found[:10]} <= set(planted.tolist())


@pytest.mark.parametrize("seed", range(3))
def test_a_clean_set_gives_few(seed):
    truth = np.arange(600) % 3
    assert len(label_issues(sure_reader(truth, seed), truth)) <= 6


def slow_issues(probabilities, labels):
    """The definition, picture by picture."""
    k = probabilities.shape[1]
    means = {c: probabilities[labels == c, c].astype(float).mean() for c in range(k) if (labels == c).any()}
    found = {}
    for index, (row, label) in enumerate(zip(probabilities, labels, strict=True)):
        others = [c for c in means if c != label and row[c] > means[c]]
        if others and row[label] < means[label]:
            found[index] = max(others, key=lambda c: row[c])
    return found


@pytest.mark.parametrize("seed", range(5))
def test_they_are_those_of_the_definition(seed):
    generator = np.random.default_rng(seed)
    probabilities = generator.dirichlet(np.ones(5), 80).astype(np.float32)
    labels = generator.integers(0, 4, 80)  # no picture of the last class
    found = {issue.index: issue.suggested for issue in label_issues(probabilities, labels)}
    assert found == slow_issues(probabilities, labels)
    assert len(found) > 10
    assert 4 not in found.values()
