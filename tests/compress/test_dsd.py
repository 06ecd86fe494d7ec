"""Dense-sparse-dense training as a chain of steps, on tiny nets."""

import os
import signal
from dataclasses import replace

import pytest
import torch

from compress.test_mask import QUICK, zeros
from helpers import patterns
from networks import learnt
from slimfer.compress.config import CompressConfig, DistillConfig, DsdConfig, Limits, MaskConfig, SlimConfig
from slimfer.compress.pipeline import run_steps
from slimfer.compress.plan import dsd_steps
from slimfer.compress.slim import slim
from slimfer.errors import InputError

SHORT = replace(QUICK, epochs=2, lr=0.02)
CONFIG = CompressConfig(
    mask=MaskConfig(sparsity=0.5),
    dsd=DsdConfig(sparse=SHORT, dense=replace(SHORT, lr=0.01)),
    distill=DistillConfig(weight=0),
)
FACES = {"train": patterns(128, seed=5), "validation": patterns(64, seed=6)}


def run(folder, config=CONFIG, start=None):
    return run_steps(start or learnt(), FACES, dsd_steps(config), folder)


def kinds(config):
    return [step.kind for step in dsd_steps(config)]


def test_the_chain_has_the_phases_in_order():
    twice = replace(CONFIG, dsd=replace(CONFIG.dsd, rounds=2))
    assert kinds(CONFIG) == ["mask", "sparse", "dense"]
    assert kinds(twice) == ["mask", "sparse", "dense"] * 2
    assert kinds(replace(CONFIG, mask=MaskConfig(schedule="cubic"))) == ["sparse", "dense"]


def test_dense_sparse_dense_gives_back_the_same_structure_with_all_weights_alive(tmp_path):
    start, masked, sparse, dense = (stage.checkpoint for stage in run(tmp_path))
    assert start.spec == masked.spec == sparse.spec == dense.spec
    for name, gone in zeros(masked).items():
        assert int(gone.sum()) == round(0.5 * gone.numel())
        assert not sparse.weights[name][gone].any(), "the sparse phase keeps the mask"
        assert dense.weights[name][gone].all(), "after the dense phase every weight that was masked has moved"
    assert [entry["step"] for entry in dense.lineage[-3:]] == ["mask", "sparse", "dense"]


def test_each_round_takes_a_new_mask(tmp_path):
    stages = run(tmp_path, replace(CONFIG, dsd=replace(CONFIG.dsd, rounds=2, dense=replace(SHORT, lr=0.3))))
    first, second = (zeros(stage.checkpoint) for stage in stages if stage.kind == "mask")
    assert any(not torch.equal(first[name], second[name]) for name in first)
    assert [stage.name for stage in stages[1:]] == ["1-mask", "2-sparse", "3-dense", "4-mask", "5-sparse", "6-dense"]


def test_the_control_is_the_same_training_without_masks(tmp_path):
    config = replace(CONFIG, dsd=replace(CONFIG.dsd, control=True))
    _, first, second = run(tmp_path / "control", config)
    assert kinds(config) == ["dense", "dense"]
    rates = [stage.checkpoint.lineage[-1]["config"]["lr"] for stage in (first, second)]
    assert rates == [0.02, 0.01]
    assert not any(gone.any() for gone in zeros(first.checkpoint).values())
    # With no weight masked, dense-sparse-dense training is its control.
    *_, unmasked = run(tmp_path / "nothing", replace(CONFIG, mask=MaskConfig(sparsity=0.0)))
    weights = second.checkpoint.weights
    assert all(torch.equal(tensor, weights[name]) for name, tensor in unmasked.checkpoint.weights.items())


def test_a_slimmed_network_with_a_frozen_backbone(tmp_path):
    """As VGG-Face is tuned: only the last layers learn, and only they are masked."""
    start = slim(learnt(), SlimConfig(ratio=0.4, limits=Limits(), recalibrate=1), FACES["train"])
    backbone = ("0.*", "3.*", "4.*")
    frozen = replace(
        CONFIG,
        mask=MaskConfig(sparsity=0.6, layers=("*", *(f"!{pattern}" for pattern in backbone))),
        dsd=DsdConfig(sparse=replace(SHORT, frozen=backbone), dense=replace(SHORT, frozen=backbone)),
    )
    _, masked, sparse, dense = (stage.checkpoint for stage in run(tmp_path, frozen, start))
    fixed = [name for name in start.weights if name[0] in "034"]
    assert len(fixed) > 15
    for after in (masked, sparse, dense):
        assert all(torch.equal(after.weights[name], start.weights[name]) for name in fixed)
    for name in ("6.body.0.weight", "10.weight"):
        gone = masked.weights[name] == 0
        assert int(gone.sum()) == round(0.6 * gone.numel())
        assert not sparse.weights[name][gone].any()
        assert dense.weights[name][gone].all()


@pytest.mark.parametrize("schedule", ["oneshot", "cubic"])
def test_a_chain_killed_in_its_phases_ends_in_the_same_network(tmp_path, schedule):
    config = replace(CONFIG, mask=replace(CONFIG.mask, schedule=schedule))
    whole = run(tmp_path / "whole", config)
    for stop_after in (2, 5, 6):
        child = os.fork()
        if child == 0:
            left = [stop_after]

            def watch(progress, left=left):
                left[0] -= 1
                if left[0] == 0:
                    os.kill(os.getpid(), signal.SIGKILL)

            run_steps(learnt(), FACES, dsd_steps(config), tmp_path / "killed", watch=lambda name, watch=watch: watch)
            os._exit(1)
        assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    again = run(tmp_path / "killed", config)
    assert [stage.checkpoint.digest() for stage in again] == [stage.checkpoint.digest() for stage in whole]


def test_rounds_outside_their_range_are_named():
    with pytest.raises(InputError, match="rounds must be between 1 and 20, not 0"):
        DsdConfig(rounds=0)
