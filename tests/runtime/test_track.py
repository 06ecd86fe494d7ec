import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slimfer.errors import InputError
from slimfer.runtime.answer import Box
from slimfer.runtime.track import MEMORY, Smoother, Tracker

boxes = st.builds(Box, st.integers(0, 600), st.integers(0, 400), st.integers(1, 300), st.integers(1, 300))
videos = st.lists(st.tuples(st.floats(0, 0.7), st.lists(boxes, max_size=6, unique=True)), max_size=12)


def at(x: float, y: float = 100, size: int = 60) -> Box:
    return Box(round(x), round(y), size, size)


def follow(*frames: list[Box], fps: float = 25) -> list[tuple[int, ...]]:
    tracker = Tracker()
    return [tracker.update(number / fps, found) for number, found in enumerate(frames)]


@given(videos, st.randoms(use_true_random=False))
def test_the_order_of_detections_changes_no_track(video, random):
    first, second, now = Tracker(), Tracker(), 0.0
    for passed, found in video:
        now += passed
        shuffled = random.sample(range(len(found)), len(found))
        numbers = second.update(now, [found[i] for i in shuffled])
        assert first.update(now, found) == tuple(numbers[shuffled.index(i)] for i in range(len(found)))


@given(videos)
def test_no_track_is_used_twice_at_once_and_new_ones_are_new(video):
    tracker, now, given_before, last_seen = Tracker(), 0.0, 0, {}
    for passed, found in video:
        now += passed
        numbers = tracker.update(now, found)
        assert len(set(numbers)) == len(numbers) == len(found)
        fresh = sorted(number for number in numbers if number not in last_seen)
        assert fresh == list(range(given_before + 1, given_before + 1 + len(fresh)))
        assert all(now - last_seen[number] <= MEMORY for number in numbers if number in last_seen)
        given_before += len(fresh)
        last_seen.update(dict.fromkeys(numbers, now))


@given(boxes, st.lists(st.floats(0, 0.99 * MEMORY), max_size=20))
def test_a_face_that_stays_keeps_its_track(box, steps):
    tracker = Tracker()
    assert all(tracker.update(now, [box]) == (1,) for now in np.cumsum([0.0, *steps]).tolist())


def test_a_short_gap_is_survived_and_a_long_one_is_not():
    tracker = Tracker()
    seen = [tracker.update(now, found) for now, found in
            ((0.0, [at(0)]), (0.4, []), (0.9, [at(5)]), (1.0, []), (2.5, [at(5)]), (2.6, [at(400)]))]  # fmt: skip
    assert seen == [(1,), (), (1,), (), (2,), (3,)]


@pytest.mark.parametrize("found", [0, 1, 2])
def test_two_faces_that_cross_keep_their_tracks(found):
    """One goes right, one left; while they lie on each other, only so many of them are found."""
    pairs = [[at(50 + 8 * number), at(522 - 8 * number, 110)] for number in range(60)]
    numbers = follow(*(pair[:found] if 28 <= n <= 32 else pair for n, pair in enumerate(pairs)))
    assert numbers == [(1, 2)[: len(got)] for got in numbers]
    assert numbers[-1] == (1, 2)


def test_without_motion_the_nearest_wins():
    first = follow([at(100), at(200)], [at(205), at(95)])
    assert first == [(1, 2), (2, 1)]


def test_a_much_larger_face_at_the_same_place_is_another():
    assert follow([at(100, size=40)], [at(60, 60, size=120)]) == [(1,), (2,)]


def test_a_face_may_move_by_nearly_its_own_size():
    assert follow([at(100)], [at(155)], [at(210)]) == [(1,)] * 3
    assert follow([at(100)], [at(165)]) == [(1,), (2,)]


def test_memory_is_that_of_the_last_second():
    tracker = Tracker()
    for number in range(3000):
        tracker.update(number / 25, [at(number * 90 % 9000)])
    assert len(tracker._tracks) <= 25 * MEMORY + 2


def distributions(classes: int = 7) -> st.SearchStrategy[np.ndarray]:
    weights = st.lists(st.floats(1e-6, 1), min_size=classes, max_size=classes)
    return weights.map(lambda values: np.array(values) / sum(values))


@given(distributions(), st.floats(0, 10), st.lists(st.floats(0, 2), max_size=20))
def test_smoothing_a_constant_is_that_constant(p, half_life, steps):
    smoother = Smoother(half_life)
    for now in np.cumsum([0.0, *steps]).tolist():
        assert np.array_equal(smoother.update(now, [1], [p])[0], p)


@given(st.lists(st.tuples(st.floats(0, 0.9), distributions()), min_size=1, max_size=20), st.floats(0, 5))
def test_smoothed_probabilities_are_probabilities_between_what_was_seen(video, half_life):
    smoother, now = Smoother(half_life), 0.0
    low, high = video[0][1], video[0][1]
    for passed, p in video:
        now += passed
        low, high = np.minimum(low, p), np.maximum(high, p)
        smooth = smoother.update(now, [1], [p])[0]
        assert smooth.sum() == pytest.approx(1)
        assert (smooth >= low - 1e-12).all()
        assert (smooth <= high + 1e-12).all()


@given(st.lists(distributions(3), min_size=1, max_size=8))
def test_no_smoothing_is_no_smoothing(video):
    smoother = Smoother(0)
    for number, p in enumerate(video):
        assert np.array_equal(smoother.update(number / 25, [1], [p])[0], p)


@given(st.lists(st.tuples(st.floats(0, 0.9), distributions(3)), min_size=1, max_size=20), st.floats(0.05, 5))
def test_every_answer_weighs_half_of_itself_a_half_life_later(video, half_life):
    """Against the definition, summed anew for every frame."""
    smoother, now, seen = Smoother(half_life), 0.0, []
    for passed, p in video:
        now += passed
        seen.append((now, p))
        weights = [2 ** -((now - then) / half_life) for then, _ in seen]
        expected = sum(w * q for w, (_, q) in zip(weights, seen, strict=True)) / sum(weights)
        assert smoother.update(now, [1], [p])[0] == pytest.approx(expected)


def test_tracks_do_not_mix_and_a_forgotten_one_begins_anew():
    a, b = np.array([1.0, 0.0]), np.array([0.0, 1.0])
    smoother = Smoother(0.5)
    assert np.array_equal(smoother.update(0.0, [1, 2], [a, b]), [a, b])
    assert np.array_equal(smoother.update(0.1, [2, 1], [b, a]), [b, a])
    assert np.array_equal(smoother.update(0.2 + MEMORY, [1], [b])[0], b)
    assert len(smoother._kept) == 1


@pytest.mark.parametrize("half_life", [-1, float("nan"), float("inf")])
def test_a_half_life_is_a_number_of_seconds(half_life):
    with pytest.raises(InputError, match="smoothing must be 0 or more seconds"):
        Smoother(half_life)
