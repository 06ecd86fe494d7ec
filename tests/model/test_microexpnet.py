"""The sixteen published networks: counts by arithmetic, padding as TensorFlow's, and every step down to integers."""

import functools
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import networks
from slimfer.artifact import open_artifact
from slimfer.compress.config import Limits, PruneConfig
from slimfer.compress.prune import prune
from slimfer.compress.quantize import quantize
from slimfer.errors import InputError
from slimfer.export.onnx import to_onnx
from slimfer.export.parity import operators, verify
from slimfer.model.complexity import complexity
from slimfer.model.groups import channel_map
from slimfer.model.microexpnet import SIZES, VARIANTS, same_padding
from slimfer.model.spec import NetSpec
from slimfer.model.zoo import build
from slimfer.preprocess import normalize
from slimfer.train.checkpoint import Checkpoint
from slimfer.train.config import TrainConfig
from slimfer.train.loop import fit, initial

GOLDEN = Path(__file__).parent.parent / "golden" / "microexpnet.json"
NAMES = {"v": "microexpnet-v", "p1": "microexpnet-p1", "p2": "microexpnet-p2", "p12": "microexpnet"}
ALL = list(itertools.product(VARIANTS, SIZES))

# Parameters at 84 px and 8 classes, computed from the published code.
PUBLISHED = {
    "v": (1_002_808, 257_656, 133_464, 71_368),
    "p1": (1_002_808, 257_656, 133_464, 71_368),
    "p2": (900_920, 232_184, 120_728, 65_000),
    "p12": (900_920, 232_184, 120_728, 65_000),
}

every_variant = pytest.mark.parametrize("variant", VARIANTS)
both_sizes = pytest.mark.parametrize("image", [84, 48])


def spec_of(variant: str, size: str = "XXS", *, image: int = 84, classes: int = 8, **args: float) -> NetSpec:
    return NetSpec(NAMES[variant], classes=classes, image=image, args={"size": size, **args})


def ceil_div(a: int, b: int) -> int:
    return -(-a // b)


def formula(variant: str, size: str, image: int, classes: int) -> dict[str, int]:
    """Parameters and multiply-adds by arithmetic alone."""
    stride1, pool1, pool2, hidden = {
        "v": (4, 1, 1, 256), "p1": (2, 2, 1, 256), "p2": (4, 1, 2, 768), "p12": (2, 2, 2, 768),
    }[variant]  # fmt: skip
    hidden //= {"M": 1, "S": 4, "XS": 8, "XXS": 16}[size]
    side1 = ceil_div(image, stride1)
    side2 = ceil_div(ceil_div(side1, pool1), 2)
    flat = 32 * ceil_div(side2, pool2) ** 2
    weights = (64 * 16, 256 * 32, flat * hidden, hidden * classes)
    return {
        "params": sum(weights) + 16 + 32 + hidden + classes,
        "macs": weights[0] * side1**2 + weights[1] * side2**2 + weights[2] + weights[3],
    }


def cases() -> dict[str, tuple[NetSpec, dict[str, int]]]:
    return {
        f"{variant}, {size}, {image} px, {classes} classes": (
            spec_of(variant, size, image=image, classes=classes), formula(variant, size, image, classes),
        )
        for image, classes in ((84, 8), (48, 7))
        for variant, size in ALL
    }  # fmt: skip


def regenerate() -> None:
    """Write the golden file from the formulas."""
    GOLDEN.write_text(json.dumps({name: counts for name, (_, counts) in cases().items()}, indent=2) + "\n")


def test_golden_file_is_what_the_formulas_give():
    assert json.loads(GOLDEN.read_text()) == {name: counts for name, (_, counts) in cases().items()}


def test_golden_parameters_are_the_published_ones():
    golden = json.loads(GOLDEN.read_text())
    for variant, counts in PUBLISHED.items():
        assert tuple(golden[f"{variant}, {size}, 84 px, 8 classes"]["params"] for size in SIZES) == counts


@pytest.mark.parametrize("name", cases())
def test_counts_are_the_golden_ones(name):
    spec, _ = cases()[name]
    cost = complexity(build(spec), 1, spec.image)
    assert {"params": cost.params, "macs": cost.macs} == json.loads(GOLDEN.read_text())[name]
    assert cost.uncounted == ()


# --- padding ---------------------------------------------------------------------------------------------------------
def same_windows(x: np.ndarray, kernel: int, stride: int, fill: float) -> np.ndarray:
    """TensorFlow's SAME from its documentation, pixel by pixel: (C, H, W) -> (C, H', W', kernel, kernel).

    Output i reads the pixels from i * stride - before on, where `before` is half of what is missing, rounded down; a
    pixel outside the picture counts as `fill`.
    """
    side = x.shape[1]
    missing = max(kernel - (side % stride or stride), 0)
    before, out = missing // 2, ceil_div(side, stride)
    windows = np.full((len(x), out, out, kernel, kernel), fill, np.float64)
    for i, j, a, b in itertools.product(range(out), range(out), range(kernel), range(kernel)):
        row, column = i * stride - before + a, j * stride - before + b
        if 0 <= row < side and 0 <= column < side:
            windows[:, i, j, a, b] = x[:, row, column]
    return windows


def slow_forward(net: torch.nn.Module, variant: str, x: np.ndarray) -> np.ndarray:
    """The network of the paper for one picture (1, H, W), from the windows above."""
    weights = {name: tensor.detach().double().numpy() for name, tensor in net.state_dict().items()}
    stride1, pool1, pool2 = {"v": (4, 0, 0), "p1": (2, 1, 0), "p2": (4, 0, 1), "p12": (2, 1, 1)}[variant]
    for name, kernel, stride, pools in (("conv1", 8, stride1, pool1), ("conv2", 4, 2, pool2)):
        windows = same_windows(x, kernel, stride, 0)
        x = np.einsum("chwab,ocab->ohw", windows, weights[f"{name}.weight"]) + weights[f"{name}.bias"][:, None, None]
        x = np.maximum(x, 0)
        if pools:
            x = same_windows(x, 2, 2, -np.inf).max((3, 4))
    hidden = np.maximum(weights["hidden.weight"] @ x.ravel() + weights["hidden.bias"], 0)
    return weights["linear.weight"] @ hidden + weights["linear.bias"]


@every_variant
@pytest.mark.parametrize("image", [84, 48, 35])
def test_networks_answer_as_with_padding_same_of_tensorflow(variant, image):
    checkpoint = networks.untrained(spec_of(variant, image=image))
    net = checkpoint.build()
    images = networks.noise(2, image).images
    with torch.no_grad():
        answers = net(torch.from_numpy(normalize(images))).numpy()
    slow = np.stack([slow_forward(net, variant, one) for one in normalize(images)])
    np.testing.assert_allclose(answers, slow, rtol=1e-4, atol=1e-6)


@given(st.integers(1, 200), st.integers(1, 9), st.integers(1, 5))
def test_padding_same_gives_the_size_that_it_promises(side, kernel, stride):
    before, after = same_padding(side, kernel, stride)
    assert 0 <= before <= after <= before + 1
    padded = side + before + after
    outputs = (padded - kernel) // stride + 1
    assert outputs == ceil_div(side, stride)
    if before + after:  # no more than is needed
        assert padded == (outputs - 1) * stride + kernel


def test_only_odd_sizes_need_a_layer_for_padding():
    pads = {image: build(spec_of("p12", image=image)).pad2 for image in (84, 48)}
    assert pads[84].padding == (1, 2, 1, 2)
    assert isinstance(pads[48], torch.nn.Identity)


# --- what the project does with networks -----------------------------------------------------------------------------
@functools.cache
def trained(variant: str, image: int) -> Checkpoint:
    torch.set_num_threads(1)
    frames = networks.noise(32, image, classes=8)
    start = initial(spec_of(variant, image=image), frames.classes, seed=0)
    config = TrainConfig(epochs=1, batch_size=32, optimizer="adamw", lr=1e-3, warmup=0.0, average=0.0)
    return fit(start, frames, frames, config)


@every_variant
@both_sizes
def test_one_step_of_training_changes_every_weight(variant, image):
    start = initial(spec_of(variant, image=image), trained(variant, image).labels, seed=0)
    for name, tensor in trained(variant, image).weights.items():
        assert tensor.isfinite().all()
        assert not torch.equal(tensor, start.weights[name]), name


@every_variant
def test_dropout_works_in_training_only(variant):
    net = build(spec_of(variant, dropout=0.5))
    x = torch.from_numpy(normalize(networks.noise(2, 84).images))
    assert not torch.equal(net.train()(x), net(x))
    assert torch.equal(net.eval()(x), net(x))


@every_variant
@both_sizes
def test_channels_can_be_cut_in_every_layer_but_the_last(variant, image):
    channels = channel_map(build(spec_of(variant, image=image)), 1, image)
    assert len(channels.free_atoms()) == 16 + 32 + {"v": 16, "p1": 16, "p2": 48, "p12": 48}[variant]
    dense = trained(variant, image)
    config = PruneConfig(criterion="l1", ratio=0.5, limits=Limits())
    cut = prune(dense, networks.noise(32, image, classes=8), config, seed=0)
    with torch.no_grad():
        assert cut.build()(torch.zeros(2, 1, image, image)).shape == (2, 8)
    assert sum(w.numel() for w in cut.weights.values()) < 0.6 * sum(w.numel() for w in dense.weights.values())
    assert {"conv1", "conv2", "hidden"} >= set(cut.spec.widths)


@every_variant
@both_sizes
def test_floats_and_integers_are_exported_without_a_layer_in_float(variant, image):
    dense = networks.untrained(spec_of(variant, image=image))
    frames = networks.noise(64, image, classes=8)
    for checkpoint in (dense, quantize(dense, frames)):
        model = to_onnx(checkpoint)
        failed = [check for check in verify(model, checkpoint, frames, min_agreement=0.95) if not check.passed]
        assert not failed
    found = operators(open_artifact(model))
    assert (found["QLinearConv"], found["QGemm"], found["Pad"]) == (2, 2, 0)


def test_unknown_sizes_are_refused():
    with pytest.raises(InputError, match="size must be one of M, S, XS, XXS, not L"):
        build(spec_of("v", "L"))
