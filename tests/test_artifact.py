import json
import random

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

import networks
from helpers import CLASSES
from slimfer import artifact as module
from slimfer.artifact import FORMAT, HASH_KEY, REQUIRED, open_artifact, seal
from slimfer.errors import InputError
from slimfer.export.onnx import to_onnx
from slimfer.model.spec import NetSpec


@pytest.fixture(scope="module")
def nano() -> bytes:
    """A whole artifact of about 3 KB: a real net with two channels."""
    return to_onnx(networks.untrained(NetSpec("networks:case", classes=2, image=16, args={"name": "norm"})))


@pytest.fixture(scope="module")
def small() -> bytes:
    return to_onnx(networks.integers())


def parts(data: bytes) -> tuple[onnx.ModelProto, dict[str, str]]:
    model = onnx.load_from_string(data)
    metadata = {entry.key: entry.value for entry in model.metadata_props if entry.key != HASH_KEY}
    del model.metadata_props[:]
    return model, metadata


def test_what_was_sealed_opens(small, tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(small)
    opened = open_artifact(path)
    assert opened == open_artifact(str(path))
    assert opened.data == open_artifact(small).data == small
    assert opened.labels == CLASSES
    assert opened.name == "model"
    assert open_artifact(small).name == opened.sha256[:12]
    assert opened.sha256.encode() == small[-64:]
    onnx.checker.check_model(small, full_check=True)


def test_sealing_again_replaces_metadata_and_keeps_the_graph(small):
    model, metadata = parts(small)
    assert seal(small, metadata) == small
    other = open_artifact(seal(small, {**metadata, "author": "someone"}))
    assert other.metadata["author"] == "someone"
    assert parts(other.data)[0] == model


def test_every_single_bit_flip_is_refused_before_the_content_is_looked_at(nano, monkeypatch):
    def touched(*_: object) -> None:
        raise AssertionError("the content was read before its hash was checked")

    monkeypatch.setattr(module, "fields", touched)
    changed = bytearray(nano)
    for position in range(len(nano)):
        for bit in range(8):
            changed[position] ^= 1 << bit
            with pytest.raises(InputError):
                open_artifact(bytes(changed))
            changed[position] ^= 1 << bit
    assert bytes(changed) == nano


def test_every_truncation_and_every_addition_is_refused(nano):
    for length in range(len(nano)):
        with pytest.raises(InputError):
            open_artifact(nano[:length])
    for added in (b"\0", b"\n", nano[-1:], nano, b"x" * 64):
        with pytest.raises(InputError):
            open_artifact(nano + added)
        with pytest.raises(InputError):
            open_artifact(added + nano)


def test_random_edits_are_refused(nano):
    generator = random.Random(0)
    for _ in range(2000):
        changed = bytearray(nano)
        for _ in range(generator.randint(1, 15)):
            changed[generator.randrange(len(nano))] = generator.randrange(256)
        if changed != nano:
            with pytest.raises(InputError):
                open_artifact(bytes(changed))


def test_the_message_says_damaged_or_foreign(nano):
    with pytest.raises(InputError, match="SHA-256; the file is damaged"):
        open_artifact(nano[:1000] + b"!" + nano[1001:])
    with pytest.raises(InputError, match="not a slimfer model"):
        open_artifact(parts(nano)[0].SerializeToString())


@pytest.mark.parametrize("content", [None, b"", b"\0" * 200])
def test_files_that_are_no_artifacts_are_named(tmp_path, content):
    path = tmp_path / "other.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=r"other\.onnx: (no such file|not a slimfer model)"):
        open_artifact(path)


def test_a_file_that_is_too_large_is_not_read(tmp_path, monkeypatch):
    path = tmp_path / "large.onnx"
    path.write_bytes(b"x" * 2000)
    monkeypatch.setattr(module, "MAX_BYTES", 1000)
    monkeypatch.setattr(module.Path, "read_bytes", lambda self: pytest.fail("was read"))
    with pytest.raises(InputError, match="2000 bytes are more than"):
        open_artifact(path)


@pytest.mark.parametrize("key", REQUIRED)
def test_a_missing_metadata_field_is_named(small, key):
    model, metadata = parts(small)
    del metadata[key]
    with pytest.raises(InputError, match=f"metadata without {key}"):
        open_artifact(seal(model.SerializeToString(), metadata))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("slimfer.format", str(FORMAT + 1), "newer than this slimfer reads"),
        ("slimfer.format", "one", "not a number"),
        ("slimfer.labels", "{", "cannot be read"),
        ("slimfer.labels", '"abc"', "cannot be read"),
        ("slimfer.labels", '["only"]', "cannot be read"),
        ("slimfer.labels", "[1, 2]", "cannot be read"),
        ("slimfer.lineage", "[1]", "cannot be read"),
        ("slimfer.scores", "nothing", "cannot be read"),
        ("slimfer.recipe", "[" * 100_000, "cannot be read"),
        ("channels", "2", "cannot be read"),
        ("channels", "1.5", "cannot be read"),
        ("imgsz", "48", "cannot be read"),
        ("imgsz", "[48, 32]", "cannot be read"),
    ],
)
def test_metadata_that_cannot_be_used_is_refused(small, key, value, message):
    model, metadata = parts(small)
    with pytest.raises(InputError, match=message):
        open_artifact(seal(model.SerializeToString(), {**metadata, key: value}))


def hostile(kind: str, model: onnx.ModelProto) -> None:
    """Change `model` in a way that a valid hash does not make better."""
    graph, tensor = model.graph, model.graph.initializer[0]
    if kind == "external data":
        onnx.external_data_helper.set_external_data(tensor, "weights.bin")
        tensor.ClearField("raw_data")
    elif kind == "external location":
        tensor.data_location = TensorProto.EXTERNAL
    elif kind == "external entry":
        tensor.external_data.add(key="location", value="/dev/zero")
    elif kind == "foreign operator":
        graph.node[0].domain = "com.microsoft"
    elif kind == "foreign opset":
        model.opset_import.add(domain="evil", version=1)
    elif kind in ("If", "Loop", "Scan", "Resize", "ConstantOfShape", "DequantizeLinear2"):
        graph.node[0].op_type = kind
    elif kind == "no operator type":
        graph.node[0].ClearField("op_type")
    elif kind == "nested graph":
        graph.node[0].attribute.append(helper.make_attribute("body", helper.make_graph([], "inner", [], [])))
    elif kind == "tensor attribute":
        graph.node[0].attribute.append(helper.make_attribute("value", tensor))
    elif kind == "function":
        model.functions.add(name="f", domain="")
    elif kind == "training":
        model.training_info.add()
    elif kind == "sparse tensor":
        graph.sparse_initializer.add()
    elif kind == "huge dimensions":
        tensor.dims[:] = [10**9, 10**9]
    elif kind == "product of dimensions overflows to the right size":
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).reshape(-1), tensor.name))
        tensor.dims[:] = [tensor.dims[0], 2**33, 2**31]
    elif kind == "float data":
        tensor.ClearField("raw_data")
        tensor.float_data.append(1.0)
    elif kind == "strings":
        tensor.data_type = TensorProto.STRING
    elif kind == "another input":
        graph.input.append(helper.make_tensor_value_info("more", TensorProto.FLOAT, [1]))
    elif kind == "another output":
        graph.output[0].name = "logits"
    elif kind == "too many operators":
        graph.node.extend([helper.make_node("Relu", ["a"], ["b"])] * module.MAX_NODES)
    else:
        raise AssertionError(kind)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("external data", "external data"),
        ("external location", "external data"),
        ("external entry", "external data"),
        ("foreign operator", "foreign domain 'com.microsoft'"),
        ("foreign opset", "foreign domain 'evil'"),
        *((op, f"operator {op} is not allowed") for op in ("If", "Loop", "Scan", "Resize", "ConstantOfShape")),
        ("DequantizeLinear2", "not allowed"),
        ("no operator type", "without a type"),
        ("nested graph", "field 6"),
        ("tensor attribute", "field 5"),
        ("function", "field 25"),
        ("training", "field 20"),
        ("sparse tensor", "field 15"),
        ("huge dimensions", "a tensor of shape"),
        ("product of dimensions overflows to the right size", "a tensor of shape"),
        ("float data", "field 4"),
        ("strings", "type"),
        ("another input", "inputs or outputs"),
        ("another output", "inputs or outputs"),
        ("too many operators", "more than"),
    ],
)
def test_a_valid_hash_does_not_excuse_a_hostile_graph(small, kind, message):
    model, metadata = parts(small)
    hostile(kind, model)
    with pytest.raises(InputError, match=message):
        open_artifact(seal(model.SerializeToString(), metadata))


def test_two_graphs_and_doubled_metadata_are_refused(small):
    model, metadata = parts(small)
    data = model.SerializeToString()
    with pytest.raises(InputError, match="2 graphs"):
        open_artifact(seal(data + onnx.ModelProto(graph=model.graph).SerializeToString(), metadata))
    entry = onnx.ModelProto(metadata_props=[onnx.StringStringEntryProto(key="author", value="x")]).SerializeToString()
    body = small[: -len(module._HASH_ENTRY_START) - 64] + entry + module._HASH_ENTRY_START
    with pytest.raises(InputError, match="twice"):
        open_artifact(body + module.hashlib.sha256(body).hexdigest().encode())


@given(st.binary(max_size=300))
def test_sealed_rubbish_is_refused_in_one_sentence(rubbish):
    body = rubbish + module._HASH_ENTRY_START
    with pytest.raises(InputError):
        open_artifact(body + module.hashlib.sha256(body).hexdigest().encode())


@given(st.dictionaries(st.text(max_size=20), st.text(max_size=50), max_size=5))
def test_any_text_survives_in_metadata(small, extra):
    model, metadata = parts(small)
    metadata = {**{k: v for k, v in extra.items() if k != HASH_KEY}, **metadata}
    opened = open_artifact(seal(model.SerializeToString(), metadata)).metadata
    assert {k: v for k, v in opened.items() if k != HASH_KEY} == metadata
    read = {e.key: e.value for e in onnx.load_from_string(seal(model.SerializeToString(), metadata)).metadata_props}
    assert read == opened


def test_the_json_fields_are_json(small):
    metadata = open_artifact(small).metadata
    for key in metadata:
        if key.startswith("slimfer.") and key != HASH_KEY:
            json.loads(metadata[key])
