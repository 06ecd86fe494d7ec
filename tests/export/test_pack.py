import itertools

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from onnx import TensorProto, helper, numpy_helper

from slimfer.export.body import Body
from slimfer.export.pack import BIASES, WEIGHTS, Code, Pool, encode, matrices, stored_bits

CODES = {**{f"{bits} bits": code for bits, code in WEIGHTS.items()}, **{f"bias {c.bytes}": c for c in BIASES}}
every_code = pytest.mark.parametrize("code", CODES.values(), ids=CODES)


def decode(words: np.ndarray, code: Code) -> np.ndarray:
    """The oracle: exact integer arithmetic, one word and one digit at a time."""
    digits = []
    for word in words.tolist():
        value = sum(byte * 256**i for i, byte in enumerate(word))
        for _ in range(code.digits):
            digit = (value + code.base // 2) % code.base - code.base // 2
            digits.append(digit)
            value = (value - digit) // code.base
        assert value == 0
    return np.array(digits, np.int64)


def expand(words: np.ndarray, code: Code) -> np.ndarray:
    """What the operators compute, in float32."""
    shares, differences = matrices(code)
    x = words.astype(np.float32) @ shares
    return (np.round(x) @ differences if code.digits > 1 else x).ravel()


@every_code
@given(data=st.data())
def test_what_was_encoded_comes_back_by_integers_and_by_floats(code, data):
    values = data.draw(npst.arrays(np.int32, st.integers(0, 50), elements=st.integers(-code.limit, code.limit)))
    words = encode(values, code)
    assert words.nbytes == code.bytes * -(-len(values) // code.digits)
    for digits in (decode(words, code), expand(words, code)):
        np.testing.assert_array_equal(digits[: len(values)], values)
        assert not digits[len(values) :].any()


@pytest.mark.parametrize("bits", WEIGHTS)
def test_every_word_of_extreme_digits_is_exact(bits):
    code = WEIGHTS[bits]
    extremes = itertools.product((-code.limit, 0, code.limit), repeat=code.digits)
    values = np.array(list(extremes)).ravel()
    np.testing.assert_array_equal(expand(encode(values, code), code), values)


@pytest.mark.parametrize("bits", WEIGHTS)
def test_a_code_holds_all_weights_of_its_bits_and_no_more_bits_than_it_says(bits):
    assert WEIGHTS[bits].limit == 2 ** (bits - 1) - 1
    assert stored_bits(bits) <= bits * 1.07


def test_two_bits_take_less_than_two_and_seven_take_a_byte():
    assert stored_bits(2) == 1.6
    assert (stored_bits(7), stored_bits(8)) == (8, 8)


@every_code
def test_words_are_exact_in_float32(code):
    assert code.base**code.digits <= 256**code.bytes <= 2**24


@every_code
def test_too_large_integers_are_refused(code):
    with pytest.raises(ValueError, match="do not fit"):
        encode(np.array([0, code.limit + 1]), code)


def written(pool: Pool, body: Body, names: list[str]) -> tuple[onnx.ModelProto, list[np.ndarray]]:
    """Write the pool, and return the model and what onnxruntime makes of its tensors."""
    pool.write()
    casts = [helper.make_node("Cast", [name], [f"{name}!"], to=TensorProto.FLOAT) for name in names]
    outputs = [helper.make_tensor_value_info(f"{name}!", TensorProto.FLOAT, None) for name in names]
    graph = helper.make_graph([*body.nodes, *casts], "g", [], outputs, body.tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return model, session.run(None, {})


@pytest.mark.parametrize("bits", range(2, 9))
def test_a_pool_gives_back_weights_biases_and_scales(bits):
    rng = np.random.default_rng(bits)
    limit = 2 ** (bits - 1) - 1
    shapes = [(16, 3, 3, 3), (40, 16, 3, 3), (7, 40), (40, 16, 3, 3)]
    weights = [rng.integers(-limit, limit, shape, np.int8, endpoint=True) for shape in shapes]
    biases = [rng.integers(-(10**size), 10**size, 300, np.int32) for size in (3, 6, 9)]
    scales = [rng.uniform(0.001, 0.1, n).astype(np.float32) for n in (16, 40)]
    body = Body()
    pool = Pool(body)
    names = [pool.weight(w, bits) for w in weights] + [pool.bias(b) for b in biases] + [pool.scale(s) for s in scales]
    _, tensors = written(pool, body, names)
    for tensor, expected in zip(tensors, [*weights, *biases, *scales], strict=True):
        assert tensor.shape == expected.shape
        np.testing.assert_array_equal(tensor, expected.astype(np.float32))


def test_equal_tensors_are_stored_once_and_small_groups_stay_plain():
    body = Body()
    pool = Pool(body)
    few, many = np.ones((4, 5), np.int8), np.ones((40, 50), np.int8)
    assert pool.weight(few, 4) == pool.weight(few.copy(), 4)
    pool.write()
    assert (body.nodes, len(body.tensors)) == ([], 1)
    pool = Pool(body)
    pool.weight(many, 4)
    pool.write()
    assert body.nodes
    assert sum(len(tensor.raw_data) for tensor in body.tensors) < many.nbytes * 0.6


@pytest.mark.parametrize(("short", "kind"), [(True, np.float16), (False, np.float32)])
@pytest.mark.parametrize("exponent", [-30, -8, 0, 12])
def test_scales_of_few_digits_are_stored_in_half_precision(short, kind, exponent):
    rng = np.random.default_rng(0)
    scales = rng.uniform(0.01, 1, 200).astype(np.float16).astype(np.float32) * np.float32(2.0**exponent)
    if not short:
        scales[3] *= np.float32(1 + 2**-20)
    body = Body()
    pool = Pool(body)
    model, (found,) = written(pool, body, [pool.scale(scales)])
    np.testing.assert_array_equal(found, scales)
    kinds = {numpy_helper.to_array(tensor).dtype for tensor in model.graph.initializer if np.prod(tensor.dims) == 200}
    assert kinds == {np.dtype(kind)}


@given(npst.arrays(np.float32, st.integers(1, 20), elements=st.floats(2.0**-100, 2.0**100, width=32)))
@example(np.array([65519.0, 1.0], np.float32))
def test_any_scales_come_back_to_the_bit(scales):
    body = Body()
    pool = Pool(body)
    _, (found,) = written(pool, body, [pool.scale(scales)])
    np.testing.assert_array_equal(found, scales)
