import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from slimfer.compress.config import Limits
from slimfer.compress.surgery import (
    Scores,
    channels_of,
    choose,
    choose_for_params,
    count_params,
    cut,
    fold_constants,
    recalibrate,
)
from slimfer.data.frames import Frames
from slimfer.errors import InputError
from slimfer.model.groups import channel_map
from slimfer.model.narrow import remove_atoms
from slimfer.model.spec import NetSpec
from slimfer.preprocess import normalize
from slimfer.train.checkpoint import Checkpoint, weights_of
from slimfer.train.loop import initial

LABELS = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
NETS = [
    NetSpec("resnet18", args={"width": 0.125}),
    NetSpec("resnet50", args={"width": 0.0625}),
    NetSpec("vgg11", args={"width": 0.0625}),
    NetSpec("mobile", args={"width": 0.25}),
]
by_name = pytest.mark.parametrize("spec", NETS, ids=lambda spec: spec.builder)


def lively(spec: NetSpec, seed: int = 0) -> tuple[Checkpoint, nn.Module]:
    """A network whose BN layers have statistics, scales and shifts as after training."""
    checkpoint = initial(spec, LABELS, seed=seed)
    net = checkpoint.build()
    generator = torch.Generator().manual_seed(seed)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.5, 0.5, generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
            module.weight.data.uniform_(0.1, 1, generator=generator)
            module.bias.data.uniform_(-0.5, 0.5, generator=generator)
    return checkpoint, net


def random_scores(channels, seed=0) -> Scores:
    atoms = channels.free_atoms()
    rng = np.random.default_rng(seed)
    return Scores(atoms, rng.permutation(len(atoms)).astype(float), rng.integers(1, 4, len(atoms)))


def silence(channels, removed, *, beta: bool) -> None:
    for layer in channels.norms():
        gone = torch.as_tensor(np.isin(layer.outputs, removed))
        layer.module.weight.data[gone] = 0
        if beta:
            layer.module.bias.data[gone] = 0


def gap(net: nn.Module, reference: torch.Tensor, x: torch.Tensor) -> float:
    with torch.no_grad():
        return float((net(x) - reference).norm() / reference.norm())


@by_name
@given(ratio=st.floats(0, 0.999), seed=st.integers(0, 100))
@settings(max_examples=15, deadline=None)
def test_the_threshold_is_the_weighted_quantile(spec, ratio, seed):
    checkpoint, net = lively(spec)
    channels = channels_of(checkpoint, net)
    scores = random_scores(channels, seed)
    removed = set(choose(channels, scores, ratio, Limits()).tolist())
    # Oracle: walk from the lowest score while the cut weight stays within the ratio; then give each layer one back.
    budget, expected = ratio * scores.weights.sum() + 1e-9, set()
    for index in np.argsort(scores.values):
        if budget < scores.weights[index]:
            break
        budget -= scores.weights[index]
        expected.add(int(scores.atoms[index]))
    assert removed <= expected
    for returned in expected - removed:  # only to keep a layer alive
        layers = [layer for layer in channels.producers() if returned in layer.outputs]
        assert any(set(layer.outputs.tolist()) - removed == {returned} for layer in layers)


@by_name
@given(
    ratio=st.floats(0, 0.999),
    least=st.integers(1, 5),
    cap=st.floats(0.1, 1),
    step=st.sampled_from([1, 4, 8]),
    seed=st.integers(0, 100),
)
@settings(max_examples=15, deadline=None)
def test_limits_hold_in_every_layer_whatever_the_ratio(spec, ratio, least, cap, step, seed):
    checkpoint, net = lively(spec)
    channels = channels_of(checkpoint, net)
    removed = choose(channels, random_scores(channels, seed), ratio, Limits(least, cap, step))
    for layer in channels.producers():
        size = len(layer.outputs)
        left = size - int(np.isin(layer.outputs, removed).sum())
        assert left >= min(least, size)
        assert step == 1 or left % step == 0 or left == size
        assert size - left <= size * cap + 1e-9


def test_rounding_still_reaches_the_ratio():
    checkpoint, net = lively(NetSpec("resnet18", args={"width": 0.5}))
    channels = channels_of(checkpoint, net)
    scores = random_scores(channels)
    removed = choose(channels, scores, 0.7, Limits(round_to=8))
    share = scores.weights[np.isin(scores.atoms, removed)].sum() / scores.weights.sum()
    assert 0.7 <= share < 0.76


def test_a_stream_below_the_threshold_is_cut_to_the_minimum_not_left_whole():
    # Torch-Pruning leaves a coupled group at full width when all of it falls below the threshold.
    checkpoint, net = lively(NETS[0])
    channels = channels_of(checkpoint, net)
    atoms = channels.free_atoms()
    stream = np.unique(channels.norms()[0].outputs)
    values = np.where(np.isin(atoms, stream), 0.0, 1.0) + np.arange(len(atoms)) * 1e-6
    removed = choose(channels, Scores(atoms, values, np.ones(len(atoms), np.int64)), 0.5, Limits())
    assert np.isin(stream, removed).sum() == len(stream) - 1


def test_a_ratio_outside_its_range_is_refused():
    checkpoint, net = lively(NETS[0])
    channels = channels_of(checkpoint, net)
    with pytest.raises(InputError, match=r"ratio must be at least 0 and below 1, not 1\.0"):
        choose(channels, random_scores(channels), 1.0, Limits())


@by_name
@given(seed=st.integers(0, 50))
@settings(max_examples=8, deadline=None)
def test_silent_channels_go_without_changing_the_output(spec, seed):
    checkpoint, net = lively(spec)
    channels = channels_of(checkpoint, net)
    removed = choose(channels, random_scores(channels, seed), 0.6, Limits())
    silence(channels, removed, beta=True)
    x = torch.randn(4, 1, 48, 48, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        before = net(x)
    for fold in (True, False):
        narrow = copy.deepcopy(net)
        spec_after = cut(checkpoint, narrow, channels_of(checkpoint, narrow), removed, fold=fold)
        assert gap(narrow, before, x) < 1e-5
        rebuilt = Checkpoint(spec_after, weights_of(narrow), LABELS).build()
        with torch.no_grad():
            assert torch.equal(rebuilt(x), narrow(x))


@by_name
@pytest.mark.parametrize("seed", range(4))
def test_folding_beats_dropping(spec, seed):
    checkpoint, net = lively(spec, seed)
    channels = channels_of(checkpoint, net)
    removed = choose(channels, random_scores(channels, seed), 0.5, Limits())
    silence(channels, removed, beta=False)
    x = torch.randn(8, 1, 48, 48, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        before = net(x)
    gaps = {}
    for fold in (True, False):
        narrow = copy.deepcopy(net)
        cut(checkpoint, narrow, channels_of(checkpoint, narrow), removed, fold=fold)
        gaps[fold] = gap(narrow, before, x)
    assert gaps[True] < 0.5 * gaps[False]


def test_folding_is_exact_without_padding():
    class Unpadded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.bn = nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6)
            self.b, self.pool = nn.Conv2d(6, 5, 3), nn.MaxPool2d(2)
            self.c, self.bn2 = nn.Conv2d(5, 4, 3, bias=False), nn.BatchNorm2d(4)
            self.linear = nn.Linear(4 * 2 * 2, 3)

        def forward(self, x):
            x = self.pool(torch.relu(self.b(torch.relu(self.bn(self.a(x))))))
            return self.linear(torch.relu(self.bn2(self.c(x))).flatten(1))

    torch.manual_seed(0)
    net = Unpadded().eval()
    for bn in (net.bn, net.bn2):
        bn.bias.data.uniform_(-1, 1)
        bn.running_mean.uniform_(-1, 1)
    channels = channel_map(net, 1, 12)
    removed = np.sort(np.concatenate([layer.outputs[::2] for layer in channels.norms()]))
    silence(channels, removed, beta=False)
    x = torch.randn(3, 1, 12, 12)
    with torch.no_grad():
        before = net(x)
    assert fold_constants(channels, removed) == ()
    remove_atoms(channels, removed)
    assert gap(net, before, x) < 1e-5


@by_name
def test_parameters_are_counted_for_any_cut(spec):
    checkpoint, net = lively(spec)
    channels = channels_of(checkpoint, net)
    assert count_params(channels) == sum(p.numel() for p in net.parameters())
    removed = choose(channels, random_scores(channels), 0.5, Limits())
    expected = count_params(channels, removed)
    cut(checkpoint, net, channels, removed)
    assert sum(p.numel() for p in net.parameters()) == expected


@by_name
def test_a_parameter_count_is_met_closely(spec):
    checkpoint, net = lively(spec)
    channels = channels_of(checkpoint, net)
    whole = count_params(channels)
    removed = choose_for_params(channels, random_scores(channels), whole // 3, Limits())
    assert abs(count_params(channels, removed) - whole / 3) < 0.03 * whole


def test_recalibration_equals_the_statistics_of_the_batches():
    _, net = lively(NetSpec("vgg11", args={"width": 0.0625}))
    rng = np.random.default_rng(0)
    frames = Frames(rng.integers(0, 256, (64, 1, 48, 48), np.uint8), np.zeros(64, np.int64), LABELS)
    before = {name: p.clone() for name, p in net.named_parameters()}
    recalibrate(net, frames, batches=4, batch_size=16)
    first, norm = net.features[0], net.features[1]
    with torch.no_grad():
        y = first(torch.from_numpy(normalize(frames.images)))
    assert torch.allclose(norm.running_mean, y.mean((0, 2, 3)), atol=1e-5)
    assert not net.training
    assert norm.momentum == 0.1
    assert all(torch.equal(p, before[name]) for name, p in net.named_parameters())
