import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import TINY, enliven, patterns, planned
from slimfer.model.zoo import build
from slimfer.preprocess import normalize
from slimfer.train.evaluate import predict_logits, softmax


def test_logits_are_those_of_one_pass_whatever_the_batch():
    net, frames = enliven(build(TINY)), patterns(37)
    whole = net(torch.from_numpy(normalize(frames.images))).detach().numpy()
    for batch_size in (1, 10, 37, 256):
        assert np.allclose(predict_logits(net, frames, batch_size=batch_size), whole, atol=1e-5)
    assert predict_logits(net, frames.take(np.arange(0))).shape == (0, 3)


def test_modes_and_numbers_stay_as_they_were():
    net = build(TINY).train()
    net[0].eval()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    modes = [module.training for module in net.modules()]
    predict_logits(net, patterns(9))
    assert [module.training for module in net.modules()] == modes
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


def test_bf16_is_close_and_comes_back_as_float32():
    net, frames = enliven(planned(classes=3, channels=1, plan=["residual"], side=16)), patterns(20)
    half = predict_logits(net, frames, bf16=True)
    assert half.dtype == np.float32
    assert 0 < np.abs(half - predict_logits(net, frames)).max() < 0.05


@given(st.lists(st.floats(-1e4, 1e4), min_size=2, max_size=9), st.floats(-100, 100))
@settings(deadline=None)
def test_softmax_is_a_distribution_and_does_not_see_a_shift(values, shift):
    logits = np.array([values])
    probabilities = softmax(logits)
    assert np.isclose(probabilities.sum(), 1)
    assert (probabilities >= 0).all()
    assert np.allclose(softmax(logits + shift), probabilities, atol=1e-6)
    assert probabilities[0, int(np.argmax(values))] == probabilities.max()
