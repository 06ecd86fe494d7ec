import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import fx

from helpers import BLOCKS, TINY, enliven, patterns, silence, spec_of
from slimfer.compress.config import AnalyzeConfig
from slimfer.compress.quantize import correct_layer, to_tensor
from slimfer.compress.sensitivity import BATCH, ROW, Sensitivity, Trial, compare, find_groups, round_layer
from slimfer.compress.surgery import channels_of, fold_constants, relearning
from slimfer.data.frames import Frames
from slimfer.errors import InputError
from slimfer.model.fold import fold
from slimfer.model.narrow import remove_atoms
from slimfer.model.spec import NetSpec
from slimfer.model.zoo import build
from slimfer.train.checkpoint import Checkpoint, weights_of
from slimfer.train.evaluate import predict_logits

plans = st.lists(st.sampled_from(sorted(BLOCKS)), min_size=1, max_size=3)
SMALL = AnalyzeConfig(ratios=(0.5, 0.9), bits=(8, 3), recalibrate=False)


def network(spec: NetSpec, seed: int = 0) -> Checkpoint:
    return Checkpoint(spec, weights_of(enliven(build(spec, seed=seed), seed)), ("a", "b", "c"))


def pictures(spec: NetSpec, n: int, seed: int = 0) -> Frames:
    return patterns(n, side=spec.image, channels=spec.channels, seed=seed)


def sensitivity(checkpoint: Checkpoint, config: AnalyzeConfig, n: int = 40) -> Sensitivity:
    return Sensitivity(checkpoint, pictures(checkpoint.spec, 32, seed=1), pictures(checkpoint.spec, n), config)


def same(row: dict, slow: dict) -> bool:
    return all(row[key] == pytest.approx(slow[key], rel=1e-3, abs=1e-4) for key in slow if key != "logits_sqnr_db")


@pytest.mark.parametrize(
    ("plan", "head"),
    [
        (["residual", "depthwise"], "pool"),
        (["concat", "concat_add"], "flatten"),
        (["excite", "shared"], "hidden"),
        (["excite_conv", "twice"], "pool"),
    ],
)
def test_cached_activations_change_nothing(plan: list[str], head: str) -> None:
    """The slow way builds each network whole and runs all of it."""
    checkpoint = network(spec_of(*plan, head=head))
    sample = pictures(checkpoint.spec, 40)
    tried = sensitivity(checkpoint, SMALL)
    groups = {group.name: group for group in tried.groups}
    before = predict_logits(checkpoint.build(), sample)
    for row in tried.run():
        if row["kind"] == "cut":
            net = checkpoint.build()
            channels = channels_of(checkpoint, net)
            removed = groups[row["name"]].weakest(row["value"])
            with torch.no_grad():
                fold_constants(channels, removed)
            remove_atoms(channels, removed)
            assert row["params"] == sum(p.numel() for p in net.parameters())
            assert row["kept"] + len(removed) == row["channels"]
        else:
            net = rounded_whole(checkpoint, row["name"], int(row["value"]))
        assert same(row, compare(before, predict_logits(net, sample), sample.labels))


@torch.no_grad()
def rounded_whole(checkpoint: Checkpoint, name: str, bits: int) -> fx.GraphModule:
    """Return the network with one layer rounded and corrected on what the whole network shows it."""
    net, seen = fold(checkpoint.build()), []
    layer = net.get_submodule(name)
    handle = layer.register_forward_hook(
        lambda module, inputs, output: seen.append((inputs[0].clone(), output.clone()))
    )
    net(to_tensor(pictures(checkpoint.spec, 32, seed=1)))
    handle.remove()
    rounded = round_layer(layer, bits)
    if len(seen) == 1:
        x, expected = seen[0]
        correct_layer(rounded, rounded(x), expected)
    net.add_submodule(name, rounded)
    return net


def test_statistics_behind_a_cut_are_measured_anew() -> None:
    """Only those of batch normalizations that read what the cut changed; the slow way runs the whole network."""
    checkpoint = network(spec_of("plain", "plain"))
    config = AnalyzeConfig(ratios=(0.5,), bits=())
    sample, calibration = pictures(checkpoint.spec, 40), pictures(checkpoint.spec, 32, seed=1)
    assert len(calibration) <= BATCH  # one batch here as there
    before = predict_logits(checkpoint.build(), sample)
    control, *cuts = sensitivity(checkpoint, config).run()
    assert (control["kind"], control["name"]) == ("control", "recalibrated")
    for row in (control, *cuts):
        net = checkpoint.build()
        channels = channels_of(checkpoint, net)
        norms = [net.stem[1], net.blocks[0].body[1], net.blocks[1].body[1]]
        for number, group in enumerate(find_groups(channels)):
            if group.name == row["name"]:
                removed = group.weakest(0.5)
                with torch.no_grad():
                    fold_constants(channels, removed)
                remove_atoms(channels, removed)
                norms = norms[number + 1 :]
        with relearning(norms), torch.no_grad():
            net(to_tensor(calibration))
        assert same(row, compare(before, predict_logits(net, sample), sample.labels)), row["name"]


def test_more_bits_are_less_noise() -> None:
    checkpoint = network(TINY)
    config = AnalyzeConfig(ratios=(), bits=(8, 6, 4, 3, 2))
    rows = list(sensitivity(checkpoint, config, 60).run())
    layers = list(dict.fromkeys(row["name"] for row in rows))
    assert [row["value"] for row in rows] == [8, 6, 4, 3, 2] * len(layers)
    for name in layers:
        noise = [row["sqnr_db"] for row in rows if row["name"] == name]
        assert noise == sorted(noise, reverse=True)
        assert noise[0] > 35


def test_channels_that_do_nothing_cost_nothing() -> None:
    checkpoint = network(spec_of("residual", "plain"))
    net = checkpoint.build()
    channels = channels_of(checkpoint, net)
    groups = find_groups(channels)
    silent = np.concatenate([group.weakest(0.5) for group in groups])
    with torch.no_grad():
        silence(channels, silent)
    quiet = Checkpoint(checkpoint.spec, weights_of(net), checkpoint.labels)
    config = AnalyzeConfig(ratios=(0.5, 0.75), bits=(), recalibrate=False)
    rows = list(sensitivity(quiet, config).run())
    for row in rows:
        if row["value"] == 0.5:
            assert (row["drop"], row["same"]) == (0, 1)
            assert row["logits_sqnr_db"] is None or row["logits_sqnr_db"] > 80
    assert min(row["logits_sqnr_db"] or 99 for row in rows if row["value"] == 0.75) < 60  # these do something


def test_what_is_done_is_not_done_again_and_changes_nothing() -> None:
    checkpoint = network(spec_of("residual", "depthwise"))
    config = AnalyzeConfig(ratios=(0.5, 0.75), bits=(8, 2))
    whole = list(sensitivity(checkpoint, config).run())
    tried = sensitivity(checkpoint, config)
    assert [Trial(row["kind"], row["name"], row["value"]) for row in whole] == list(tried.trials)
    for stop in (1, 5, len(whole) - 1):
        rest = list(sensitivity(checkpoint, config).run(done=tried.trials[:stop]))
        assert rest == whole[stop:]
    assert list(sensitivity(checkpoint, config).run(done=tried.trials)) == []
    assert all(set(row) <= {"kind", "name", "value", *ROW} for row in whole)


@settings(max_examples=15)
@given(plan=plans, head=st.sampled_from(["pool", "flatten", "hidden"]))
def test_groups_are_what_can_be_cut(plan: list[str], head: str) -> None:
    checkpoint = network(spec_of(*plan, head=head))
    channels = channels_of(checkpoint, checkpoint.build())
    groups = find_groups(channels)
    assert sorted(np.concatenate([group.atoms for group in groups]).tolist()) == channels.free_atoms().tolist()
    assert len({group.name for group in groups}) == len(groups)
    for group in groups:
        assert len(group.weakest(0.999)) == len(group.atoms) - 1
        assert set(group.weakest(0.25)) <= set(group.weakest(0.75)) <= set(group.atoms)


def test_the_weakest_by_scale_or_by_norm() -> None:
    checkpoint = network(spec_of("plain", head="hidden"))
    net = checkpoint.build()
    groups = {group.name: group for group in find_groups(channels_of(checkpoint, net))}
    channels = channels_of(checkpoint, net)
    gamma = net.blocks[0].body[1].weight.detach().abs().numpy()
    layer = next(layer for layer in channels.layers if layer.name == "blocks.0.body.0")
    assert groups["blocks.0.body.0"].criterion == "gamma"
    assert groups["blocks.0.body.0"].atoms.tolist() == layer.outputs[np.argsort(gamma)].tolist()
    norms = net.hidden.weight.detach().abs().sum(1).numpy()
    hidden = next(layer for layer in channels.layers if layer.name == "hidden")
    assert groups["hidden"].criterion == "l1"
    assert groups["hidden"].atoms.tolist() == hidden.outputs[np.argsort(norms)].tolist()


@pytest.mark.parametrize("name", ["resnet18", "mobile", "vgg11"])
def test_networks_of_the_zoo(name: str) -> None:
    spec = NetSpec(name, classes=3, image=32, args={"width": 0.125})
    rows = list(sensitivity(network(spec), AnalyzeConfig(ratios=(0.5,), bits=(4,)), 16).run())
    assert {row["kind"] for row in rows} == {"control", "cut", "bits"}
    params, macs = (max(row[key] for row in rows if row["kind"] == "control") for key in ("params", "macs"))
    assert all(row["params"] < params and row["macs"] < macs for row in rows if row["kind"] == "cut")


def test_answers_compared() -> None:
    labels = np.array([0, 1, 2, 0])
    before = np.eye(3, dtype=np.float32)[[0, 1, 2, 1]] * 4
    after = np.eye(3, dtype=np.float32)[[0, 2, 0, 0]] * 4
    told = compare(before, after, labels)
    assert (told["accuracy"], told["drop"], told["same"]) == (0.5, 0.25, 0.25)
    low, high = told["drop_ci95"]
    assert low < told["drop"] < high
    right, wrong = (-np.log(np.exp(x) / (np.exp(4) + 2)) for x in (4, 0))
    assert told["nll"] == pytest.approx((2 * right + 2 * wrong) / 4)
    assert told["nll_increase"] == pytest.approx((wrong - right) / 4)
    unchanged = compare(before, before, labels)
    assert (unchanged["drop"], unchanged["nll_increase"], unchanged["logits_sqnr_db"]) == (0, 0, None)


def test_integers_are_refused() -> None:
    checkpoint = network(TINY)
    scale = {"x.weight_scale": torch.ones(1)}
    quantized = Checkpoint(TINY, checkpoint.weights, checkpoint.labels, quant=scale)
    with pytest.raises(InputError, match="quantized already; analyze the float network"):
        sensitivity(quantized, SMALL)


def test_pictures_are_read_in_even_batches() -> None:
    """A last batch of one picture would stop BN from learning."""
    checkpoint = network(TINY)
    calibration = pictures(TINY, BATCH + 1)
    rows = Sensitivity(checkpoint, calibration, pictures(TINY, 20), AnalyzeConfig(ratios=(0.5,), bits=())).run()
    assert next(rows)["kind"] == "control"
    assert len(to_tensor(calibration)) == BATCH + 1
