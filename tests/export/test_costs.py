import numpy as np
import onnx
import pytest
from torch import nn

from helpers import enliven, spec_of
from slimfer.export.costs import MARK, _name_layers, _session, layer_costs, profile
from slimfer.export.onnx import to_onnx
from slimfer.labels import EMOTIONS
from slimfer.model.fold import fold, layer_calls
from slimfer.model.spec import NetSpec
from slimfer.model.zoo import MODELS, build
from slimfer.train.checkpoint import Checkpoint, weights_of
from slimfer.train.loop import initial

PLANS = (("residual", "depthwise"), ("concat", "concat_add"), ("excite_conv",), ("shared", "twice"))


def network(*plan: str) -> Checkpoint:
    spec = spec_of(*plan)
    return Checkpoint(spec, weights_of(enliven(build(spec))), ("a", "b", "c"))


@pytest.mark.alone
@pytest.mark.parametrize("name", MODELS)
def test_every_layer_of_the_zoo_is_timed(name: str) -> None:
    checkpoint = initial(NetSpec(name, args={"width": 0.25} if name != "microexpnet" else {}), EMOTIONS, seed=0)
    costs = layer_costs(checkpoint, (8, 4, 2), rounds=10)
    assert not costs["latency_note"]
    assert all(row["latency_ms"] > 0 for row in costs["layers"])
    together = sum(row["latency_ms"] for row in costs["layers"]) + costs["other_ms"]
    # The profiler adds a little to each operator, and rounds to microseconds.
    assert 0.3 < together / costs["latency_ms"]["median"] < 3


@pytest.mark.parametrize("plan", PLANS)
def test_layers_of_any_network_are_found(plan: tuple[str, ...]) -> None:
    checkpoint = network(*plan)
    times, other, whole = profile(checkpoint, 5)
    assert set(times) == {str(node.target) for node in layer_calls(fold(checkpoint.build()))}
    assert other > 0
    assert whole["best"] <= whole["median"] <= whole["p95"]


def slow(*, classes: int, channels: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(channels, 64, 1), nn.ReLU(), nn.Conv2d(64, 64, 5, padding=2), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, classes),
    )  # fmt: skip


@pytest.mark.alone
def test_the_slow_layer_is_seen() -> None:
    """One layer with nearly all multiply-adds takes most of the time."""
    spec = NetSpec(f"{__name__}:slow", classes=3, image=32)
    costs = layer_costs(Checkpoint(spec, weights_of(build(spec)), ("a", "b", "c")), rounds=20)
    shares = {row["name"]: (row["macs_share"], row["latency_share"]) for row in costs["layers"]}
    assert shares["2"][0] > 0.99
    assert shares["2"][1] > 0.7


def test_costs_are_counted() -> None:
    checkpoint = network("residual")
    costs = layer_costs(checkpoint, (8, 4, 3, 2), rounds=0)
    rows = {row["name"]: row for row in costs["layers"]}
    stem = rows["stem.0"]
    assert (stem["outputs"], stem["params"], stem["macs"], stem["bytes"]) == (4, 4 * 9 + 4, 4 * 9 * 64, 160)
    weights = 4 * 5 * 9
    expected = {"8": weights, "4": weights / 2, "3": weights * 3 / 8, "2": weights / 5}
    assert rows["blocks.0.first.0"]["weight_bytes"] == pytest.approx(expected, abs=0.6)
    for key in ("params_share", "macs_share", "bytes_share"):
        assert sum(row[key] for row in rows.values()) == pytest.approx(1)
    assert (stem["latency_ms"], costs["latency_ms"], costs["latency_note"]) == (None, None, "not timed")


def test_names_for_the_profile_change_no_answer() -> None:
    data = to_onnx(network("residual", "concat"))
    model = onnx.load_from_string(data)
    _name_layers(model, sum(node.op_type in ("Conv", "Gemm") for node in model.graph.node))
    feed = {"pixels": np.random.default_rng(0).integers(0, 256, (2, 1, 8, 8), np.uint8)}
    plain, named = (_session(one).run(None, feed)[0] for one in (data, model.SerializeToString()))
    assert np.array_equal(plain, named)
    assert sum(node.name.startswith(MARK) for node in model.graph.node) == 5
