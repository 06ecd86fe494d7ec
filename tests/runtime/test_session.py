import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pytest

import networks
from helpers import CLASSES, patterns
from slimfer.artifact import HASH_KEY, open_artifact, seal
from slimfer.errors import InputError
from slimfer.export.onnx import to_onnx
from slimfer.runtime.session import Session


@pytest.fixture(scope="module")
def data() -> bytes:
    return to_onnx(networks.integers())


def changed(data: bytes, **metadata: str) -> bytes:
    model = onnx.load_from_string(data)
    old = {e.key: e.value for e in model.metadata_props if e.key != HASH_KEY}
    return seal(model.SerializeToString(), {**old, **metadata})


def test_it_says_what_it_takes_and_gives(data, tmp_path):
    (tmp_path / "model.onnx").write_bytes(data)
    for source in (data, tmp_path / "model.onnx", str(tmp_path / "model.onnx"), open_artifact(data)):
        session = Session(source)
        assert (session.labels, session.channels, session.image) == (CLASSES, 1, 16)
        assert session.run(patterns(2).images).shape == (2, 3)


def test_batches_threads_and_optimization_do_not_change_labels(data):
    frames = patterns(100, seed=4)
    plain = Session(data).run(frames.images)
    assert (plain.argmax(1) == frames.labels).mean() > 0.95
    np.testing.assert_array_equal(Session(data).run_all(frames.images, batch=7), plain)
    for other in (Session(data, threads=2), Session(data, optimize=False)):
        assert (other.run(frames.images).argmax(1) == plain.argmax(1)).mean() > 0.99
    assert Session(data).run_all(frames.images[:0]).shape == (0, 3)


def test_pictures_in_any_memory_layout_are_the_same(data):
    images = patterns(8).images
    session = Session(data)
    expected = session.run(images)
    np.testing.assert_array_equal(session.run(np.asfortranarray(images)), expected)
    np.testing.assert_array_equal(session.run(np.repeat(images, 2, 0)[::2]), expected)


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((1, 1, 16, 16), np.float32),
        np.zeros((1, 3, 16, 16), np.uint8),
        np.zeros((1, 1, 15, 16), np.uint8),
        np.zeros((16, 16), np.uint8),
    ],
    ids=["float", "colour", "size", "no batch"],
)
def test_other_arrays_are_refused(data, images):
    with pytest.raises(InputError, match=r"faces must be uint8 \('N', 1, 16, 16\), not"):
        Session(data).run(images)


def test_onnxruntime_never_sees_a_damaged_file(data, monkeypatch):
    monkeypatch.setattr(onnxruntime, "InferenceSession", lambda *_, **__: pytest.fail("onnxruntime was called"))
    with pytest.raises(InputError, match="damaged"):
        Session(data[:500] + b"?" + data[501:])


def test_what_onnxruntime_refuses_is_one_sentence_and_nothing_on_the_terminal(data, tmp_path, capfd):
    model = onnx.load_from_string(data)
    metadata = {e.key: e.value for e in model.metadata_props if e.key != HASH_KEY}
    node = next(node for node in model.graph.node if node.op_type == "QuantizeLinear")
    node.input[1] = node.input[2]  # a scale that is no float
    path = tmp_path / "odd.onnx"
    path.write_bytes(seal(model.SerializeToString(), metadata))
    with pytest.raises(InputError, match=r"odd\.onnx: onnxruntime refuses it") as raised:
        Session(path)
    assert "\n" not in str(raised.value)
    assert capfd.readouterr() == ("", "")


def test_metadata_that_contradict_the_graph_are_refused(data):
    for metadata in ({"imgsz": "[48, 48]"}, {"channels": "3"}, {"slimfer.labels": '["one", "two"]'}):
        with pytest.raises(InputError, match="the metadata does not fit the graph"):
            Session(changed(data, **metadata))


@pytest.mark.parametrize("threads", [0, -1])
def test_threads_must_be_positive(data, threads):
    with pytest.raises(InputError, match="threads must be at least 1"):
        Session(data, threads=threads)


def test_the_runtime_needs_neither_torch_nor_onnx(data, tmp_path):
    (tmp_path / "model.onnx").write_bytes(data)
    code = (
        "import sys\n"
        "for name in ('torch', 'onnx', 'safetensors'): sys.modules[name] = None\n"
        "import numpy as np\n"
        "from slimfer.runtime.predict import Recognizer\n"
        "print(Recognizer(sys.argv[1], detect=False).predict(np.zeros((20, 20), np.uint8)).faces[0].label)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "model.onnx")], capture_output=True, text=True)
    assert done.stdout.strip() in CLASSES, done.stderr
