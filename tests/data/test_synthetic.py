import numpy as np
import pytest

from slimfer.data.frames import Frames
from slimfer.data.synthetic import EXPRESSIONS, VARIATION, synthetic
from slimfer.errors import InputError
from slimfer.labels import EMOTIONS
from slimfer.model.spec import NetSpec
from slimfer.preprocess import normalize
from slimfer.train.config import AugmentConfig, TrainConfig
from slimfer.train.loop import fit, initial


def test_splits_and_shapes():
    dataset = synthetic(70, 40, 30, image=32, channels=3)
    assert {split: len(frames) for split, frames in dataset.items()} == {"train": 70, "validation": 40, "test": 30}
    assert dataset["train"].images.shape == (70, 3, 32, 32)
    assert dataset["train"].classes == EMOTIONS
    assert (dataset["test"].images[:, 0] == dataset["test"].images[:, 2]).all()


def test_face_depends_on_seed_split_and_place_only():
    few, many = synthetic(10, 5, 0, seed=3), synthetic(150, 70, 0, seed=3)
    for split, frames in few.items():
        assert (frames.images == many[split].images[: len(frames)]).all()
        assert (frames.labels == many[split].labels[: len(frames)]).all()
    assert not (many["train"].images[:70] == many["validation"].images).all()
    assert not (few["train"].images == synthetic(10, 5, 0, seed=4)["train"].images).all()


def test_all_faces_differ_and_all_expressions_occur():
    frames = synthetic(1000, 0, 0)["train"]
    assert len({image.tobytes() for image in frames.images}) == 1000
    assert np.bincount(frames.labels, minlength=7).min() > 100


def test_expressions_move_parts_that_vary():
    assert tuple(EXPRESSIONS) == EMOTIONS
    assert {part for units in EXPRESSIONS.values() for part in units} <= set(VARIATION)


def test_same_face_at_every_size():
    # Twice as fine, averaged over 2 x 2: the same picture but for the noise of the camera.
    coarse = synthetic(64, 0, 0, image=48)["train"].images.astype(float)
    fine = synthetic(64, 0, 0, image=96)["train"].images.astype(float).reshape(64, 1, 48, 2, 48, 2).mean((3, 5))
    assert np.abs(coarse - fine).mean() < 6


@pytest.mark.parametrize("wrong", [{"image": 8}, {"image": 1000}, {"channels": 2}, {"n_train": -1}])
def test_numbers_out_of_range_are_refused(wrong):
    with pytest.raises(InputError, match=str(next(iter(wrong.values())))):
        synthetic(**wrong)


def logistic_regression(train: Frames, validation: Frames, epochs: int = 25) -> float:
    """Best validation accuracy over epochs and both ways of presenting pixels: generous to the linear classifier."""
    best = 0.0
    for centred in (False, True):
        x, v = (normalize(f.images).reshape(len(f), -1) for f in (train, validation))
        if centred:
            x, v = x - x.mean(1, keepdims=True), v - v.mean(1, keepdims=True)
        mean, spread = x.mean(0), x.std(0) + 1e-3
        x, v = (x - mean) / spread, (v - mean) / spread
        w, b = np.zeros((x.shape[1], 7), np.float32), np.zeros(7, np.float32)
        rng = np.random.default_rng(0)
        for _ in range(epochs):
            for rows in np.array_split(rng.permutation(len(x)), len(x) // 100):
                z = x[rows] @ w + b
                p = np.exp(z - z.max(1, keepdims=True))
                error = (p / p.sum(1, keepdims=True) - train.targets()[rows]) / len(rows)
                w -= 0.0025 * (x[rows].T @ error + 0.01 * w)
                b -= 0.05 * error.sum(0)
            best = max(best, float(((v @ w + b).argmax(1) == validation.labels).mean()))
    return best


def test_linear_classifier_fails_and_small_cnn_learns():
    dataset = synthetic(4000, 1000, 0)
    linear = logistic_regression(dataset["train"], dataset["validation"])
    assert 1 / 7 < linear < 0.5

    start = initial(NetSpec("resnet18", args={"width": 0.25}), EMOTIONS, seed=0)
    config = TrainConfig(
        epochs=4, batch_size=32, lr=0.03, average=0.9, label_smoothing=0, augment=AugmentConfig(False, 0, 0, 0, 0, 0)
    )
    learnt = fit(start, dataset["train"], dataset["validation"], config)
    assert learnt.lineage[-1]["val_accuracy"] > 0.85
