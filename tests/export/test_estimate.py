"""What is predicted is what is found when it is really done."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import BLOCKS, enliven, patterns, spec_of
from slimfer.compress.config import QuantizeConfig
from slimfer.compress.cut import cut_groups
from slimfer.compress.goal import CutConfig
from slimfer.compress.quantize import quantize
from slimfer.compress.search import Knob, Plan, plan_of
from slimfer.compress.sensitivity import find_groups
from slimfer.compress.surgery import channels_of
from slimfer.export.estimate import LATENCY, MACS, SIZE, Estimate, Shapes, fit_pace
from slimfer.export.onnx import to_onnx
from slimfer.model.complexity import complexity
from slimfer.model.placing import place, quant_layers
from slimfer.model.spec import NetSpec
from slimfer.model.zoo import build
from slimfer.train.checkpoint import Checkpoint, weights_of

plans = st.lists(st.sampled_from(sorted(BLOCKS)), min_size=1, max_size=3)


def network(spec: NetSpec) -> Checkpoint:
    return Checkpoint(spec, weights_of(enliven(build(spec))), tuple("abcdefg"[: spec.classes]))


def estimate(checkpoint: Checkpoint, bits: tuple[int, ...] = (8, 4, 2)) -> Estimate:
    """All widths open, and the bits of all layers but the ends."""
    net, spec = checkpoint.build(), checkpoint.spec
    channels = channels_of(checkpoint, net)
    groups = find_groups(channels)
    shapes = Shapes.of(channels, groups, complexity(net, spec.channels, spec.image))
    layers = list(dict.fromkeys(layer.target for layer in quant_layers(place(checkpoint.build()))))
    cuts = []
    for group in groups:
        widths = tuple(range(len(group.atoms), 0, -1))
        cuts.append(Knob("cut", group.name, widths, (0.0,) * len(widths)))
    rounded = (Knob("bits", name, bits, (0.0,) * len(bits)) for name in layers[1:-1])
    return Estimate(shapes, (*cuts, *rounded), dict.fromkeys((layers[0], layers[-1]), 8))


def random_plan(model: Estimate, seed: int) -> Plan:
    rng = np.random.default_rng(seed)
    return plan_of(model.knobs, [rng.integers(len(knob.levels)) for knob in model.knobs])


def done(checkpoint: Checkpoint, plan: Plan) -> Checkpoint:
    spec = checkpoint.spec
    faces = patterns(64, side=spec.image, channels=spec.channels)
    narrow = cut_groups(checkpoint, faces, CutConfig(plan.keep, "gamma", recalibrate=0))
    return quantize(narrow, faces, QuantizeConfig(per_layer=plan.bits))


@settings(max_examples=25)
@given(plan=plans, head=st.sampled_from(["pool", "flatten", "hidden"]), seed=st.integers(0, 99))
def test_multiply_adds_are_exact(plan: list[str], head: str, seed: int) -> None:
    checkpoint = network(spec_of(*plan, head=head))
    model = estimate(checkpoint)
    chosen = random_plan(model, seed)
    faces = patterns(64, side=checkpoint.spec.image)
    narrow = cut_groups(checkpoint, faces, CutConfig(chosen.keep, "gamma", recalibrate=0))
    cost = complexity(narrow.build(), checkpoint.spec.channels, checkpoint.spec.image)
    assert model.of_plan(chosen)[MACS] == pytest.approx(cost.macs, rel=1e-9)
    features = model.features(model.values(chosen)[0])
    assert features[0, 2] == pytest.approx(cost.activations, rel=1e-9)


@pytest.mark.parametrize("name", ["resnet18", "mobile", "vgg11"])
def test_bytes_are_near_those_of_the_file(name: str) -> None:
    """The rest is set by one file, as a search does it; the next ones are then met within a few percent."""
    checkpoint = network(NetSpec(name, image=24 if name != "vgg11" else 32, args={"width": 0.5}))
    model = estimate(checkpoint)
    plans = [random_plan(model, seed) for seed in range(3)]
    sizes = [len(to_onnx(done(checkpoint, plan))) for plan in plans]
    model = replace(model, rest=sizes[0] - model.of_plan(plans[0])[SIZE])
    for plan, size in zip(plans[1:], sizes[1:], strict=True):
        assert model.of_plan(plan)[SIZE] == pytest.approx(size, rel=0.05)


def test_states_and_plans_cost_the_same() -> None:
    model = replace(estimate(network(spec_of("residual", "plain", "depthwise"))), rest=100.0, pace=(0.1, 1e-6, 1e-5))
    rng = np.random.default_rng(0)
    states = np.array([[rng.integers(len(knob.levels)) for knob in model.knobs] for _ in range(20)])
    one_by_one = [model.of_plan(plan_of(model.knobs, state)) for state in states]
    np.testing.assert_allclose(model(states), one_by_one)


def test_every_cost_falls_with_every_level() -> None:
    model = replace(estimate(network(spec_of("residual", "concat", "plain"))), rest=100.0, pace=(0.1, 1e-6, 1e-5))
    state = np.zeros((1, len(model.knobs)), dtype=np.int64)
    for index, knob in enumerate(model.knobs):
        states = np.repeat(state, len(knob.levels), axis=0)
        states[:, index] = np.arange(len(knob.levels))
        assert (np.diff(model(states), axis=0) <= 1e-9).all()


def test_without_measured_times_all_take_the_same() -> None:
    model = estimate(network(spec_of("plain")))
    assert model(np.array([[0] * len(model.knobs), [1] * len(model.knobs)]))[:, LATENCY].tolist() == [1, 1]


@given(pace=st.tuples(st.floats(0, 1), st.floats(0, 1e-6), st.floats(0, 1e-5)), seed=st.integers(0, 20))
def test_times_that_follow_the_model_are_fitted_exactly(pace: tuple[float, float, float], seed: int) -> None:
    rng = np.random.default_rng(seed)
    features = np.stack([np.ones(5), rng.uniform(1e5, 1e7, 5), rng.uniform(1e3, 1e5, 5)], axis=1)
    times = features @ np.array(pace) + 1e-3
    found = fit_pace(features, times)
    assert min(found) >= 0
    np.testing.assert_allclose(features @ np.array(found), times, rtol=1e-3)


def test_no_pace_is_below_zero() -> None:
    """Small files that happened to take longer than large ones."""
    features = np.stack([np.ones(4), np.array([4e6, 3e6, 2e6, 1e6]), np.array([4e4, 3e4, 2e4, 1e4])], axis=1)
    found = fit_pace(features, np.array([0.5, 0.6, 0.7, 0.8]))
    assert min(found) >= 0
    assert found == pytest.approx((0.6207, 0, 0), rel=0.05)
