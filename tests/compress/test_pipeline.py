import os
import signal
from dataclasses import fields, replace

import pytest

from compress.conftest import QUICK
from slimfer.compress.config import CompressConfig, Limits, QuantizeConfig, SlimConfig
from slimfer.compress.pipeline import STEPS, run_steps
from slimfer.compress.plan import KINDS, PlannedStep, usual_steps
from slimfer.data.frames import Frames
from slimfer.errors import InputError
from slimfer.model.spec import NetSpec

SHORT = replace(QUICK, epochs=2, batch_size=32, save_seconds=0)
CONFIG = CompressConfig(
    train=SHORT,
    slim=SlimConfig(ratio=0.5, limits=Limits(), recalibrate=2),
    finetune=SHORT,
    quantize=QuantizeConfig(images=128),
)
CHAIN = usual_steps(CONFIG, trained=False)
SPEC = NetSpec("resnet18", args={"width": 0.0625})


@pytest.fixture(scope="module")
def few(faces):
    def part(frames: Frames, count: int) -> Frames:
        return frames.take(range(count))  # type: ignore[arg-type]

    return {"train": part(faces["train"], 160), "validation": part(faces["validation"], 64)}


@pytest.mark.parametrize(
    ("passes", "bits", "trained", "steps"),
    [
        (1, 8, False, ("train", "slim", "finetune", "quantize")),
        (1, 32, True, ("slim", "finetune")),
        (2, 8, True, ("slim", "finetune-sparse", "slim", "finetune", "quantize")),
    ],
)
def test_the_plan(passes, bits, trained, steps):
    config = replace(CONFIG, slim=replace(CONFIG.slim, passes=passes), quantize=QuantizeConfig(bits=bits))
    assert tuple(step.kind for step in usual_steps(config, trained=trained)) == steps


def test_each_kind_has_a_function_and_a_table():
    assert STEPS.keys() == KINDS.keys()
    tables = {field.name for field in fields(CompressConfig)}
    assert all(set(names) <= tables for names in KINDS.values())


def test_a_chain_killed_in_any_step_ends_in_the_same_network(few, tmp_path):
    whole = run_steps(SPEC, few, CHAIN, tmp_path / "whole")
    # A child is killed at the n-th progress report (within training and fine-tuning, saves included), again and again.
    folder = tmp_path / "killed"
    kills = 0
    for stop_after in (3, 4, 2, 5, 3):
        child = os.fork()
        if child == 0:
            left = [stop_after]

            def watch(progress, left=left):
                left[0] -= 1
                if left[0] == 0:
                    os.kill(os.getpid(), signal.SIGKILL)

            run_steps(SPEC, few, CHAIN, folder, watch=lambda name, watch=watch: watch)
            os._exit(0)
        kills += os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    assert kills >= 4
    again = run_steps(SPEC, few, CHAIN, folder)
    assert [stage.checkpoint.digest() for stage in again] == [stage.checkpoint.digest() for stage in whole]


def test_finished_steps_are_read_not_run_again(few, tmp_path):
    first = run_steps(SPEC, few, CHAIN, tmp_path)
    seen = []
    second = run_steps(SPEC, few, CHAIN, tmp_path, watch=lambda name: seen.append(name))
    assert seen == []
    assert [s.checkpoint.digest() for s in first] == [s.checkpoint.digest() for s in second]


def test_a_folder_with_another_chain_is_refused(few, tmp_path):
    config = replace(CONFIG, train=replace(SHORT, epochs=1), finetune=replace(SHORT, epochs=1))
    other = replace(config, slim=replace(config.slim, ratio=0.6))
    rarely = replace(config, finetune=replace(config.finetune, save_seconds=99))
    chains = [usual_steps(each, trained=False) for each in (config, other, rarely)]
    run_steps(SPEC, few, chains[0], tmp_path)
    with pytest.raises(InputError, match="holds a chain with other settings"):
        run_steps(SPEC, few, chains[1], tmp_path)
    with pytest.raises(InputError, match="holds a chain with other settings"):
        run_steps(SPEC, few, chains[0][:2], tmp_path)
    run_steps(SPEC, few, chains[2], tmp_path)  # how often it saves is no part of what a chain is


def test_passes_cut_what_they_promise_and_keep_every_layer_above_the_cap(few, tmp_path):
    slimming = SlimConfig(ratio=0.75, passes=2, limits=Limits(max_layer_ratio=0.5), recalibrate=1)
    one = replace(SHORT, epochs=1)
    config = CompressConfig(train=one, slim=slimming, finetune=one, quantize=QuantizeConfig(bits=32))
    stages = run_steps(SPEC, few, usual_steps(config, trained=False), tmp_path)
    cuts = [s.checkpoint.lineage[-1]["cut"] for s in stages if s.kind == "slim"]
    assert len(cuts) == 2
    assert all(0.25 < cut <= 0.5 for cut in cuts)  # the cap of half a layer keeps some below the threshold
    full = stages[0].checkpoint.weights
    for name, tensor in stages[-1].checkpoint.weights.items():
        if tensor.ndim == 4:
            assert len(tensor) >= len(full[name]) // 4


def test_a_missing_split_or_other_classes_are_named(few, sparse, tmp_path):
    with pytest.raises(InputError, match="the data has no validation split"):
        run_steps(SPEC, {"train": few["train"]}, CHAIN, tmp_path)
    other = replace(sparse, labels=("a", "b"))
    with pytest.raises(InputError, match="the network reads a, b, the data has angry"):
        run_steps(other, few, CHAIN, tmp_path)


def test_an_untrained_network_is_trained_first(few, tmp_path):
    with pytest.raises(InputError, match="must begin with train"):
        run_steps(SPEC, few, CHAIN[1:], tmp_path)
    with pytest.raises(InputError, match="must begin with train"):
        run_steps(SPEC, few, (), tmp_path)


def test_each_step_has_settings_of_its_own(few, sparse, tmp_path):
    halves = [replace(CONFIG, slim=replace(CONFIG.slim, ratio=ratio)) for ratio in (0.2, 0.5)]
    stages = run_steps(sparse, few, [PlannedStep("slim", each) for each in halves], tmp_path)
    assert [stage.name for stage in stages] == ["start", "1-slim", "2-slim"]
    assert [round(stage.checkpoint.lineage[-1]["cut"], 1) for stage in stages[1:]] == [0.2, 0.5]


@pytest.mark.parametrize("kind", ["slim", "finetune", "quantize"])
def test_what_cannot_follow_integers_says_so(few, sparse, tmp_path, kind):
    steps = [PlannedStep(each, CONFIG) for each in ("quantize", kind)]
    with pytest.raises(InputError, match=f"2-{kind}: the network is quantized already, and only prune and qat"):
        run_steps(sparse, few, steps, tmp_path)
