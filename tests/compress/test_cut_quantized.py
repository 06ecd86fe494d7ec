"""Cutting networks of integers: exact where nothing flows through what goes."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from helpers import patterns
from networks import integers
from slimfer.compress.config import Limits, PruneConfig
from slimfer.compress.prune import prune
from slimfer.compress.surgery import channels_of, cut_quantized
from slimfer.errors import InputError
from slimfer.export.onnx import to_onnx
from slimfer.model.zoo import build
from slimfer.runtime.session import Session
from slimfer.train.evaluate import predict_logits

FRAMES = patterns(32, seed=5)


def test_silent_channels_go_without_a_trace():
    quantized = integers()
    channels = channels_of(quantized, build(quantized.spec))
    removed = np.random.default_rng(0).choice(channels.free_atoms(), 6, replace=False)
    weights = {name: tensor.clone() for name, tensor in quantized.weights.items()}
    for layer in channels.layers:
        gone = torch.as_tensor(np.isin(layer.outputs, removed))
        for name in (f"{layer.name}.weight", f"{layer.name}.bias"):
            if name in weights:
                weights[name][gone] = 0
    silent = replace(quantized, weights=weights)
    narrow = cut_quantized(silent, channels, removed)
    assert sum(t.numel() for t in narrow.weights.values()) < sum(t.numel() for t in weights.values())
    assert np.array_equal(predict_logits(narrow.build(), FRAMES), predict_logits(silent.build(), FRAMES))


def test_a_pruned_network_of_integers_is_one_still():
    pruned = prune(integers(), FRAMES, PruneConfig("l1", 0.3, limits=Limits()))
    assert [record["step"] for record in pruned.lineage][-2:] == ["quantize", "prune"]
    assert pruned.lineage[-1]["params"][1] < pruned.lineage[-1]["params"][0]
    answers = Session(to_onnx(pruned)).run_all(FRAMES.images)
    assert np.array_equal(answers.argmax(1), predict_logits(pruned.build(), FRAMES).argmax(1))


def test_criteria_that_need_gradients_are_refused():
    with pytest.raises(InputError, match="taylor needs a float network"):
        prune(integers(), FRAMES, PruneConfig("taylor", 0.3))
