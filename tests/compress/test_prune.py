"""Every criterion against a slow loop, and against cutting at random."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from helpers import CLASSES, TINY, patterns
from networks import learnt, untrained
from slimfer.compress.config import CompressConfig, Criterion, Limits, PruneConfig
from slimfer.compress.plan import prune_steps
from slimfer.compress.prune import CRITERIA, median_distances, prune, taylor_scores
from slimfer.compress.surgery import channels_of, count_params
from slimfer.errors import InputError
from slimfer.model.groups import ChannelMap
from slimfer.model.spec import NetSpec
from slimfer.train.augment import step_generator, to_input
from slimfer.train.checkpoint import Checkpoint
from slimfer.train.evaluate import predict_logits

PLAIN = Limits()
SOME = patterns(48, seed=8)
NORMS = {
    "l1": lambda filters: [sum(abs(w) for w in one) for one in filters],
    "l2": lambda filters: [sum(w * w for w in one) ** 0.5 for one in filters],
    "fpgm": lambda filters: [
        sum(sum((a - b) ** 2 for a, b in zip(one, other, strict=True)) ** 0.5 for other in filters) for one in filters
    ],
}


def small(**args: int) -> nn.Module:
    """Normed and bare layers, a bias, and a hidden linear layer."""
    return nn.Sequential(
        nn.Conv2d(args["channels"], 5, 3, bias=False), nn.BatchNorm2d(5), nn.ReLU(), nn.Conv2d(5, 4, 3), nn.ReLU(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 6), nn.ReLU(), nn.Linear(6, args["classes"]),
    )  # fmt: skip


SMALL = NetSpec("compress.test_prune:small", classes=3, image=16)


def by_atom(scores) -> dict[int, float]:
    return dict(zip(scores.atoms.tolist(), scores.values.tolist(), strict=True))


def map_of(checkpoint: Checkpoint) -> tuple[ChannelMap, nn.Module]:
    net = checkpoint.build()
    return channels_of(checkpoint, net), net


def accuracy(checkpoint: Checkpoint) -> float:
    frames = patterns(192, seed=9)
    return float((predict_logits(checkpoint.build(), frames).argmax(1) == frames.labels).mean())


# --- scores -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("criterion", NORMS)
def test_norms_and_distances_equal_a_slow_loop(criterion):
    """Divided by the layer's mean, averaged over the layers that share a channel (here the residual stream)."""
    channels, _ = map_of(untrained(TINY))
    expected: dict[int, list[float]] = {}
    for layer in channels.producers():
        values = NORMS[criterion](layer.module.weight.detach().flatten(1).double().tolist())
        for atom, value in zip(layer.outputs.tolist(), values, strict=True):
            expected.setdefault(atom, []).append(value / np.mean(values))
    scores = by_atom(CRITERIA[criterion](channels, SOME, PruneConfig(), 0))
    assert max(map(len, expected.values())) == 2, "there is a shared channel"
    assert scores.keys() == expected.keys() - channels.locked.keys()
    assert scores == pytest.approx({atom: np.mean(expected[atom]) for atom in scores}, rel=1e-4)


def test_the_geometric_median_is_what_can_be_spared():
    filters = torch.tensor([[0.0, 0], [4, 0], [0, 4], [-4, -4]])
    assert int(median_distances(filters).argmin()) == 0
    assert int(filters.norm(dim=1).argmin()) == 0
    shifted = filters + torch.tensor([9.0, 9])  # norms change, the redundancy does not
    assert int(median_distances(shifted).argmin()) == 0
    assert int(shifted.norm(dim=1).argmin()) == 3


@pytest.mark.parametrize("spec", [TINY, SMALL])
def test_taylor_scores_are_the_squared_gradients_of_gates(spec):
    """A gate of 1 behind every layer that scales a channel; its gradients by central differences, in float64."""
    start = untrained(spec)
    channels, net = map_of(start)
    found = by_atom(taylor_scores(channels, SOME, images=48, batch_size=16, seed=3))
    net = net.double()
    order = torch.randperm(len(SOME), generator=step_generator(3, 0)).numpy()
    names = [layer.name for layer in channels.norms()]
    names += [n for n in ("3", "7") if spec is SMALL]  # what has no batch normalization behind it
    outputs = {layer.name: layer.outputs.tolist() for layer in channels.layers}
    expected: dict[int, list[float]] = {atom: [] for atom in found}
    for first in range(0, 48, 16):
        batch = SOME.take(np.sort(order[first : first + 16]))
        x, target = to_input(torch.from_numpy(batch.images)).double(), torch.from_numpy(batch.targets())
        slopes: dict[int, float] = dict.fromkeys(found, 0.0)
        for name in names:
            for place, atom in enumerate(outputs[name]):
                if atom in found:
                    up, down = (_gated_loss(net, name, place, 1 + sign * 1e-4, x, target) for sign in (1, -1))
                    slopes[atom] += (up - down) / 2e-4
        for atom, slope in slopes.items():
            expected[atom].append(slope**2)
    wanted = {atom: np.mean(values) for atom, values in expected.items()}
    assert found == pytest.approx(wanted, rel=2e-3, abs=1e-6 * max(wanted.values()))


def _gated_loss(net: nn.Module, name: str, place: int, gate: float, x: Tensor, target: Tensor) -> float:
    def close(module: nn.Module, inputs: object, output: Tensor) -> Tensor:
        factors = torch.ones(output.shape[1], dtype=output.dtype)
        factors[place] = gate
        return output * factors.view(1, -1, *([1] * (output.ndim - 2)))

    handle = net.get_submodule(name).register_forward_hook(close)
    with torch.no_grad():
        loss = nn.functional.cross_entropy(net(x), target.double())
    handle.remove()
    return float(loss)


def test_taylor_leaves_the_network_as_it_was():
    channels, net = map_of(learnt())
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    taylor_scores(channels, SOME)
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    assert all(parameter.grad is None for parameter in net.parameters())
    assert not any(module.training for module in net.modules())


def test_taylor_looks_at_as_many_pictures_as_it_is_told():
    channels, _ = map_of(learnt())
    few, all_, again = (by_atom(taylor_scores(channels, SOME, images=count)) for count in (8, 48, 1024))
    assert few != all_
    assert all_ == again


# --- the cut ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("criterion", CRITERIA)
def test_every_criterion_reaches_the_ratio_and_names_what_it_cut(criterion):
    config = PruneConfig(criterion, ratio=0.5, limits=PLAIN, recalibrate=1)
    pruned = prune(learnt(), SOME, config)
    before, after = (count_params(channels_of(c, c.build())) for c in (learnt(), pruned))
    entry = pruned.lineage[-1]
    assert (entry["step"], entry["config"]["criterion"], entry["params"]) == ("prune", criterion, [before, after])
    assert entry["cut"] == pytest.approx(0.5, abs=0.1)
    assert after < 0.6 * before


@pytest.mark.parametrize("criterion", sorted(CRITERIA.keys() - {"random"}))
def test_every_criterion_beats_random_at_the_same_parameters(criterion):
    """A third of the parameters stays; no fine-tuning yet; random is the mean of six draws."""
    params = round(0.35 * count_params(map_of(learnt())[0]))

    def after(name: Criterion, seed: int = 0) -> float:
        config = PruneConfig(name, params=params, limits=PLAIN, recalibrate=4)
        return accuracy(prune(learnt(), patterns(512, seed=7), config, seed=seed))

    draws = [after("random", seed) for seed in range(6)]
    assert after(criterion) > np.mean(draws) + 0.05


def test_random_pruning_depends_on_the_seed_alone():
    def widths(seed: int) -> object:
        return prune(learnt(), SOME, PruneConfig("random", limits=PLAIN, recalibrate=1), seed=seed).spec

    assert widths(1) == widths(1)
    assert widths(1) != widths(2)


def test_limits_are_respected():
    config = PruneConfig(ratio=0.9, limits=Limits(min_channels=3), recalibrate=1)
    assert min(prune(learnt(), SOME, config).spec.widths.values()) >= 3


def test_networks_without_batch_normalization_are_pruned_too():
    for criterion in CRITERIA:
        start = untrained(NetSpec("compress.plain_nets:without_bn", classes=3, image=16))
        pruned = prune(start, SOME, PruneConfig(criterion, ratio=0.5, limits=PLAIN))
        assert pruned.build()(torch.zeros(2, 1, 16, 16)).shape == (2, len(CLASSES))
        assert pruned.spec.widths == {"0": 4}


# --- passes -----------------------------------------------------------------------------------------------------------


def test_passes_together_cut_what_one_pass_would():
    first, second, third = PruneConfig(ratio=0.875, passes=3, finetune=True).each_pass()
    assert first == second == third
    assert (1 - first.ratio) ** 3 == pytest.approx(1 - 0.875)
    targets = [one.params for one in PruneConfig(params=125, passes=3, finetune=True).each_pass(1000)]
    assert targets == [500, 250, 125]


def test_the_chain_of_pruning():
    def kinds(**settings: object) -> list[str]:
        return [step.kind for step in prune_steps(CompressConfig(prune=PruneConfig(**settings)))]

    assert kinds() == ["prune"]
    assert kinds(finetune=True) == ["prune", "finetune"]
    assert kinds(finetune=True, passes=2) == ["prune", "finetune"] * 2


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PruneConfig("magic"), "criterion must be one of l1, l2, fpgm, taylor, random, not magic"),
        (lambda: PruneConfig(ratio=-0.1), "ratio must be at least 0 and below 1, not -0.1"),
        (lambda: PruneConfig(ratio=1), "ratio must be at least 0 and below 1, not 1"),
        (lambda: PruneConfig(params=-1), "params must be at least 0, not -1"),
        (lambda: PruneConfig(images=0), "images must be at least 1, not 0"),
        (lambda: PruneConfig(recalibrate=-1), "recalibrate must be at least 0, not -1"),
        (lambda: PruneConfig(passes=21, finetune=True), "passes must be between 1 and 20, not 21"),
        (lambda: PruneConfig(passes=2), "2 passes of pruning need fine-tuning between them"),
    ],
)
def test_values_outside_their_range_are_named(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_what_cannot_be_cut_is_refused():
    with pytest.raises(InputError, match="has no channels that could be cut"):
        prune(untrained(NetSpec("compress.test_prune:flat", classes=3, image=16)), SOME)


def flat(classes: int, channels: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(channels * 256, classes))
