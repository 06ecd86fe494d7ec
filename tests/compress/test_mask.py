"""Laws of masks on tiny nets: what is zero, that it stays zero, and that nothing else is touched."""

import os
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from helpers import CLASSES, TINY, patterns
from networks import integers, learnt
from slimfer.compress.config import Limits, MaskConfig, SlimConfig
from slimfer.compress.mask import Mask, grown, mask, smallest, smallest_of_groups
from slimfer.compress.slim import slim
from slimfer.errors import InputError
from slimfer.model.spec import NetSpec
from slimfer.model.zoo import MODELS, build
from slimfer.train.checkpoint import Checkpoint, weights_of
from slimfer.train.config import AugmentConfig, TrainConfig
from slimfer.train.loop import fit

QUICK = TrainConfig(
    epochs=4, batch_size=32, lr=0.05, weight_decay=0.01, average=0.9, precision="fp32", save_seconds=0,
    augment=AugmentConfig(rotate=0, scale=0, light=0, erase=0),
)  # fmt: skip
CUBIC = MaskConfig(sparsity=0.8, schedule="cubic", ramp=0.6, updates=7)
LAYERS = [name for name, module in build(TINY).named_modules() if isinstance(module, (nn.Conv2d, nn.Linear))]


def zeros(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    return {f"{name}.weight": checkpoint.weights[f"{name}.weight"] == 0 for name in LAYERS}


def train(start: Checkpoint, config: MaskConfig, *, run=None, watch=None, **settings) -> Checkpoint:
    return fit(
        start, patterns(256, seed=5), patterns(96, seed=6), replace(QUICK, **settings), run=run, resume=True,
        hooks=[Mask(start, config)], watch=watch,
    )  # fmt: skip


# --- which weights ----------------------------------------------------------------------------------------------------


@given(values=st.lists(st.sampled_from([0.0, 0.5, 1.0, 2.0, 3.5]), min_size=1, max_size=30), share=st.floats(0, 0.999))
def test_the_smallest_are_found_one_by_one(values, share):
    count = round(share * len(values))
    left, expected = list(values), [False] * len(values)
    for _ in range(count):
        index = min((i for i in range(len(left)) if not expected[i]), key=lambda i: left[i])
        expected[index] = True
    assert smallest(torch.tensor(values), count).tolist() == expected


@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 3), st.integers(1, 2)),
    pattern=st.sampled_from([(1, 2), (2, 4), (1, 4), (3, 5)]),
    seed=st.integers(0, 99),
)
def test_groups_keep_their_largest_along_the_input(shape, pattern, seed):
    keep, group = pattern
    magnitudes = torch.from_numpy(np.random.default_rng(seed).permutation(np.prod(shape)).reshape(shape) + 1.0)
    found = smallest_of_groups(magnitudes, keep, group)
    for o in range(shape[0]):
        for y in range(shape[2]):
            for x in range(shape[3]):
                for start in range(0, shape[1], group):
                    inside = magnitudes[o, start : start + group, y, x].tolist()
                    kept = sorted(inside)[-keep:]
                    assert found[o, start : start + group, y, x].tolist() == [value not in kept for value in inside]


def test_a_linear_layer_has_groups_too():
    found = smallest_of_groups(torch.tensor([[1.0, 2, 3, 4, 5, 6]]), 2, 4)
    assert found.tolist() == [[True, True, False, False, False, False]]


@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.5, 0.77])
def test_every_layer_has_exactly_its_sparsity_and_keeps_its_largest(sparsity):
    before, after = learnt(), mask(learnt(), MaskConfig(sparsity=sparsity))
    for name, gone in zeros(after).items():
        weight = before.weights[name]
        assert int(gone.sum()) == round(sparsity * weight.numel())
        assert torch.equal(after.weights[name][~gone], weight[~gone])
        if gone.any():
            assert weight[gone].abs().max() <= weight[~gone].abs().min()
    others = before.weights.keys() - zeros(after).keys()
    assert any("running_mean" in name for name in others)
    assert all(torch.equal(before.weights[name], after.weights[name]) for name in others), "BN and biases are left"
    total = sum(gone.numel() for gone in zeros(after).values())
    assert after.lineage[-1]["zeros"] == [sum(int(gone.sum()) for gone in zeros(after).values()), total]


@pytest.mark.parametrize("config", [MaskConfig(sparsity=0.6), MaskConfig(keep=2, group=4), MaskConfig(biases=True)])
def test_masking_twice_is_masking_once(config):
    once = mask(learnt(), config)
    twice = mask(once, config)
    assert all(torch.equal(once.weights[name], twice.weights[name]) for name in once.weights)
    assert once.spec == learnt().spec


def test_patterns_name_layers_and_take_some_out_again():
    config = MaskConfig(sparsity=0.5, layers=("3.*", "6*", "!*.second*"), per_layer={"6.*": 0.9, "*": 0.2})
    shares = {
        name.removesuffix(".weight"): float(gone.double().mean())
        for name, gone in zeros(mask(learnt(), config)).items()
    }
    masked = {name: share for name, share in shares.items() if share}
    assert masked == {"3.first.0": pytest.approx(0.2, abs=0.01), "6.body.0": pytest.approx(0.9, abs=0.01)}


def test_biases_are_masked_when_asked():
    weights = mask(learnt(), MaskConfig(sparsity=0.4, biases=True)).weights
    assert int((weights["10.bias"] == 0).sum()) == round(0.4 * 3)
    assert torch.equal(weights["0.1.bias"], learnt().weights["0.1.bias"]), "BN is never masked"


def test_two_of_four_on_a_network_halves_layers_that_read_whole_groups():
    found = zeros(mask(learnt(), MaskConfig(keep=2, group=4)))
    assert not found["0.0.weight"].any(), "the first layer of a gray network reads one channel"
    assert not found["4.body.0.weight"].any(), "so does every filter of a depthwise one"
    assert float(found["10.weight"].double().mean()) == 0.5
    assert float(found["6.body.0.weight"].double().mean()) == pytest.approx(2 / 6), "4 + 2 inputs: two of six go"


@pytest.mark.parametrize("name", MODELS)
def test_every_network_of_the_zoo_can_be_masked(name):
    args = {} if "microexpnet" in name else {"width": 0.125}
    net = build(NetSpec(name, args=args))
    start = Checkpoint(NetSpec(name, args=args), weights_of(net), CLASSES)
    masked = mask(start, MaskConfig(sparsity=0.5)).build()
    for module in masked.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            assert int((module.weight == 0).sum()) == round(0.5 * module.weight.numel())


def test_slimmed_and_quantized_networks_can_be_masked():
    slimmed = slim(learnt(), SlimConfig(ratio=0.4, limits=Limits(), recalibrate=1), patterns(64))
    for start in (slimmed, integers()):
        after = mask(start, MaskConfig(sparsity=0.5))
        assert all(int(gone.sum()) >= round(0.5 * gone.numel()) for gone in zeros(after).values())
        assert (after.spec, after.quant.keys()) == (start.spec, start.quant.keys())
        after.build()


# --- training under a mask --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{}, {"average": 0.0}, {"optimizer": "adamw", "lr": 0.01}])
@pytest.mark.parametrize("config", [MaskConfig(sparsity=0.6, biases=True), MaskConfig(keep=1, group=2)])
def test_what_is_zero_stays_exactly_zero_and_the_rest_learns(tmp_path, config, settings):
    start = mask(learnt(), config)
    seen = []
    trained = train(start, config, run=tmp_path, watch=lambda progress: seen.append(progress.step), **settings)
    assert seen
    last = Checkpoint.load(tmp_path / "weights" / "last.safetensors")
    for after in (trained, last):
        for name, gone in zeros(start).items():
            assert not after.weights[name][gone].any()
            assert (after.weights[name][~gone] != start.weights[name][~gone]).double().mean() > 0.99
    assert (last.weights["10.bias"] == 0).equal(start.weights["10.bias"] == 0)


def test_momentum_and_weight_decay_from_before_cannot_move_masked_weights():
    start = mask(learnt(), MaskConfig(sparsity=0.5))
    hook, net = Mask(start, MaskConfig()), learnt().build().train()
    images = torch.rand(32, 1, 16, 16)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1, nesterov=True)
    moved = False
    for step in range(6):
        optimizer.zero_grad()
        net(images).square().mean().backward()
        if step < 2:  # fills the momentum of weights that are masked from step 2 on
            optimizer.step()
            continue
        hook.after_backward(net, 0.0)
        optimizer.step()
        moved |= any(bool(net.get_parameter(name)[gone].any()) for name, gone in zeros(start).items())
        hook.after_step(net, 0.0)
        for name, gone in zeros(start).items():
            assert not net.get_parameter(name)[gone].any()
            assert not net.get_parameter(name).grad[gone].any()
    assert moved, "without the hook momentum would have moved them"


def test_frozen_layers_keep_their_mask():
    config = MaskConfig(layers=("*",))
    start = mask(learnt(), config)
    trained = train(start, config, frozen=("0.*", "3.*"))
    assert torch.equal(trained.weights["3.first.0.weight"], start.weights["3.first.0.weight"])
    assert torch.equal(zeros(trained)["10.weight"], zeros(start)["10.weight"])


# --- the cubic schedule -----------------------------------------------------------------------------------------------


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0.05, 0.9), st.integers(1, 50))
def test_the_schedule_rises_to_one_and_stays(first, second, ramp, updates):
    config = MaskConfig(schedule="cubic", ramp=ramp, updates=updates)
    low, high = sorted((first, second))
    assert 0 <= grown(low, config) <= grown(high, config) <= 1
    assert (grown(0, config), grown(ramp, config), grown(1, config)) == (0, 1, 1)
    assert grown(low, MaskConfig(ramp=ramp)) == 1, "without a schedule all is masked from the start"


def test_the_schedule_is_the_papers_polynomial():
    """Eq. 1: s_t = s_f + (s_i - s_f) (1 - (t - t_0) / (n dt))^3, here with s_i = 0 and t_0 = 0."""
    config = MaskConfig(sparsity=0.8, schedule="cubic", ramp=0.5, updates=10)
    for update in range(10):
        paper = 0.8 + (0 - 0.8) * (1 - update / 10) ** 3
        assert 0.8 * grown(0.5 * (update + 0.5) / 10, config) == pytest.approx(paper)


class Watched(Mask):
    """Remembers the zeros after each step, and whether each epoch could be chosen."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.counts, self.found, self.ready = [], [], []

    def after_step(self, net, progress):
        super().after_step(net, progress)
        self.found.append({name: net.get_parameter(name).detach() == 0 for name in zeros(learnt())})
        self.counts.append(sum(int(gone.sum()) for gone in self.found[-1].values()))

    def before_judging(self, net, progress):
        self.ready.append(super().before_judging(net, progress))
        return self.ready[-1]


@pytest.mark.parametrize("average", [0.0, 0.9])
def test_sparsity_grows_step_by_step_and_ends_exact(average):
    hook = Watched(learnt(), CUBIC)
    trained = fit(learnt(), patterns(256, seed=5), patterns(96, seed=6), replace(QUICK, average=average), hooks=[hook])
    total = sum(gone.numel() for gone in zeros(trained).values())
    for step, count in enumerate(hook.counts):
        wanted = sum(round(grown(step / 32, CUBIC) * 0.8 * gone.numel()) for gone in zeros(trained).values())
        assert count == wanted, f"step {step}"
    assert len(set(hook.counts)) == CUBIC.updates + 1
    for before, after in zip(hook.found, hook.found[1:], strict=False):
        assert all(bool((after[name] | ~before[name]).all()) for name in before), "what is masked stays masked"
    assert all(int(gone.sum()) == round(0.8 * gone.numel()) for gone in zeros(trained).values())
    assert hook.counts[-1] == sum(int(gone.sum()) for gone in zeros(trained).values()) < total
    assert hook.ready[:4] == [False, False, True, True], "an epoch whose mask still grows is never chosen"
    assert trained.lineage[-1]["epoch"] >= 3


def test_a_training_shorter_than_its_ramp_ends_at_the_full_sparsity():
    config = replace(CUBIC, ramp=0.9)
    trained = train(learnt(), config, epochs=1, batch_size=128)  # two steps
    assert all(int(gone.sum()) == round(0.8 * gone.numel()) for gone in zeros(trained).values())


def test_early_stopping_waits_for_the_mask():
    trained = train(learnt(), replace(CUBIC, ramp=0.9), epochs=5, early_stop=1)
    assert all(int(gone.sum()) == round(0.8 * gone.numel()) for gone in zeros(trained).values())


def test_gradual_masks_beat_one_cut_of_the_same_training():
    """At 90 % zeros and a short, gentle training; a long one at a high rate makes up for one cut as well."""

    def accuracy(start, config, seed):
        return train(start, config, epochs=8, weight_decay=1e-4, seed=seed).lineage[-1]["val_accuracy"]

    once, gradual = MaskConfig(sparsity=0.9), MaskConfig(sparsity=0.9, schedule="cubic")
    for seed in (0, 1):
        assert accuracy(learnt(), gradual, seed) > accuracy(mask(learnt(), once), once, seed) + 0.03


# --- killed and resumed -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [MaskConfig(sparsity=0.6), CUBIC], ids=["oneshot", "cubic"])
def test_a_killed_training_goes_on_bit_equal(tmp_path, config):
    start = learnt() if config.schedule == "cubic" else mask(learnt(), config)
    whole = train(start, config)
    for stop_after in (5, 9, 11):
        child = os.fork()
        if child == 0:
            left = [stop_after]

            def watch(progress, left=left):
                left[0] -= 1
                if left[0] == 0:
                    os.kill(os.getpid(), signal.SIGKILL)

            train(start, config, run=tmp_path, watch=watch)
            os._exit(1)
        assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    again = train(start, config, run=tmp_path)
    assert again.digest() == whole.digest()
    assert train(start, config, run=tmp_path).digest() == whole.digest(), "a finished run stays as it is"


def test_a_run_goes_on_with_the_same_mask_settings_only(tmp_path):
    start = mask(learnt(), MaskConfig(sparsity=0.6))
    train(start, MaskConfig(sparsity=0.6), run=tmp_path, epochs=1)
    with pytest.raises(InputError, match="another hooks"):
        train(start, MaskConfig(sparsity=0.6, layers=("3.*",)), run=tmp_path, epochs=1)


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MaskConfig(sparsity=1.0), "sparsity must be at least 0 and below 1, not 1.0"),
        (lambda: MaskConfig(sparsity=float("nan")), "sparsity must be at least 0 and below 1, not nan"),
        (lambda: MaskConfig(per_layer={"3.*": -0.1}), r"sparsity of 3.\* must be at least 0 and below 1, not -0.1"),
        (lambda: MaskConfig(keep=4, group=2), "keep 1 to M-1 of M <= 64 weights, not 4 of 2"),
        (lambda: MaskConfig(keep=2), "keep 1 to M-1 of M <= 64 weights, not 2 of 0"),
        (lambda: MaskConfig(keep=2, group=4, biases=True), r"biases does not go with N:M masks \(here 2 of 4\)"),
        (lambda: MaskConfig(keep=2, group=4, schedule="cubic"), "schedule cubic does not go with N:M masks"),
        (lambda: MaskConfig(keep=2, group=4, per_layer={"*": 0.1}), "per_layer does not go with N:M masks"),
        (lambda: MaskConfig(schedule="linear"), "schedule must be one of oneshot, cubic, not linear"),
        (lambda: MaskConfig(ramp=0), "ramp must be above 0 and at most 0.9, not 0"),
        (lambda: MaskConfig(updates=0), "updates must be between 1 and 1000, not 0"),
    ],
)
def test_values_outside_their_range_are_named(make, message):
    with pytest.raises(InputError, match=message):
        make()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (MaskConfig(layers=("fc*",)), r"no convolution or linear layer is called 'fc\*' \(there are 0.0, 3.first.0, "),
        (MaskConfig(layers=("0.1",)), "no convolution or linear layer is called '0.1'"),  # a BN layer
        (MaskConfig(layers=("*", "!fc*")), r"no layer is called 'fc\*'"),
        (MaskConfig(layers=("3.*", "!*")), r"the layers 3.\*, !\* leave nothing to mask"),
        (MaskConfig(layers=()), r"the layers \(none\) leave nothing to mask"),
        (MaskConfig(layers=("3.*",), per_layer={"10": 0.5}), "no masked layer is called '10'"),
    ],
)
@pytest.mark.parametrize("use", [mask, Mask])
def test_patterns_that_match_nothing_are_named(config, message, use):
    with pytest.raises(InputError, match=message):
        use(learnt(), config)
