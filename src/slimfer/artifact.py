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
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from slimfer.calibration import Calibration
from slimfer.errors import InputError
from slimfer.protobuf import Field, encode, fields, message, text, varints
from slimfer.shapes import ITEM_BYTES, MAX_RANK, RULES, Integers, Node, Shape, Tensor, infer

FORMAT = 2  # 1: without packed weights; still read
MAX_BYTES = 1 << 30
MAX_NODES = 20_000
MAX_EXPANDED = 1 << 31  # bytes of everything that the operators make for one picture, constants included

INPUT, OUTPUT = "pixels", "probabilities"
HASH_KEY = "slimfer.sha256_data"
CALIBRATION_KEY = "slimfer.calibration"  # need not be there
REQUIRED = (
    "description", "author", "version", "license", "docs", "task", "imgsz", "names", "channels",
    "slimfer.format", "slimfer.labels", "slimfer.scores", "slimfer.lineage", "slimfer.recipe", "slimfer.intended_use",
)  # fmt: skip

INT64 = 7  # ONNX's number of the type

# Operators are those of `slimfer.shapes.RULES`, in the meaning of this version of ONNX, with these attributes.
DOMAINS = frozenset(("", "ai.onnx"))
OPSET = 17
ATTRIBUTES = frozenset((
    "alpha", "axis", "beta", "ceil_mode", "count_include_pad", "dilations", "group", "kernel_shape", "pads", "strides",
    "to", "transB",
))  # fmt: skip

# Allowed fields by message; every other field (functions, subgraphs, sparse and external tensors...) is refused.
MODEL_FIELDS = frozenset((1, 2, 3, 4, 5, 6, 7, 8, 14))
GRAPH_FIELDS = frozenset((1, 2, 5, 10, 11, 12, 13))
NODE_FIELDS = frozenset((1, 2, 3, 4, 5, 6, 7))
ATTRIBUTE_FIELDS = frozenset((1, 2, 3, 4, 7, 8, 9, 13, 20))
TENSOR_FIELDS = frozenset((1, 2, 8, 9, 12, 14))


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

    @cached_property
    def calibration(self) -> Calibration:
        """Return how probabilities become confidences; as they are, where the file says nothing."""
        return Calibration.from_dict(self._json(CALIBRATION_KEY)) if CALIBRATION_KEY in self.metadata else Calibration()

    def _json(self, key: str) -> Any:
        return json.loads(self.metadata[key])


def calibrated(artifact: Artifact, calibration: Calibration) -> bytes:
    """Return the file with another calibration in its metadata; nothing else changes but the hash."""
    return seal(artifact.data, {**artifact.metadata, CALIBRATION_KEY: json.dumps(calibration.to_dict())})


def seal(model: bytes, metadata: Mapping[str, str]) -> bytes:
    """Return `model` with `metadata` in place of its own, closed by the hash.

    Args:
        model: a serialized ONNX ModelProto.
        metadata: entries to write, in this order.

    Raises:
        InputError: if `model` is not protobuf.
    """
    parts = []
    for number, wire, value in fields(memoryview(model), "model"):
        if number != 14:
            parts.append(encode(number, wire, value))
    parts += [_entry(key, entry.encode()) for key, entry in metadata.items() if key != HASH_KEY]
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
        model = list(fields(memoryview(data), "model"))
        artifact = Artifact(data, _metadata(model), path)
        _check_metadata(artifact)
        _check_model(model, (1, artifact.channels, artifact.image, artifact.image))
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
def _metadata(model: list[Field]) -> dict[str, str]:
    found: dict[str, str] = {}
    for number, _, value in model:
        if number != 14:
            continue
        entry = {n: text(v) for n, _, v in fields(message(value), "metadata")}
        if set(entry) != {1, 2} or entry[1] in found:
            raise InputError(f"metadata entry {entry.get(1)!r} is incomplete or there twice")
        found[entry[1]] = entry[2]
    return found


def _check_metadata(artifact: Artifact) -> None:
    metadata = artifact.metadata
    missing = [key for key in REQUIRED if key not in metadata]
    if missing:
        raise InputError(f"metadata without {', '.join(missing)}")
    number = metadata["slimfer.format"]
    if not number.isdecimal() or len(number) > 9:
        raise InputError(f"slimfer.format is {number[:20]!r}, not a number that a format could have")
    version = int(number)
    if version > FORMAT:
        raise InputError(f"format {version} is newer than this slimfer reads ({FORMAT}); please update")
    try:
        labels, channels, side = artifact.labels, artifact.channels, artifact.image
        usable = len(labels) >= 2 and artifact._json("slimfer.labels") == list(labels)
        usable = usable and all(isinstance(label, str) for label in labels)
        usable = usable and channels in (1, 3) and artifact._json("channels") == channels
        usable = usable and side > 0 and artifact._json("imgsz") == [side, side]
        usable = usable and all(isinstance(entry, dict) for entry in artifact.lineage)
        _ = artifact.scores, artifact.recipe, artifact.calibration
    except (InputError, ValueError, TypeError, IndexError, KeyError, RecursionError):
        usable = False
    if not usable:
        raise InputError(
            "metadata whose labels, channels, imgsz, scores, lineage, recipe or calibration cannot be read"
        )


# --- the graph ------------------------------------------------------------------------------------------------------
def _check_model(model: list[Field], picture: Shape) -> None:
    _only(model, MODEL_FIELDS, "the model")
    graphs = [value for number, _, value in model if number == 7]
    if len(graphs) != 1:
        raise InputError(f"{len(graphs)} graphs instead of one")
    for number, _, value in model:
        if number == 8:
            _check_opset(message(value))
    _check_graph(list(fields(message(graphs[0]), "graph")), picture)


def _check_opset(opset: memoryview) -> None:
    for number, _, value in fields(opset, "opset"):
        if number == 1 and text(value) not in DOMAINS:
            raise InputError(f"operators of the foreign domain {text(value)!r}")
        if number == 2 and value != OPSET:
            raise InputError(f"operators of version {value}, not {OPSET}")


def _check_graph(graph: list[Field], picture: Shape) -> None:
    _only(graph, GRAPH_FIELDS, "the graph")
    if sum(number == 1 for number, _, _ in graph) > MAX_NODES:
        raise InputError(f"more than {MAX_NODES} operators")
    for number, name in ((11, INPUT), (12, OUTPUT)):
        found = [_one_text(fields(message(value), "value"), 1) for n, _, value in graph if n == number]
        if found != [name]:
            raise InputError(f"inputs or outputs {found}, where only {name!r} should be")
    tensors = {INPUT: Tensor(picture, 1)}
    for number, _, value in graph:
        if number == 5:
            name, tensor = _tensor(list(fields(message(value), "tensor")))
            if name in tensors:
                raise InputError(f"two tensors with the name {name!r}")
            tensors[name] = tensor
    nodes = [_node(list(fields(message(value), "operator"))) for number, _, value in graph if number == 1]
    infer(nodes, tensors, MAX_EXPANDED)


def _node(node: list[Field]) -> Node:
    kind = _one_text(node, 4)
    if kind not in RULES:
        raise InputError(f"operator {kind or 'without a type'} is not allowed in a slimfer model")
    _only(node, NODE_FIELDS, f"operator {kind}")
    attributes: dict[str, Integers] = {}
    for number, _, value in node:
        if number == 7 and text(value) not in DOMAINS:
            raise InputError(f"operator {kind} of the foreign domain {text(value)!r}")
        if number == 5:
            attribute = list(fields(message(value), "attribute"))
            _only(attribute, ATTRIBUTE_FIELDS, f"an attribute of {kind}")
            name = _one_text(attribute, 1)
            if name not in ATTRIBUTES or name in attributes:
                raise InputError(f"attribute {name!r} of {kind}, which a slimfer model does not have, or twice")
            attributes[name] = (*_integers(attribute, 3), *_integers(attribute, 8))
    inputs, outputs = ([text(value) for n, _, value in node if n == number] for number in (1, 2))
    return Node(kind, inputs, outputs, attributes)


def _tensor(tensor: list[Field]) -> tuple[str, Tensor]:
    numbers = {number for number, _, _ in tensor}
    if 13 in numbers or any(number == 14 and value != 0 for number, _, value in tensor):
        raise InputError("a tensor with external data; a slimfer model is one file")
    _only(tensor, TENSOR_FIELDS, "a tensor")
    dims = _integers(tensor, 1)
    kinds, contents = _integers(tensor, 2), [message(value) for number, _, value in tensor if number == 9]
    if len(kinds) != 1 or kinds[0] not in ITEM_BYTES or len(contents) != 1:
        raise InputError("a tensor of a type that a slimfer model does not have")
    item, size = ITEM_BYTES[kinds[0]], len(contents[0])
    if len(dims) > MAX_RANK or math.prod(dims) * item != size:
        raise InputError(f"a tensor of shape {list(dims[: MAX_RANK + 1])} with {size} bytes")
    values = struct.unpack(f"<{size // item}q", contents[0]) if kinds[0] == INT64 else None
    return _one_text(tensor, 8), Tensor(dims, item, values)


def _only(found: list[Field], allowed: frozenset[int], what: str) -> None:
    for number, _, _ in found:
        if number not in allowed:
            raise InputError(f"{what} has field {number} of onnx.proto, which a slimfer model does not have")


def _one_text(found: Iterable[Field], number: int) -> str:
    """Return a field that may be there once; empty if it is not."""
    values = [text(value) for n, _, value in found if n == number]
    if len(values) > 1:
        raise InputError(f"field {number} of onnx.proto is there {len(values)} times")
    return values[0] if values else ""


def _integers(found: list[Field], number: int) -> Integers:
    """Return a repeated field of integers, packed or not, with their signs."""
    values: list[int] = []
    for n, wire, value in found:
        if n == number:
            values += [int(value)] if wire == 0 else varints(message(value))
    return tuple(value - (1 << 64) if value >> 63 else value for value in values)


def _entry(key: str, value: bytes) -> bytes:
    return encode(14, 2, encode(1, 2, key.encode()) + encode(2, 2, value))


# The entry of the hash without the hash itself: the same bytes in every file.
_HASH_ENTRY_START = _entry(HASH_KEY, bytes(64))[:-64]
