from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from compress.conftest import QUICK
from slimfer.compress.config import Limits, PruneConfig, SlimConfig
from slimfer.compress.prune import prune
from slimfer.compress.slim import SlimmingPenalty, slim
from slimfer.compress.surgery import channels_of, count_params
from slimfer.errors import InputError
from slimfer.metrics import score
from slimfer.model.spec import NetSpec
from slimfer.train.evaluate import predict_logits, softmax
from slimfer.train.loop import fit, initial


def accuracy(checkpoint, frames) -> float:
    probabilities = softmax(predict_logits(checkpoint.build(), frames))
    return score(probabilities, frames.labels, frames.classes)["accuracy"]


def test_the_penalty_is_the_sub_gradient_of_the_l1_norm():
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4))
    net[1].weight.data = torch.tensor([0.5, -0.25, 0.0, 2.0])
    net(torch.randn(2, 1, 8, 8)).sum().backward()
    loss = net[1].weight.grad.clone()
    conv = net[0].weight.grad.clone()
    SlimmingPenalty(0.1).after_backward(net, 0.5)
    assert torch.allclose(net[1].weight.grad - loss, torch.tensor([0.1, -0.1, 0.0, 0.1]), atol=1e-6)
    assert torch.equal(net[0].weight.grad, conv)


def test_the_penalty_makes_scales_small(faces, sparse):
    start = initial(sparse.spec, sparse.labels, seed=0, gamma=0.5)
    plain = fit(start, faces["train"], faces["validation"], replace(QUICK, epochs=3))

    def small(checkpoint) -> float:
        scales = [m.weight.abs() for m in checkpoint.build().modules() if isinstance(m, nn.BatchNorm2d)]
        return float((torch.cat(scales) < 0.1).float().mean())

    assert small(sparse) > small(plain) + 0.3


def test_slimming_beats_its_controls_at_equal_parameters(faces, sparse):
    target = slim(sparse, SlimConfig(ratio=0.6, limits=Limits(), recalibrate=20), faces["train"])
    params = count_params(channels_of(target, target.build()))
    short = replace(QUICK, epochs=1, lr=0.02, average=0.9)

    def recovered(checkpoint) -> float:
        return accuracy(fit(checkpoint, faces["train"], faces["validation"], short), faces["validation"])

    ours = recovered(target)
    for criterion in ("l1", "random"):
        control = prune(sparse, faces["train"], PruneConfig(criterion, params=params, recalibrate=20, limits=Limits()))
        assert abs(count_params(channels_of(control, control.build())) - params) < 0.05 * params
        assert ours > recovered(control) + 0.1, criterion


def test_recalibration_and_folding_help_before_fine_tuning(faces, sparse):
    def after(**settings) -> float:
        config = SlimConfig(ratio=0.5, limits=Limits(), **settings)
        return accuracy(slim(sparse, config, faces["train"]), faces["validation"])

    dropped = after(fold=False, recalibrate=0)
    assert after(fold=True, recalibrate=0) >= dropped
    assert after(fold=True, recalibrate=20) > dropped


def test_the_lineage_says_what_was_cut(faces, sparse):
    slimmed = slim(sparse, SlimConfig(ratio=0.5, limits=Limits()), faces["train"])
    entry = slimmed.lineage[-1]
    assert entry["step"] == "slim"
    assert entry["cut"] == pytest.approx(0.5, abs=0.05)
    assert entry["params"] == [count_params(channels_of(c, c.build())) for c in (sparse, slimmed)]


def test_a_network_without_batch_normalization_is_refused(faces):
    checkpoint = initial(NetSpec("compress.plain_nets:without_bn"), faces["train"].classes, seed=0)
    with pytest.raises(InputError, match="no batch normalization"):
        slim(checkpoint, SlimConfig(), faces["train"])


def test_the_users_own_module_is_slimmed(faces):
    checkpoint = initial(NetSpec("compress.plain_nets:residual"), faces["train"].classes, seed=0)
    slimmed = slim(checkpoint, SlimConfig(ratio=0.5, limits=Limits()), faces["train"])
    assert slimmed.spec.builder == "compress.plain_nets:residual"
    assert count_params(channels_of(slimmed, slimmed.build())) < count_params(
        channels_of(checkpoint, checkpoint.build())
    )
    images = torch.from_numpy(np.zeros((2, 1, 48, 48), np.float32))
    assert slimmed.build()(images).shape == (2, 7)
