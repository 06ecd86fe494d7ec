import numpy as np
import torch
from hypothesis import given
from hypothesis.extra.numpy import array_shapes, arrays

from slimfer.preprocess import SCALE, ZERO_POINT, normalize

EVERY = np.arange(256, dtype=np.uint8)


def test_every_pixel_value_exactly():
    x = normalize(EVERY)
    assert x.dtype == np.float32
    assert x.astype(float).tolist() == [(p - 128) / 64 for p in range(256)]


def test_it_is_the_dequantization_of_the_integer_graph_and_invertible():
    x = normalize(EVERY)
    assert np.array_equal(x, (EVERY.astype(np.int32) - ZERO_POINT).astype(np.float32) * np.float32(SCALE))
    assert np.array_equal(np.rint(x / SCALE + ZERO_POINT).astype(np.uint8), EVERY)


def test_bf16_holds_every_value_exactly():
    x = torch.from_numpy(normalize(EVERY))
    assert torch.equal(x.bfloat16().float(), x)


@given(arrays(np.uint8, array_shapes(max_dims=4, max_side=5)))
def test_shape_kept_input_untouched_each_value_alone(pixels):
    before = pixels.copy()
    x = normalize(pixels)
    assert x.shape == pixels.shape
    assert np.array_equal(pixels, before)
    assert np.array_equal(x, normalize(EVERY)[pixels])
