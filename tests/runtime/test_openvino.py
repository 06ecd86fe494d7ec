import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx
import pytest

import networks
from helpers import CLASSES, patterns, spec_of
from slimfer.artifact import HASH_KEY, seal
from slimfer.compress.config import QuantizeConfig
from slimfer.compress.quantize import quantize
from slimfer.errors import InputError
from slimfer.export.onnx import to_onnx
from slimfer.export.parity import centred
from slimfer.metrics import sqnr_db
from slimfer.runtime import openvino
from slimfer.runtime.openvino import OpenVinoSession
from slimfer.runtime.session import Session

FRAMES = patterns(200, seed=4)
QUANTIZED = {"8 bits": {}, "3 bits": {"bits": 3}, "4 bits, activations 4": {"bits": 4, "activations": 4}}


@pytest.fixture(scope="module")
def data() -> bytes:
    return to_onnx(networks.integers())


def agreement(model: bytes, **options: bool) -> tuple[float, float]:
    """Return dB and the share of equal labels, against onnxruntime."""
    expected, found = Session(model).run_all(FRAMES.images), OpenVinoSession(model, **options).run_all(FRAMES.images)
    return sqnr_db(centred(expected), centred(found)), float((expected.argmax(1) == found.argmax(1)).mean())


@pytest.mark.parametrize("config", QUANTIZED.values(), ids=QUANTIZED)
def test_the_same_file_gives_the_same_answers_in_both_runtimes(config):
    model = to_onnx(quantize(networks.learnt(), patterns(256, seed=2), QuantizeConfig(**config)))
    noise, same = agreement(model, optimize=False)
    assert noise > 35
    assert same >= 0.99
    assert agreement(model)[1] >= 0.98


def test_layers_of_one_channel_are_read():
    thin = networks.untrained(spec_of("plain", head="hidden", image=9, width=1))
    images = networks.noise(32, 9, classes=3)
    model = to_onnx(quantize(thin, images, QuantizeConfig(bits=4)))
    expected, found = Session(model).run(images.images), OpenVinoSession(model).run(images.images)
    assert np.abs(expected - found).max() < 0.02


def test_floats_agree_to_the_last_digits():
    noise, same = agreement(to_onnx(networks.learnt()))
    assert noise > 100
    assert same == 1


def test_fused_additions_leave_a_rounding_out_and_coarse_activations_do_not_allow_it(data):
    """What the session works around; if OpenVINO ever rounds, the workaround can go."""
    assert agreement(data)[0] < agreement(data, optimize=False)[0]
    coarse = to_onnx(quantize(networks.learnt(), patterns(256, seed=2), QuantizeConfig(activations=4)))
    np.testing.assert_array_equal(
        OpenVinoSession(coarse).run_all(FRAMES.images), OpenVinoSession(coarse, optimize=False).run_all(FRAMES.images)
    )


def test_it_has_the_interface_of_a_session(data, tmp_path):
    (tmp_path / "model.onnx").write_bytes(data)
    session = OpenVinoSession(tmp_path / "model.onnx", threads=2)
    assert (session.runtime, session.labels, session.channels, session.image) == ("openvino", CLASSES, 1, 16)
    images = FRAMES.images[:5]
    one_by_one = np.concatenate([session.run(image[None]) for image in images])
    np.testing.assert_allclose(session.run(images), one_by_one, atol=0.02)
    assert session.run(images).dtype == np.float32
    assert session.run_all(images[:0]).shape == (0, 3)
    np.testing.assert_array_equal(session.run(np.asfortranarray(images)), session.run(images))
    images.setflags(write=False)
    np.testing.assert_array_equal(session.run(images), session.run(images.copy()))
    with pytest.raises(InputError, match="faces must be uint8"):
        session.run(images.astype(np.float32))
    with pytest.raises(InputError, match="threads must be at least 1"):
        OpenVinoSession(data, threads=0)


def test_answers_do_not_change_afterwards(data):
    session = OpenVinoSession(data)
    first = session.run(FRAMES.images[:1])
    kept = first.copy()
    session.run(FRAMES.images[1:2])
    np.testing.assert_array_equal(first, kept)


def test_threads_share_a_session(data):
    session = OpenVinoSession(data)
    expected = [session.run(image[None]) for image in FRAMES.images[:40]]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda image: session.run(image[None]), FRAMES.images[:40]))
    np.testing.assert_array_equal(found, expected)


def test_openvino_never_sees_a_damaged_file(data, monkeypatch):
    monkeypatch.setattr(openvino, "load", lambda: pytest.fail("openvino was called"))
    with pytest.raises(InputError, match="damaged"):
        OpenVinoSession(data[:500] + b"?" + data[501:])


def test_what_it_refuses_and_what_does_not_fit_is_one_sentence(data):
    model = onnx.load_from_string(data)
    metadata = {e.key: e.value for e in model.metadata_props if e.key != HASH_KEY}
    with pytest.raises(InputError, match="the metadata does not fit the graph"):
        OpenVinoSession(seal(data, {**metadata, "imgsz": "[48, 48]"}))
    softmax = next(node for node in model.graph.node if node.op_type == "Softmax")
    softmax.attribute[0].i = 7
    with pytest.raises(InputError, match="openvino refuses it") as raised:
        OpenVinoSession(seal(model.SerializeToString(), metadata))
    assert "\n" not in str(raised.value)


def test_without_openvino_the_message_says_what_to_install(data, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(InputError, match=r"pip install 'slimfer\[openvino\]'"):
        OpenVinoSession(data)


def test_nothing_is_reported_to_anybody_and_neither_torch_nor_onnx_is_needed(data, tmp_path):
    (tmp_path / "model.onnx").write_bytes(data)
    code = (
        "import sys, socket\n"
        "def refuse(*_, **__): raise AssertionError('the network was asked')\n"
        "socket.socket.connect = socket.getaddrinfo = refuse\n"
        "for name in ('torch', 'onnx', 'safetensors'): sys.modules[name] = None\n"
        "import numpy as np\n"
        "from slimfer.runtime.openvino import OpenVinoSession\n"
        "session = OpenVinoSession(sys.argv[1])\n"
        "print(session.run(np.zeros((1, 1, 16, 16), np.uint8)).shape)\n"
        "assert not any('openvino_telemetry' in name for name in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "model.onnx")], capture_output=True, text=True)
    assert done.stdout.strip() == "(1, 3)", done.stderr
    assert done.stderr == ""
