import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, fx, nn

from helpers import BLOCKS, enliven, spec_of
from slimfer.model.fold import fold
from slimfer.model.groups import trace
from slimfer.model.prefix import Prefix, reached
from slimfer.model.spec import NetSpec
from slimfer.model.zoo import build

plans = st.lists(st.sampled_from(sorted(BLOCKS)), max_size=4)


def batches(spec: NetSpec) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(n, spec.channels, spec.image, spec.image, generator=generator) for n in (3, 2)]


def layers_of(graph: fx.GraphModule) -> list[str]:
    kinds = (nn.Conv2d, nn.Linear, nn.BatchNorm2d)
    called = dict.fromkeys(str(node.target) for node in graph.graph.nodes if node.op == "call_module")
    return [name for name in called if isinstance(graph.get_submodule(name), kinds)]


def louder(graph: fx.GraphModule, name: str) -> fx.GraphModule:
    """The same network with other weights in one layer."""
    variant = copy.deepcopy(graph)
    variant.get_submodule(name).weight.data.mul_(1.7)
    return variant


@torch.no_grad()
def check(graph: fx.GraphModule, spec: NetSpec, memory: int = 1 << 30) -> None:
    """Every layer changed in turn: the rest of the network from the prefix answers as the whole network does."""
    inputs = batches(spec)
    prefix = Prefix(graph, inputs, memory=memory)
    plain = [graph(x.clone()) for x in inputs]
    for name in layers_of(graph):
        numbers = reached(graph, [name])
        prefix.advance(min(numbers))
        variant = louder(graph, name)
        slow = [variant(x.clone()) for x in inputs]
        for _ in range(2):  # the first variant must leave the prefix as it was
            for fast, whole in zip(prefix.finish(variant), slow, strict=True):
                assert torch.allclose(fast, whole, rtol=1e-5, atol=1e-5)
        for fast, whole in zip(prefix.finish(graph), plain, strict=True):
            assert torch.allclose(fast, whole, rtol=1e-5, atol=1e-5)
        assert prefix.bytes <= memory


@settings(max_examples=25)
@given(plan=plans, head=st.sampled_from(["pool", "flatten", "hidden"]), folded=st.booleans())
def test_the_rest_answers_as_the_whole(plan: list[str], head: str, folded: bool) -> None:
    spec = spec_of(*plan, head=head)
    net = enliven(build(spec))
    check(fold(net) if folded else trace(net), spec)


@pytest.mark.parametrize("name", ["resnet18", "mobile"])
def test_networks_of_the_zoo(name: str) -> None:
    spec = NetSpec(name, image=16, args={"width": 0.125})
    check(trace(enliven(build(spec))), spec)


@pytest.mark.parametrize("memory", [0, 5000])
def test_batches_beyond_the_memory_are_computed_from_the_start(memory: int) -> None:
    spec = spec_of("residual", "concat", "excite")
    check(trace(enliven(build(spec))), spec, memory)


class InPlace(nn.Module):
    """Works in place on its input, and on a branch that is alive while the other one is computed."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.last = nn.Conv2d(1, 3, 3), nn.Conv2d(1, 3, 3), nn.Conv2d(3, 2, 6)

    def forward(self, x: Tensor) -> Tensor:
        x.mul_(2)
        y = self.a(x)
        y.add_(self.b(x))
        return self.last(torch.relu_(y)).flatten(1)


@pytest.mark.parametrize("memory", [0, 1 << 30])
def test_layers_that_work_in_place_leave_the_prefix_as_it_was(memory: int) -> None:
    torch.manual_seed(0)
    check(trace(InPlace().eval()), NetSpec("none", image=8), memory)


def test_only_what_is_read_later_is_kept() -> None:
    spec = spec_of("plain", "plain", head="pool")
    graph = trace(enliven(build(spec)))
    prefix = Prefix(graph, batches(spec))
    prefix.advance(min(reached(graph, ["blocks.1.body.0"])))
    assert prefix.bytes == 5 * 6 * 8 * 8 * 4  # five pictures of six channels, and nothing else


def test_what_a_node_reads() -> None:
    spec = spec_of("residual", head="hidden")
    graph = trace(enliven(build(spec)))
    seen: list[Tensor] = []
    graph.get_submodule("hidden").register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].clone()))
    inputs = batches(spec)
    with torch.no_grad():
        for x in inputs:
            graph(x.clone())
    for memory in (0, 1 << 30):
        prefix = Prefix(graph, inputs, memory=memory)
        place = min(reached(graph, ["hidden"]))
        prefix.advance(place)
        assert all(torch.equal(a, b) for a, b in zip(prefix.inputs(place), list(seen), strict=False))


def test_one_cannot_go_back() -> None:
    spec = spec_of("plain")
    prefix = Prefix(trace(enliven(build(spec))), batches(spec))
    prefix.advance(4)
    with pytest.raises(ValueError, match="place 2 is passed already"):
        prefix.advance(2)


def test_what_a_change_reaches() -> None:
    graph = trace(build(spec_of("residual", head="pool")))
    names = [node.name for node in graph.graph.nodes]
    found = {names[number] for number in reached(graph, ["blocks.0.second.0"])}
    assert "blocks_0_first_0" not in found
    assert {"blocks_0_second_0", "blocks_0_second_1", "last", "output"} <= found
    assert reached(graph, []) == set()
