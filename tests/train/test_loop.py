import csv
import math

import numpy as np
import pytest
import torch
from torch import nn

from helpers import CLASSES, TINY, patterns
from slimfer.compress.slim import SlimmingPenalty
from slimfer.data.frames import Frames
from slimfer.errors import InputError
from slimfer.metrics import score
from slimfer.model.spec import NetSpec
from slimfer.train.checkpoint import Checkpoint
from slimfer.train.config import AugmentConfig, TrainConfig
from slimfer.train.evaluate import predict_logits, softmax
from slimfer.train.loop import COLUMNS, Hook, Progress, fit, initial, uses_bf16
from slimfer.train.objective import cross_entropy

PLAIN = AugmentConfig(False, 0, 0, 0, 0, 0)
TRAIN, VALIDATION = patterns(64, seed=1), patterns(30, seed=2)


def config(**values) -> TrainConfig:
    return TrainConfig(**{"epochs": 2, "batch_size": 16, "precision": "fp32", **values})


def train(run=None, *, start=None, seed=0, data=TRAIN, **values) -> Checkpoint:
    names = ("hooks", "watch", "resume", "objective")
    extra = {name: values.pop(name) for name in names if name in values}
    return fit(start or initial(TINY, CLASSES, seed=seed), data, VALIDATION, config(**values), run=run, **extra)


def same(one: Checkpoint, other: Checkpoint) -> bool:
    return all(torch.equal(tensor, other.weights[name]) for name, tensor in one.weights.items())


def accuracy(checkpoint: Checkpoint, frames: Frames) -> float:
    probabilities = softmax(predict_logits(checkpoint.build(), frames))
    return score(probabilities, frames.labels, frames.classes)["accuracy"]


# --- it learns --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_64_pictures_are_learnt_by_heart(optimizer):
    spec = NetSpec(TINY.builder, classes=3, image=16)  # no dropout
    lr = {"sgd": 0.1, "adamw": 0.01}[optimizer]
    result = train(
        start=initial(spec, CLASSES, seed=0), epochs=25, optimizer=optimizer, lr=lr, average=0, augment=PLAIN,
        label_smoothing=0, weight_decay=0,
    )  # fmt: skip
    assert accuracy(result, TRAIN) >= 0.98


def test_new_pictures_are_read_too():
    data = patterns(512, seed=3)
    before = accuracy(initial(TINY, CLASSES, seed=0), VALIDATION)
    result = train(data=data, epochs=8, batch_size=32, average=0.9)
    assert accuracy(result, VALIDATION) >= 0.9 > before
    assert result.lineage[-1]["val_accuracy"] == accuracy(result, VALIDATION)


def test_frozen_layers_stay_as_they_were_statistics_too():
    start = initial(TINY, CLASSES, seed=0)
    moved = train(start=start, frozen=("0.*", "3.*"), average=0.5)
    for name, tensor in start.weights.items():
        if not name.endswith("num_batches_tracked"):  # which the average does not follow
            assert torch.equal(tensor, moved.weights[name]) == name.startswith(("0.", "3.")), name


@pytest.mark.parametrize(
    ("pattern", "message"), [("nothing*", "no layer is called 'nothing\\*'"), ("*", "leaves nothing to learn")]
)
def test_a_pattern_of_frozen_layers_that_cannot_be_is_named(pattern, message):
    with pytest.raises(InputError, match=message):
        train(frozen=(pattern,))


def test_an_objective_may_look_at_the_network_that_is_trained():
    class Watching:
        def attach(self, net):
            self.net = net

        def __call__(self, logits, target, x):
            assert next(self.net.parameters()).requires_grad
            return cross_entropy(logits, target)

    watching = Watching()
    trained = train(objective=watching, average=0, epochs=1)
    assert same(trained, train(average=0, epochs=1))
    assert torch.equal(next(watching.net.parameters()), next(iter(trained.weights.values())))


# --- what decides a run -----------------------------------------------------------------------------------------------


def test_seeds_decide_everything(tmp_path):
    torch.manual_seed(1)
    one = train(tmp_path / "a")
    torch.manual_seed(2)
    before = torch.get_rng_state()
    assert same(one, train(tmp_path / "b"))
    assert torch.equal(torch.get_rng_state(), before)
    for name in ("best", "last"):
        files = [(tmp_path / run / "weights" / f"{name}.safetensors").read_bytes() for run in "ab"]
        assert files[0] == files[1]
    assert not same(one, train(seed=0, start=initial(TINY, CLASSES, seed=1)))
    assert not same(one, fit(initial(TINY, CLASSES, seed=0), TRAIN, VALIDATION, config(seed=1)))


@pytest.mark.parametrize(
    "values",
    [
        {"lr": 0.05}, {"momentum": 0.5}, {"weight_decay": 0.0}, {"schedule": "step"}, {"warmup": 0.5},
        {"label_smoothing": 0.0}, {"class_weights": "balanced"}, {"average": 0.0}, {"optimizer": "adamw"},
        {"augment": PLAIN}, {"augment": AugmentConfig(mixup=0.5)}, {"batch_size": 8}, {"precision": "bf16"},
    ],
    ids=lambda values: next(iter(values)),
)  # fmt: skip
def test_no_setting_is_ignored(values):
    assert not same(train(), train(**values))


def test_class_weights_lift_the_rare_class():
    rare = np.concatenate([np.flatnonzero(TRAIN.labels == 0)[:3], np.flatnonzero(TRAIN.labels == 1)])
    data = TRAIN.take(rare[:16])
    start = initial(TINY, CLASSES, seed=0)

    def recall(class_weights: str) -> float:
        result = train(start=start, data=data, epochs=6, class_weights=class_weights, batch_size=8, average=0)
        probabilities = softmax(predict_logits(result.build(), data))
        return float(probabilities[data.labels == 0, 0].mean())

    assert recall("balanced") > recall("none")


def test_votes_are_the_targets():
    votes = np.full((64, 3), 1 / 3, np.float32)
    soft = Frames(TRAIN.images, TRAIN.labels, CLASSES, votes=votes)
    assert not same(train(data=soft), train())


def test_read_only_maps_are_taken(tmp_path):
    np.save(tmp_path / "images.npy", TRAIN.images)
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
    labels = TRAIN.labels.copy()
    labels.flags.writeable = False
    data = Frames(mapped, labels, CLASSES)
    assert same(train(), fit(initial(TINY, CLASSES, seed=0), data, VALIDATION, config(class_weights="none")))
    train(data=data, class_weights="balanced")


# --- what a run leaves ------------------------------------------------------------------------------------------------


def test_last_row_best_and_last_agree(tmp_path):
    rows: list[dict] = []
    seen: list[Progress] = []

    def watch(progress: Progress) -> None:
        seen.append(progress)
        if progress.row:
            rows.append(progress.row)

    best = train(tmp_path, epochs=4, average=0.5, watch=watch)
    with open(tmp_path / "results.csv", newline="") as stream:
        table = list(csv.DictReader(stream))
    assert tuple(table[0]) == COLUMNS
    assert [row["epoch"] for row in table] == ["1", "2", "3", "4"]
    for text, row in zip(table, rows, strict=True):
        assert all(float(text[name]) == pytest.approx(row[name], rel=1e-5) for name in COLUMNS)
    assert [float(row["time"]) for row in table] == sorted(float(row["time"]) for row in table)
    assert [(p.epoch, p.step) for p in seen if not p.row] == [(e, s) for e in range(4) for s in range(1, 5)]
    # The first of the best epochs is kept.
    accuracies = [row["val/accuracy"] for row in rows]
    assert best.lineage[-1]["epoch"] == accuracies.index(max(accuracies)) + 1
    assert accuracy(best, VALIDATION) == max(accuracies)
    assert Checkpoint.load(tmp_path / "weights" / "best.safetensors").digest() == best.digest()
    # last.safetensors is the network of the last row, averaged as it was judged.
    last = Checkpoint.load(tmp_path / "weights" / "last.safetensors")
    scores = score(softmax(predict_logits(last.build(), VALIDATION)), VALIDATION.labels, CLASSES)
    assert (scores["nll"], scores["accuracy"]) == (rows[-1]["val/loss"], rows[-1]["val/accuracy"])
    assert (last.lineage[-1]["epoch"], last.lineage[-1]["val_accuracy"]) == (4, rows[-1]["val/accuracy"])
    names = ["results.csv", "weights/best.safetensors", "weights/last.safetensors", "weights/last.state"]
    assert sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()) == names


class Still(Hook):
    """Undo every step, so that all epochs are equal."""

    def after_step(self, net: nn.Module, progress: float) -> None:
        net.load_state_dict(dict(initial(TINY, CLASSES, seed=0).weights))


def test_equal_epochs_keep_the_first():
    result = train(hooks=[Still()], epochs=3, average=0)
    assert result.lineage[-1]["epoch"] == 1


@pytest.mark.parametrize(("patience", "epochs"), [(1, 2), (2, 3), (0, 5)])
def test_early_stopping_waits_that_many_epochs(patience, epochs):
    rows = []
    train(hooks=[Still()], epochs=5, early_stop=patience, average=0, watch=lambda p: p.row and rows.append(p.row))
    assert len({row["val/accuracy"] for row in rows}) == 1
    assert len(rows) == epochs


def test_hooks_are_called_at_their_seams():
    calls = []

    class Note(Hook):
        def after_backward(self, net: nn.Module, progress: float) -> None:
            assert all(p.grad is not None for p in net.parameters())
            calls.append(("backward", progress))

        def after_step(self, net: nn.Module, progress: float) -> None:
            calls.append(("step", progress))

        def after_epoch(self, net: nn.Module, epoch: int) -> None:
            calls.append(("epoch", epoch))

    train(hooks=[Note()])
    steps = [(seam, step / 8) for step in range(8) for seam in ("backward", "step")]
    assert calls == [*steps[:8], ("epoch", 0), *steps[8:], ("epoch", 1)]


def test_the_penalty_pushes_scales_down():
    def total(result: Checkpoint) -> float:
        norms = [m for m in result.build().modules() if isinstance(m, nn.BatchNorm2d)]
        return float(sum(m.weight.detach().abs().sum() for m in norms))

    assert total(train(epochs=4, hooks=[SlimmingPenalty(0.01)])) < total(train(epochs=4)) - 0.1


# --- what goes wrong --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("moment", [1, 6])
def test_a_diverged_run_stops_with_one_sentence_and_keeps_the_good_state(tmp_path, moment):
    count = 0

    def objective(logits, target, x):
        nonlocal count
        count += 1
        return logits.square().mean() * (math.nan if count == moment else 1)

    words = rf"training diverged in epoch {(moment + 3) // 4}, at step {(moment - 1) % 4 + 1} or before: .* lower lr"
    with pytest.raises(InputError, match=words):
        train(tmp_path, objective=objective, save_seconds=0)
    state = tmp_path / "weights" / "last.state"
    assert state.exists() == (moment > 1)
    if state.exists():
        count = moment  # from here on all is well again
        train(tmp_path, objective=objective, save_seconds=0, resume=True)


def test_weights_that_break_in_the_last_step_of_an_epoch_are_found_too():
    class Break(Hook):
        def after_epoch(self, net: nn.Module, epoch: int) -> None:
            next(net.parameters()).data.fill_(math.nan)

    with pytest.raises(InputError, match="diverged in epoch 1"):
        train(hooks=[Break()], average=0)


def frames(n=64, side=16, channels=1, classes=CLASSES) -> Frames:
    return Frames(np.zeros((n, channels, side, side), np.uint8), np.zeros(n, np.int64), classes)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (frames(0), "the train split is empty"),
        (frames(classes=("a", "b")), "the train split has 2 classes, the network 3"),
        (frames(classes=("happy", "angry", "neutral")), "has the classes happy, angry, neutral, in this order"),
        (frames(channels=3), "the train split has 3 channels, the network 1"),
        (frames(side=48), "the train split has pictures of 48 x 48 px, the network 16"),
        (frames(9), "batch_size is 16, but the train split has only 9 pictures"),
    ],
)
def test_data_that_does_not_fit_is_refused(data, words):
    with pytest.raises(InputError, match=words):
        train(data=data)
    if len(data) != 9:
        with pytest.raises(InputError, match=words.replace("train", "validation")):
            fit(initial(TINY, CLASSES, seed=0), TRAIN, data, config())


def test_precision_is_as_asked():
    assert uses_bf16("bf16", "cpu")
    assert not uses_bf16("fp32", "cpu")
    assert uses_bf16("auto", "cpu") in (True, False)
