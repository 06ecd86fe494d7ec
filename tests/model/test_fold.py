import pytest
import torch
from torch import nn

import networks
from helpers import BLOCKS, enliven, spec_of
from slimfer.errors import InputError
from slimfer.model.fold import fold
from slimfer.model.spec import NetSpec
from slimfer.model.zoo import build

SPECS = {
    **{name: networks.case_spec(name) for name in (*networks.LAYERS, *networks.FUNCTIONS)},
    **{f"block {name}": spec_of(name, "plain") for name in BLOCKS},
    **{f"head {head}": spec_of("plain", head=head) for head in ("pool", "flatten", "hidden")},
    "resnet18": NetSpec("resnet18", args={"width": 0.0625}),
    "mobile": NetSpec("mobile", args={"width": 0.25, "dropout": 0.2}),
}


@pytest.mark.parametrize("name", SPECS)
def test_folding_changes_nothing_but_the_structure(name):
    spec = SPECS[name]
    net = enliven(build(spec, seed=1))
    x = torch.randn(3, spec.channels, spec.image, spec.image, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = net(x)
        graph = fold(net)
        torch.testing.assert_close(graph(x), before, rtol=1e-4, atol=1e-5)
    left = {type(module) for module in graph.modules()}
    assert not left & {nn.BatchNorm2d, nn.Dropout, nn.Identity}


def test_layers_keep_their_names():
    graph = fold(build(NetSpec("resnet18", args={"width": 0.0625})))
    assert isinstance(graph.get_submodule("layer2.0.shortcut.0"), nn.Conv2d)
    assert graph.get_submodule("conv1").bias is not None


def test_a_norm_that_cannot_be_folded_becomes_a_depthwise_convolution():
    class PreActivation(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm, self.last = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1)

        def forward(self, x):
            y = self.conv(x)
            return y + torch.relu(self.norm(y))

    net = enliven(PreActivation())
    x = torch.randn(2, 1, 8, 8)
    with torch.no_grad():
        before = net(x)
        graph = fold(net)
        torch.testing.assert_close(graph(x), before)
    norm = graph.get_submodule("norm")
    assert isinstance(norm, nn.Conv2d)
    assert (norm.groups, norm.kernel_size) == (4, (1, 1))


def test_torch_random_numbers_are_left_alone():
    net = enliven(build(networks.case_spec("norm")))
    state = torch.random.get_rng_state()
    fold(net)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_what_cannot_be_traced_is_refused():
    class Branching(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    with pytest.raises(InputError, match="cannot trace Branching"):
        fold(Branching())
