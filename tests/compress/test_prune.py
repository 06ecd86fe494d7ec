import numpy as np
import pytest

from slimfer.compress.config import Limits
from slimfer.compress.prune import CRITERIA, l1_scores, prune
from slimfer.compress.surgery import channels_of, count_params
from slimfer.errors import InputError


def test_l1_scores_equal_a_slow_loop(sparse):
    net = sparse.build()
    channels = channels_of(sparse, net)
    scores = dict(zip(l1_scores(channels).atoms.tolist(), l1_scores(channels).values.tolist(), strict=True))
    weight = net.layer1[0].conv1.weight.detach().numpy()
    norms = [sum(abs(float(w)) for w in filter_.flatten()) for filter_ in weight]
    layer = next(layer for layer in channels.layers if layer.name == "layer1.0.conv1")
    for atom, norm in zip(layer.outputs.tolist(), norms, strict=True):
        assert scores[atom] == pytest.approx(norm / np.mean(norms), rel=1e-4)


@pytest.mark.parametrize("criterion", CRITERIA)
def test_every_criterion_reaches_the_ratio(faces, sparse, criterion):
    pruned = prune(sparse, faces["train"], criterion=criterion, ratio=0.5, recalibrate_batches=1)
    before, after = (count_params(channels_of(c, c.build())) for c in (sparse, pruned))
    assert pruned.lineage[-1]["params"] == [before, after]
    assert after < 0.5 * before


def test_random_pruning_depends_on_the_seed_alone(faces, sparse):
    def widths(seed: int):
        return prune(sparse, faces["train"], criterion="random", ratio=0.5, recalibrate_batches=1, seed=seed).spec

    assert widths(1) == widths(1)
    assert widths(1) != widths(2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"criterion": "magic", "ratio": 0.5}, "unknown criterion 'magic'; choose one of l1, random"),
        ({}, "either a ratio or a number of parameters"),
        ({"ratio": 0.5, "params": 1000}, "either a ratio or a number of parameters"),
        ({"ratio": -0.1}, "ratio must be at least 0"),
    ],
)
def test_bad_input_is_named(faces, sparse, arguments, message):
    with pytest.raises(InputError, match=message):
        prune(sparse, faces["train"], **arguments)


def test_limits_are_respected(faces, sparse):
    pruned = prune(sparse, faces["train"], ratio=0.9, limits=Limits(min_channels=3), recalibrate_batches=1)
    assert min(pruned.spec.widths.values()) >= 3
