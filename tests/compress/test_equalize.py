import pytest
import torch
from torch import nn

import networks
from helpers import enliven, patterns
from slimfer.compress.config import QuantizeConfig
from slimfer.compress.equalize import equalize
from slimfer.compress.quantize import quantize
from slimfer.metrics import sqnr_db
from slimfer.model.fold import fold
from slimfer.model.placing import place
from slimfer.model.spec import NetSpec
from slimfer.model.zoo import build
from slimfer.train.checkpoint import Checkpoint, weights_of
from slimfer.train.evaluate import predict_logits


class Plain(nn.Module):
    """Every way in which one layer may follow another."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 8, 3, padding=1, groups=4)
        self.c, self.d = nn.Conv2d(8, 6, 1), nn.Conv2d(6, 6, 3, groups=2)
        self.e, self.f, self.g = nn.Conv2d(6, 3, 1), nn.Linear(12, 5), nn.Linear(5, 3)
        self.pool = nn.MaxPool2d(5)

    def forward(self, x):
        x = self.c(torch.relu(self.b(nn.functional.leaky_relu(self.a(x), 0.1))))
        x = self.pool(torch.relu(self.e(torch.relu(self.d(torch.relu(x))))))
        return self.g(self.f(torch.flatten(x, 1)))


def ranges(layer, channels):
    """Largest |weight| by output, and by input channel: the slow way."""
    weight = layer.weight.detach()
    depthwise = isinstance(layer, nn.Conv2d) and layer.groups > 1
    by_input = weight.reshape(1 if depthwise else len(weight), channels, -1)
    return [float(by_input[:, i].abs().max()) for i in range(channels)]


def uneven(seed=0):
    torch.manual_seed(seed)
    net = Plain().double()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter *= torch.logspace(-2, 1, len(parameter)).double().view(-1, *(1,) * (parameter.dim() - 1))
    return net.eval()


@pytest.mark.parametrize("prepare", [fold, place], ids=["folded", "with quantizers"])
def test_the_pairs_are_those_with_nothing_but_homogeneous_layers_in_between(prepare):
    # d is a grouped convolution: an input of it belongs to two outputs' groups only in part.
    assert equalize(prepare(uneven())) == [("a", "b"), ("b", "c"), ("d", "e"), ("e", "f"), ("f", "g")]


def test_what_the_network_computes_stays():
    net = uneven()
    x = torch.randn(5, 1, 12, 12, dtype=torch.float64)
    before = net(x)
    graph = fold(net)
    was = graph.a.weight.detach().clone()
    equalize(graph)
    assert (graph.a.weight / was - 1).abs().max() > 0.5
    torch.testing.assert_close(graph(x), before, rtol=1e-9, atol=1e-12)


def test_afterwards_both_layers_of_a_pair_have_equal_ranges():
    """Equation 11 of the paper; gone through in rounds, all pairs together."""
    graph = fold(uneven())
    for first, second in equalize(graph):
        a, b = graph.get_submodule(first), graph.get_submodule(second)
        outputs = [float(row.abs().max()) for row in a.weight.detach()]
        assert outputs == pytest.approx(ranges(b, len(outputs)), rel=0.01)


def test_a_dead_channel_stays_dead():
    net = uneven()
    with torch.no_grad():
        net.a.weight[1] = 0
        net.c.weight[:, 3] = 0
    x = torch.randn(5, 1, 12, 12, dtype=torch.float64)
    before = net(x)
    graph = fold(net)
    equalize(graph)
    assert all(parameter.isfinite().all() for parameter in graph.parameters())
    torch.testing.assert_close(graph(x), before, rtol=1e-9, atol=1e-12)


def test_residual_streams_are_left_alone_and_a_shared_layer_is_in_no_pair():
    pairs = equalize(fold(enliven(build(NetSpec("resnet18", args={"width": 0.0625})))))
    assert len(pairs) == 8
    assert all(first.endswith("conv1") and second.endswith("conv2") for first, second in pairs)
    shared = NetSpec("helpers:planned", classes=3, image=8, args={"plan": ["shared"]})
    assert equalize(fold(build(shared))) == []


def test_an_uneven_network_is_quantized_better():
    """Channels scaled up in one layer and down in the next ruin the range that they share; equalization undoes it."""
    checkpoint = networks.learnt()
    net = checkpoint.build()
    factors = torch.logspace(-1.5, 1.5, 7)
    with torch.no_grad():  # the first BN of the residual block, and the convolution behind it
        net[3].first[1].weight *= factors
        net[3].first[1].bias *= factors
        net[3].second[0].weight /= factors.view(1, -1, 1, 1)
    spoilt = Checkpoint(checkpoint.spec, weights_of(net), checkpoint.labels)
    validation = patterns(256, seed=5)
    expected = predict_logits(checkpoint.build(), validation)
    noise = {
        even: sqnr_db(
            expected,
            predict_logits(
                quantize(spoilt, patterns(128, seed=2), QuantizeConfig(bits=6, equalize=even)).build(), validation
            ),
        )
        for even in (True, False)
    }
    assert noise[True] > noise[False] + 5
