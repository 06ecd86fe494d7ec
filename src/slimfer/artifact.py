"""The file that ships: an ONNX model that explains itself and is checked to the last bit before anything runs it.

onnxruntime loads a model with a flipped bit without a word and then answers differently, and reads other files when a
model names them as external data, so both are settled here, before onnxruntime sees a byte: first the size, then the
SHA-256, then a walk over the protobuf that lets through only what our own writer writes.

The layout is plain ONNX. The LAST entry of `metadata_props` is `slimfer.sha256_data`, and its value, the final 64 bytes
of the file, is the SHA-256 (lower-case hex) of everything before them. Field numbers are those of onnx.proto3.
"""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from slimfer.errors import InputError

FORMAT = 1
MAX_BYTES = 1 << 30
MAX_NODES = 20_000

INPUT, OUTPUT = "pixels", "probabilities"
HASH_KEY = "slimfer.sha256_data"
REQUIRED = (
    "description", "author", "version", "license", "docs", "task", "imgsz", "names", "channels",
    "slimfer.format", "slimfer.labels", "slimfer.scores", "slimfer.lineage", "slimfer.recipe", "slimfer.intended_use",
)  # fmt: skip

# What our writer writes. Nothing in this list reads files, loops or holds another graph.
OPERATORS = frozenset((
    "Add", "AveragePool", "Cast", "Clip", "Concat", "Conv", "DequantizeLinear", "Div", "Elu", "Erf", "Flatten", "Gemm",
    "GlobalAveragePool", "GlobalMaxPool", "HardSigmoid", "HardSwish", "LeakyRelu", "MatMul", "Max", "MaxPool", "Min",
    "Mul", "Neg", "PRelu", "Pad", "QuantizeLinear", "Relu", "Reshape", "Round", "Sigmoid", "Softmax", "Split", "Sub",
    "Tanh",
))  # fmt: skip
DOMAINS = frozenset(("", "ai.onnx"))

# Bytes per element of the allowed tensor types: float32, uint8, int8, int32, int64, float16.
ITEM_BYTES: Mapping[int, int] = {1: 4, 2: 1, 3: 1, 6: 4, 7: 8, 10: 2}

# Allowed fields by message; every other field (functions, subgraphs, sparse and external tensors...) is refused.
MODEL_FIELDS = frozenset((1, 2, 3, 4, 5, 6, 7, 8, 14))
GRAPH_FIELDS = frozenset((1, 2, 5, 10, 11, 12, 13))
NODE_FIELDS = frozenset((1, 2, 3, 4, 5, 6, 7))
ATTRIBUTE_FIELDS = frozenset((1, 2, 3, 4, 7, 8, 9, 13, 20))
TENSOR_FIELDS = frozenset((1, 2, 8, 9, 12, 14))

Field = tuple[int, int, int | memoryview]


@dataclass(frozen=True)
class Artifact:
    """A model file that passed every check.

    Attributes:
        data: the whole file; a plain ONNX model.
        metadata: its `metadata_props`.
        path: where it was read from, None for bytes.
    """

    data: bytes
    metadata: Mapping[str, str]
    path: Path | None = None

    @property
    def name(self) -> str:
        """Return the file's name without its suffix, or for bytes the first 12 digits of the hash."""
        return self.path.stem if self.path else self.sha256[:12]

    @property
    def sha256(self) -> str:
        """Return the SHA-256 of the content (all bytes but the final 64, which spell it)."""
        return self.metadata[HASH_KEY]

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """Return the class names in the order of the outputs."""
        return tuple(self._json("slimfer.labels"))

    @cached_property
    def channels(self) -> int:
        """Return 1 (gray) or 3 (RGB)."""
        return int(self._json("channels"))

    @cached_property
    def image(self) -> int:
        """Return height and width of the input in pixels."""
        return int(self._json("imgsz")[0])

    @cached_property
    def scores(self) -> Any:
        """Return the scores recorded at export (see `slimfer.metrics.score`), or None."""
        return self._json("slimfer.scores")

    @cached_property
    def lineage(self) -> tuple[Mapping[str, Any], ...]:
        """Return one entry per step since the first training."""
        return tuple(self._json("slimfer.lineage"))

    @cached_property
    def recipe(self) -> Any:
        """Return the settings recorded at export, or None."""
        return self._json("slimfer.recipe")

    def _json(self, key: str) -> Any:
        return json.loads(self.metadata[key])


def seal(model: bytes, metadata: Mapping[str, str]) -> bytes:
    """Return `model` with `metadata` in place of its own, closed by the hash.

    Args:
        model: a serialized ONNX ModelProto.
        metadata: entries to write, in this order.

    Raises:
        InputError: if `model` is not protobuf.
    """
    parts = []
    for number, wire, value in _fields(memoryview(model), "model"):
        if number != 14:
            parts.append(_encode(number, wire, value))
    for key, text in metadata.items():
        if key != HASH_KEY:
            parts.append(_entry(key, text.encode()))
    body = b"".join(parts) + _HASH_ENTRY_START
    return body + hashlib.sha256(body).hexdigest().encode()


def open_artifact(source: str | Path | bytes) -> Artifact:
    """Read and check a model file; only then may onnxruntime see it.

    Args:
        source: path of the file, or its bytes.

    Raises:
        InputError: if the file is missing or too large, its content does not match its hash, a metadata field is
            missing or damaged, the format is newer than this version reads, or the graph holds anything that our
            writer would not write (external data, foreign operators, nested graphs, tensors of a wrong size).
    """
    path = None if isinstance(source, bytes) else Path(source)
    where = str(path or "model")
    try:
        data = source if isinstance(source, bytes) else _read(Path(source))
        _check_size(len(data))
        _check_hash(data)
        fields = list(_fields(memoryview(data), "model"))
        artifact = Artifact(data, _metadata(fields), path)
        _check_metadata(artifact)
        _check_model(fields)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    return artifact


# --- file and hash --------------------------------------------------------------------------------------------------
def _read(path: Path) -> bytes:
    if not path.is_file():
        raise InputError("no such file")
    try:
        _check_size(path.stat().st_size)
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})") from None


def _check_size(size: int) -> None:
    if size > MAX_BYTES:
        raise InputError(f"{size} bytes are more than a model may have ({MAX_BYTES})")


def _check_hash(data: bytes) -> None:
    body, digest = data[:-64], data[-64:]
    if hashlib.sha256(body).hexdigest().encode() == digest and body.endswith(_HASH_ENTRY_START):
        return
    if HASH_KEY.encode() in data:
        raise InputError("the content does not match its SHA-256; the file is damaged or was changed")
    raise InputError("not a slimfer model (it has no SHA-256 at its end)")


# --- metadata -------------------------------------------------------------------------------------------------------
def _metadata(fields: list[Field]) -> dict[str, str]:
    found: dict[str, str] = {}
    for number, _, value in fields:
        if number != 14:
            continue
        entry = {n: _text(v) for n, _, v in _fields(_message(value), "metadata")}
        if set(entry) != {1, 2} or entry[1] in found:
            raise InputError(f"metadata entry {entry.get(1)!r} is incomplete or there twice")
        found[entry[1]] = entry[2]
    return found


def _check_metadata(artifact: Artifact) -> None:
    metadata = artifact.metadata
    missing = [key for key in REQUIRED if key not in metadata]
    if missing:
        raise InputError(f"metadata without {', '.join(missing)}")
    if not metadata["slimfer.format"].isdecimal():
        raise InputError(f"slimfer.format is {metadata['slimfer.format']!r}, not a number")
    version = int(metadata["slimfer.format"])
    if version > FORMAT:
        raise InputError(f"format {version} is newer than this slimfer reads ({FORMAT}); please update")
    try:
        labels, channels, side = artifact.labels, artifact.channels, artifact.image
        usable = len(labels) >= 2 and artifact._json("slimfer.labels") == list(labels)
        usable = usable and all(isinstance(label, str) for label in labels)
        usable = usable and channels in (1, 3) and artifact._json("channels") == channels
        usable = usable and side > 0 and artifact._json("imgsz") == [side, side]
        usable = usable and all(isinstance(entry, dict) for entry in artifact.lineage)
        _ = artifact.scores, artifact.recipe
    except (ValueError, TypeError, IndexError, KeyError, RecursionError):
        usable = False
    if not usable:
        raise InputError("metadata whose labels, channels, imgsz, scores, lineage or recipe cannot be read")


# --- the graph ------------------------------------------------------------------------------------------------------
def _check_model(fields: list[Field]) -> None:
    _only(fields, MODEL_FIELDS, "the model")
    graphs = [value for number, _, value in fields if number == 7]
    if len(graphs) != 1:
        raise InputError(f"{len(graphs)} graphs instead of one")
    for number, _, value in fields:
        if number == 8:
            _check_opset(_message(value))
    _check_graph(_message(graphs[0]))


def _check_opset(opset: memoryview) -> None:
    for number, _, value in _fields(opset, "opset"):
        if number == 1 and _text(value) not in DOMAINS:
            raise InputError(f"operators of the foreign domain {_text(value)!r}")


def _check_graph(graph: memoryview) -> None:
    fields = list(_fields(graph, "graph"))
    _only(fields, GRAPH_FIELDS, "the graph")
    if sum(number == 1 for number, _, _ in fields) > MAX_NODES:
        raise InputError(f"more than {MAX_NODES} operators")
    for number, _, value in fields:
        if number == 1:
            _check_node(_message(value))
        elif number == 5:
            _check_tensor(_message(value))
    for number, name in ((11, INPUT), (12, OUTPUT)):
        found = [_name(_message(value)) for n, _, value in fields if n == number]
        if found != [name]:
            raise InputError(f"inputs or outputs {found}, where only {name!r} should be")


def _check_node(node: memoryview) -> None:
    fields = list(_fields(node, "operator"))
    kinds = [_text(value) for number, _, value in fields if number == 4]
    if len(kinds) != 1 or kinds[0] not in OPERATORS:
        raise InputError(f"operator {'/'.join(kinds) or 'without a type'} is not allowed in a slimfer model")
    _only(fields, NODE_FIELDS, f"operator {kinds[0]}")
    for number, _, value in fields:
        if number == 7 and _text(value) not in DOMAINS:
            raise InputError(f"operator {kinds[0]} of the foreign domain {_text(value)!r}")
        if number == 5:
            _only(list(_fields(_message(value), "attribute")), ATTRIBUTE_FIELDS, f"an attribute of {kinds[0]}")


def _check_tensor(tensor: memoryview) -> None:
    fields = list(_fields(tensor, "tensor"))
    numbers = {number for number, _, _ in fields}
    if 13 in numbers or any(number == 14 and value != 0 for number, _, value in fields):
        raise InputError("a tensor with external data; a slimfer model is one file")
    _only(fields, TENSOR_FIELDS, "a tensor")
    dims: list[int] = []
    for number, wire, value in fields:
        if number == 1:
            dims += [int(value)] if wire == 0 else list(_varints(_message(value)))
    kinds = [value for number, _, value in fields if number == 2]
    sizes = [len(_message(value)) for number, _, value in fields if number == 9]
    if len(kinds) != 1 or kinds[0] not in ITEM_BYTES or len(sizes) != 1:
        raise InputError("a tensor of a type that a slimfer model does not have")
    if math.prod(dims) * ITEM_BYTES[kinds[0]] != sizes[0]:  # type: ignore[index]
        raise InputError(f"a tensor of shape {dims} with {sizes[0]} bytes")


def _only(fields: list[Field], allowed: frozenset[int], what: str) -> None:
    for number, _, _ in fields:
        if number not in allowed:
            raise InputError(f"{what} has field {number} of onnx.proto, which a slimfer model does not have")


def _name(value_info: memoryview) -> str:
    return "".join(_text(value) for number, _, value in _fields(value_info, "value") if number == 1)


# --- protobuf -------------------------------------------------------------------------------------------------------
def _fields(data: memoryview, what: str) -> Iterator[Field]:
    """Yield (field number, wire type, value) of one message: an int, or a view of the bytes."""
    position = 0
    while position < len(data):
        tag, position = _varint(data, position)
        number, wire = tag >> 3, tag & 7
        if wire == 0:
            value, position = _varint(data, position)
            yield number, wire, value
            continue
        if wire == 2:
            size, position = _varint(data, position)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise InputError(f"not ONNX: the {what} has a field of unknown wire type {wire}")
        if number == 0 or size > len(data) - position:
            raise InputError(f"not ONNX: the {what} ends inside a field")
        yield number, wire, data[position : position + size]
        position += size


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    value = 0
    for index in range(10):
        if position + index >= len(data):
            break
        byte = data[position + index]
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return value, position + index + 1
    raise InputError("not ONNX: a number without an end")


def _varints(data: memoryview) -> Iterator[int]:
    position = 0
    while position < len(data):
        value, position = _varint(data, position)
        yield value


def _message(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise InputError("not ONNX: a number where a message should be")
    return value


def _text(value: int | memoryview) -> str:
    try:
        return bytes(_message(value)).decode()
    except UnicodeDecodeError:
        raise InputError("not ONNX: text that is not UTF-8") from None


def _encode_varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _encode(number: int, wire: int, value: int | memoryview | bytes) -> bytes:
    tag = _encode_varint(number << 3 | wire)
    if isinstance(value, int):
        return tag + _encode_varint(value)
    return tag + (_encode_varint(len(value)) if wire == 2 else b"") + bytes(value)


def _entry(key: str, value: bytes) -> bytes:
    return _encode(14, 2, _encode(1, 2, key.encode()) + _encode(2, 2, value))


# The entry of the hash without the hash itself: the same bytes in every file.
_HASH_ENTRY_START = _entry(HASH_KEY, bytes(64))[:-64]
