import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import networks
from helpers import enliven
from slimfer.errors import InputError
from slimfer.model.placing import load_quantized, place, quant_layers, split_state
from slimfer.model.quant import ActivationQuantizer, QuantConv2d, QuantLinear, affine
from slimfer.model.spec import NetSpec
from slimfer.model.zoo import build
from slimfer.preprocess import SCALE, ZERO_POINT, normalize

finite = st.floats(-1e4, 1e4, width=32)


@given(finite, finite)
def test_zero_is_exact_and_the_range_is_covered(a, b):
    low, high = min(a, b), max(a, b)
    scale, zero_point = affine(low, high)
    assert scale > 0
    assert 0 <= zero_point <= 255
    if high > 1e-30 or low < -1e-30:
        step = scale * 1.001
        assert -zero_point * scale <= min(low, 0) + step / 2
        assert (255 - zero_point) * scale >= max(high, 0) - step / 2


@given(finite, finite, st.lists(st.floats(0, 1), min_size=1, max_size=50))
def test_rounding_is_off_by_half_a_step_at_most_and_does_not_change_what_is_rounded(a, b, places):
    quantizer = ActivationQuantizer()
    low, high = min(a, b, 0), max(a, b, 0)
    quantizer.set_range(low, high)
    x = torch.tensor(places) * (high - low) + low
    rounded = quantizer(x)
    # Half a step, and half a step more at the ends, because the zero point is rounded, too.
    assert (rounded - x).abs().max() <= float(quantizer.scale) * 1.001
    inside = (x > low + quantizer.scale) & (x < high - quantizer.scale)
    assert ((rounded - x).abs()[inside] <= quantizer.scale * 0.501).all()
    torch.testing.assert_close(quantizer(rounded), rounded, rtol=1e-6, atol=0)
    assert quantizer(torch.zeros(1)) == 0


def test_a_dead_tensor_gets_a_usable_scale():
    assert affine(0, 0) == (1.0, 0)


def test_pixels_are_their_own_integers():
    quantizer = ActivationQuantizer()
    quantizer.set(SCALE, ZERO_POINT)
    pixels = torch.from_numpy(normalize(np.arange(256, dtype=np.uint8)))
    assert torch.equal(quantizer(pixels), pixels)


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("layer", [nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3, groups=4), nn.Linear(5, 4)])
def test_weights_lie_on_a_symmetric_grid_per_channel(layer, bits):
    torch.manual_seed(bits)
    kind = QuantConv2d if isinstance(layer, nn.Conv2d) else QuantLinear
    quantized = kind.of(layer, bits)
    quantized.freeze(0.1)
    integers = quantized.integer_weight()
    limit = 2 ** (bits - 1) - 1
    assert integers.dtype == torch.int8
    assert (integers.flatten(1).abs().amax(1) == limit).all(), "the largest weight is the largest integer"
    scale = quantized.weight_scale.view(-1, *(1,) * (integers.dim() - 1))
    torch.testing.assert_close(quantized.rounded_weight(), integers * scale)
    assert ((integers * scale - layer.weight).abs() <= scale * 0.501).all()


@pytest.mark.parametrize("bits", [-1, 0, 1, 9, 32])
def test_bits_out_of_range_are_refused(bits):
    with pytest.raises(InputError, match=f"bits must be between 2 and 8, not {bits}"):
        ActivationQuantizer(bits)
    with pytest.raises(InputError, match=f"bits must be between 2 and 8, not {bits}"):
        QuantLinear.of(nn.Linear(2, 2), bits)


def test_the_bias_of_a_dead_channel_fits_int32():
    conv = nn.Conv2d(2, 3, 3)
    with torch.no_grad():
        conv.weight[0] = 0
        conv.weight[1] *= 1e-20
        conv.bias.copy_(torch.tensor([3.0, -50.0, 0.5]))
    quantized = QuantConv2d.of(conv, 8)
    quantized.freeze(1e-3)
    stored = quantized.integer_bias(1e-3) * quantized.weight_scale.double() * 1e-3
    torch.testing.assert_close(stored, torch.tensor([3.0, -50.0, 0.5], dtype=torch.float64), rtol=1e-4, atol=1e-6)


def test_rounding_the_bias_is_idempotent_and_moves_it_by_half_a_step():
    conv = nn.Conv2d(2, 3, 3)
    before = conv.bias.detach().clone()
    quantized = QuantConv2d.of(conv, 8)
    quantized.freeze(0.5)
    quantized.round_bias(0.5)
    once = quantized.bias.detach().clone()
    assert ((once - before).abs() <= quantized.weight_scale * 0.5 * 0.501).all()
    quantized.round_bias(0.5)
    assert torch.equal(once, quantized.bias)


def test_gradients_pass_inside_the_range_and_stop_outside():
    quantizer = ActivationQuantizer()
    quantizer.set_range(-1, 1)
    x = torch.tensor([-3.0, -0.5, 0.3, 3.0], requires_grad=True)
    quantizer(x).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0, 1, 1, 0]


@pytest.mark.parametrize("bits", range(2, 9))
def test_more_bits_have_finer_levels(bits):
    quantizer = ActivationQuantizer(bits)
    quantizer.set_range(-1, 2)
    x = torch.linspace(-1, 2, 1001)
    rounded = quantizer(x)
    assert quantizer.bits == bits
    assert quantizer.levels == 2**bits - 1
    assert len(rounded.unique()) == 2**bits
    assert (rounded - x).abs().max() <= 3 / (2**bits - 1) * 0.501 + float(quantizer.scale) / 2
    quantizer.set_bits(2)
    assert quantizer.levels == 3


def test_numbers_from_before_activations_had_bits_are_read_as_eight():
    graph = place(build(networks.case_spec("relu")))
    weights, quant = split_state(graph)
    old = {name: tensor for name, tensor in quant.items() if not name.endswith(".activation_bits")}
    again = load_quantized(build(networks.case_spec("relu")), weights, old)
    assert {module.bits for module in again.modules() if isinstance(module, ActivationQuantizer)} == {8}


def calibrated(name: str, bits: int) -> nn.Module:
    """The network as it comes out of a checkpoint, with made-up ranges."""
    graph = place(enliven(build(networks.case_spec(name) if name != "shared" else SHARED)))
    for number, module in enumerate(graph.modules()):
        if isinstance(module, ActivationQuantizer) and module.scale.isnan():
            module.set_range(-0.7 - number / 20, 2.3)
    for layer in quant_layers(graph):
        layer.module.set_bits(bits)
        layer.module.freeze(float(layer.source.scale))
        layer.module.round_bias(float(layer.source.scale))
    spec = networks.case_spec(name) if name != "shared" else SHARED
    return load_quantized(build(spec), *split_state(graph))


SHARED = NetSpec("helpers:planned", classes=3, image=16, args={"plan": ["shared"], "side": 16})


@pytest.mark.parametrize("bits", [2, 8])
@pytest.mark.parametrize("name", ["max_pool", "zero_pad", "depthwise", "dilated", "same", "cat", "gate", "shared"])
def test_computing_with_integers_is_computing_with_what_they_stand_for(name, bits):
    net = calibrated(name, bits)
    x = torch.randn(4, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    values = net(x).detach()
    with torch.no_grad():
        integers = net(x)
    largest = float(values.abs().max())
    # Rounding of float32 turns a level here and there.
    assert (integers - values).abs().mean() < 1e-3 * largest
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(net(x), integers)


def test_a_layer_computes_the_sums_of_an_integer_runtime():
    """Against int64 arithmetic."""
    net = calibrated("max_pool", 4)
    seen = {}
    for layer in quant_layers(net):
        layer.module.register_forward_hook(lambda m, i, out, name=layer.target: seen.update({name: (i[0], out)}))
    with torch.no_grad():
        net(torch.randn(3, 1, 16, 16, generator=torch.Generator().manual_seed(1)))
    for layer in quant_layers(net):
        x, out = seen[layer.target]
        module, scale = layer.module, float(layer.source.scale)
        q = torch.round(x.double() / scale).long()
        operate = module._conv_forward if isinstance(module, QuantConv2d) else nn.functional.linear
        sums = operate(q.double(), module.integer_weight().double(), module.integer_bias(scale).double())
        assert torch.equal(sums, sums.round())
        unit = (module.weight_scale * layer.source.scale).view(-1, *(1,) * (out.dim() - 2))
        assert torch.equal(out, sums.float() * unit)


def placed(spec: NetSpec) -> list[str]:
    """The nodes that a quantizer follows."""
    graph = place(build(spec))
    return [
        node.args[0].name
        for node in graph.graph.nodes
        if node.op == "call_module" and isinstance(graph.get_submodule(node.target), ActivationQuantizer)
    ]


def test_quantizers_stand_where_the_integer_runtime_needs_them():
    after = placed(NetSpec("resnet18", args={"width": 0.0625}))
    assert after[:5] == ["x", "relu", "layer1_0_relu1", "layer1_0_conv2", "layer1_0_relu2"]
    assert "layer2_0_shortcut_0" in after
    assert not {"conv1", "layer1_0_conv1", "add", "head_linear"} & set(after)
    assert after[-2:] == ["head_pool", "head_flatten"]


def test_operations_that_only_move_values_share_the_quantizer_of_their_input():
    graph = place(build(NetSpec("vgg11", args={"width": 0.0625})))
    targets = [n.target for n in graph.graph.nodes if str(n.target).startswith("quantizers.")]
    assert len(targets) - len(set(targets)) == 4 + 1  # max-poolings and the flatten


def test_a_network_that_is_not_calibrated_answers_nan():
    graph = place(build(networks.case_spec("relu")))
    assert graph(torch.zeros(1, 1, 16, 16)).isnan().all()


def test_numbers_of_quantizers_are_told_from_weights_by_what_they_belong_to():
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale, self.linear = nn.Parameter(torch.ones(())), nn.Linear(2, 2)

    weights, quant = split_state(Scaled())
    assert set(weights) == {"scale", "linear.weight", "linear.bias"}
    assert quant == {}
    weights, quant = split_state(place(build(networks.case_spec("relu"))))
    assert {name.rpartition(".")[2] for name in quant} == {
        "scale", "zero_point", "activation_bits", "weight_scale", "weight_bits",
    }  # fmt: skip
    assert {name.rpartition(".")[2] for name in weights} == {"weight", "bias"}


def test_every_layer_knows_the_quantizer_of_its_input():
    graph = place(build(NetSpec("resnet18", args={"width": 0.0625})))
    layers = list(quant_layers(graph))
    assert len(layers) == 21
    assert layers[0].source is graph.get_submodule("quantizers.x")
    assert (float(layers[0].source.scale), int(layers[0].source.zero_point)) == (SCALE, ZERO_POINT)
