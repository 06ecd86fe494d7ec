import numpy as np
import pytest

from helpers import TINY, enliven, patterns, spec_of
from slimfer.compress.cut import cut_groups
from slimfer.compress.goal import CutConfig
from slimfer.compress.prune import taylor_scores
from slimfer.compress.quantize import quantize
from slimfer.compress.sensitivity import find_groups
from slimfer.compress.surgery import channels_of
from slimfer.errors import InputError
from slimfer.model.zoo import build
from slimfer.train.checkpoint import Checkpoint, weights_of
from slimfer.train.evaluate import predict_logits


def network(spec=TINY, seed: int = 0) -> Checkpoint:
    return Checkpoint(spec, weights_of(enliven(build(spec, seed=seed), seed)), ("a", "b", "c"))


FACES = patterns(64)


@pytest.mark.parametrize("criterion", ["gamma", "taylor", "l1", "l2", "fpgm", "random"])
def test_each_group_gets_its_width(criterion) -> None:
    dense = network()
    sizes = {group.name: len(group.atoms) for group in find_groups(channels_of(dense, dense.build()))}
    keep = {name: size // 2 for name, size in sizes.items()}
    narrow = cut_groups(dense, FACES, CutConfig(keep, criterion, recalibrate=1))
    found = {group.name: len(group.atoms) for group in find_groups(channels_of(narrow, narrow.build()))}
    assert found == keep
    before, after = narrow.lineage[-1]["params"]
    assert before == sum(p.numel() for p in dense.build().parameters())
    assert after == sum(p.numel() for p in narrow.build().parameters())


def test_groups_that_are_not_named_stay_whole() -> None:
    dense = network(spec_of("plain", "plain"))
    narrow = cut_groups(dense, patterns(64, side=8), CutConfig({"blocks.0.body.0": 2}, "gamma", recalibrate=0))
    assert narrow.spec.widths == {"blocks.0.body.0": 2}


def test_nothing_named_is_the_same_network() -> None:
    dense = network()
    same = cut_groups(dense, FACES, CutConfig(recalibrate=0))
    np.testing.assert_array_equal(predict_logits(dense.build(), FACES), predict_logits(same.build(), FACES))


def test_the_weakest_by_taylor_go() -> None:
    """Oracle: with single convolutions the kept filters are those of the highest scores, in their old order."""
    dense = network(spec_of("plain"))
    faces = patterns(64, side=8)
    channels = channels_of(dense, dense.build())
    group = next(group for group in find_groups(channels) if group.name == "blocks.0.body.0")
    scores = taylor_scores(channels, faces, images=64)
    value = dict(zip(scores.atoms.tolist(), scores.values.tolist(), strict=True))
    outputs = next(layer for layer in channels.layers if layer.name == group.name).outputs.tolist()
    strongest = sorted(sorted(range(len(outputs)), key=lambda i: value[outputs[i]])[-3:])
    narrow = cut_groups(dense, faces, CutConfig({group.name: 3}, "taylor", images=64, recalibrate=0))
    name = "blocks.0.body.0.weight"
    assert narrow.weights[name].equal(dense.weights[name][strongest])


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        ({"nowhere": 2}, "no group of channels is called 'nowhere' \\(there are 0.0, "),
        ({"0.0": 99}, "group 0.0 has 6 channels, not 99"),
    ],
)
def test_what_cannot_be_cut_is_named(keep, message) -> None:
    with pytest.raises(InputError, match=message):
        cut_groups(network(), FACES, CutConfig(keep))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CutConfig({"a": 0}), "keep of a must be at least 1 channel, not 0"),
        (lambda: CutConfig(criterion="best"), "criterion must be one of gamma, .*, not best"),
        (lambda: CutConfig(images=0), "images must be at least 1, not 0"),
        (lambda: CutConfig(recalibrate=-1), "recalibrate must be at least 0, not -1"),
    ],
)
def test_values_outside_their_range_are_named(make, message) -> None:
    with pytest.raises(InputError, match=message):
        make()


def test_integers_are_refused() -> None:
    with pytest.raises(InputError, match="cut needs a float network"):
        cut_groups(quantize(network(), FACES), FACES, CutConfig())
