import copy

import pytest
import torch

from helpers import tiny
from slimfer.train.averaging import WeightAverage


def test_average_is_the_slow_recurrence():
    net, decay = tiny(classes=3, channels=1), 0.5
    average = WeightAverage(net, decay)
    expected = {name: tensor.double() for name, tensor in net.state_dict().items()}
    for update in range(1, 15):
        for parameter in net.parameters():
            parameter.data.normal_(generator=torch.Generator().manual_seed(update))
        net[0][1].num_batches_tracked += 1
        average.update(net)
        d = min(decay, (1 + update) / (10 + update))
        for name, tensor in net.state_dict().items():
            if tensor.is_floating_point():
                expected[name] = d * expected[name] + (1 - d) * tensor.double()
    assert average.updates == 14
    for name, tensor in average.tensors.items():
        assert torch.allclose(tensor.double(), expected[name], atol=1e-5), name


def test_warm_up_forgets_the_random_start():
    net = torch.nn.Linear(1, 1, bias=False)
    net.weight.data.fill_(1000.0)
    average = WeightAverage(net, 0.999)
    net.weight.data.fill_(1.0)
    share = 1.0
    for update in range(1, 61):
        average.update(net)
        share *= (1 + update) / (10 + update)
    assert float(average.tensors["weight"]) == pytest.approx(1 + 999 * share, rel=1e-4)
    assert share < 1e-6 < 0.999**60


def test_switched_off_it_stays_as_it_was():
    net = tiny(classes=3, channels=1)
    average = WeightAverage(net, 0.0)
    before = copy.deepcopy(average.tensors)
    net[0][0].weight.data.zero_()
    average.update(net)
    assert all(torch.equal(tensor, before[name]) for name, tensor in average.tensors.items())


def test_loading_keeps_the_memory_layout():
    net = tiny(classes=3, channels=1).to(memory_format=torch.channels_last)
    average = WeightAverage(net, 0.9)
    strides = {name: tensor.stride() for name, tensor in average.tensors.items()}
    average.load({name: torch.ones_like(tensor).contiguous() for name, tensor in average.tensors.items()})
    assert {name: tensor.stride() for name, tensor in average.tensors.items()} == strides
    assert all((tensor == 1).all() for tensor in average.tensors.values())
