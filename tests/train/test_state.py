import numpy as np
import pytest
import torch

from helpers import CLASSES, TINY, patterns, tiny
from slimfer.compress.slim import SlimmingPenalty
from slimfer.train.config import TrainConfig
from slimfer.train.loop import initial
from slimfer.train.objective import cross_entropy
from slimfer.train.state import differences, identity, optimizer_tensors, restore_optimizer


def stepped(kind: type[torch.optim.Optimizer], **values: float) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    net = tiny(classes=3, channels=1).to(memory_format=torch.channels_last)
    optimizer = kind(net.parameters(), lr=0.1, **values)
    for seed in range(3):
        torch.manual_seed(seed)
        net(torch.randn(4, 1, 16, 16).contiguous(memory_format=torch.channels_last)).square().sum().backward()
        optimizer.step()
    return net, optimizer


@pytest.mark.parametrize(
    ("kind", "values", "count"),
    [(torch.optim.SGD, {"momentum": 0.9}, 1), (torch.optim.SGD, {}, 0), (torch.optim.AdamW, {}, 3)],
)
def test_optimizer_memory_comes_back_with_its_layout(kind, values, count):
    net, optimizer = stepped(kind, **values)
    saved = {name: tensor.contiguous().clone() for name, tensor in optimizer_tensors(optimizer).items()}
    fresh = kind(net.parameters(), lr=0.1, **values)
    restore_optimizer(fresh, saved)
    assert len(saved) == count * len(list(net.parameters()))
    for parameter in net.parameters():
        old, new = optimizer.state[parameter], fresh.state[parameter]
        for name in (name for name, value in old.items() if value is not None):
            assert torch.equal(new[name], old[name])
            assert new[name].stride() == old[name].stride(), "another layout may round otherwise"


def test_identity_names_what_differs():
    start, data = initial(TINY, CLASSES, seed=0), {"train": patterns(9), "validation": patterns(5)}

    def other(start=start, data=data, config=TrainConfig(), objective=cross_entropy, hooks=(), step="train"):  # noqa: B008
        return identity(start, data, config, objective, hooks, step)

    def by(**values):
        return differences(other(), other(**values))

    changed = patterns(9)
    changed.images[4, 0, 3, 3] ^= 1
    relabelled = patterns(5)
    relabelled.labels[0] = (relabelled.labels[0] + 1) % 3
    assert by() == by(config=TrainConfig(save_seconds=1)) == []
    assert by(start=initial(TINY, CLASSES, seed=1)) == ["start"]
    assert by(data={**data, "train": changed}) == ["data.train"]
    assert by(data={**data, "validation": relabelled}) == ["data.validation"]
    assert by(data={**data, "train": patterns(9).take(np.arange(8))}) == ["data.train"]
    assert by(config=TrainConfig(lr=0.2, step_at=(0.3,))) == ["config.lr", "config.step_at"]
    assert by(objective=lambda *_: 0) == ["objective.name"]
    assert by(hooks=[SlimmingPenalty(1e-4)]) == ["hooks"]
    assert differences(other(hooks=[SlimmingPenalty(1e-4)]), other(hooks=[SlimmingPenalty(2e-4)])) == ["hooks"]
    assert by(step="fine-tune") == ["step"]
