"""YuNet through onnxruntime alone: the detector of OpenCV Zoo without OpenCV.

The answers are those of OpenCV's FaceDetectorYN (tested against it). The published file takes 640x640 pixels and
nothing else, though every layer in it would take any multiple of 32; so the sizes written in it are freed in memory.

Source: Wu, Peng, Yu: YuNet: A Tiny Millisecond-level Face Detector, Machine Intelligence Research 2023;
modules/objdetect/src/face_detect.cpp of OpenCV.
"""

import hashlib
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
from PIL import Image

from slimfer.errors import InputError
from slimfer.images import FILTER
from slimfer.protobuf import encode, fields, message, text
from slimfer.runtime.faces import Found
from slimfer.runtime.session import SILENT

SHA256 = "8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4"
SIZE = 320
MOST = 960  # pixels of the longer side, the most that are tried: 75 MB of memory; 1280 would take 130
SURE = 48  # pixels of a face in the network's input, from which it is found for sure, and others of its size, too
MIN_SCORE = 0.6
STRIDES = (8, 16, 32)
MULTIPLE = 32  # of the sides of the input: the last map is 32 times smaller
MAX_OVERLAP = 0.3  # intersection over union, above which the weaker of two boxes is the same face
MAX_CANDIDATES = 5000

# Field numbers of onnx.proto: ModelProto.graph; GraphProto.input, output and value_info; ValueInfoProto; TypeProto.
GRAPH, GRAPH_INPUT, GRAPH_OUTPUT, GRAPH_VALUES = 7, 11, 12, 13
BYTES = 2  # wire type

Floats = npt.NDArray[np.float32]


class YuNet:
    """Finds faces with YuNet; safe to use from several threads at once.

    A picture is looked at in `size` pixels first. Where there is no face, or one so small that smaller ones may be
    missed, it is looked at in twice as many, and so on up to `most` or to the picture's own size.

    Attributes:
        size: pixels of the longer side that the network sees first.
        most: pixels of the longer side that it sees at last; `size` for one look only.
        min_score: of the faces that are returned.
    """

    name = "yunet"

    def __init__(
        self,
        model: str | Path | bytes,
        *,
        size: int = SIZE,
        most: int = MOST,
        min_score: float = MIN_SCORE,
        threads: int = 1,
    ) -> None:
        """Open `face_detection_yunet_2023mar.onnx`.

        Args:
            model: path or bytes of the file.
            size: pixels of the longer side that the network sees first, at least 32; pictures are brought to it.
            most: pixels of the longer side that it sees at last.
            min_score: of the faces that are returned, in (0, 1].
            threads: CPU threads.

        Raises:
            InputError: if the file is not there or is any other, or a number is out of range.
        """
        if size < MULTIPLE:
            raise InputError(f"the size of the detector must be at least {MULTIPLE}, not {size}")
        if not 0 < min_score <= 1:
            raise InputError(f"the detector's score must be above 0 and at most 1, not {min_score}")
        if threads < 1:
            raise InputError(f"threads must be at least 1, not {threads}")
        self.size = size
        self.most = most
        self.min_score = min_score
        self._session = _open(_any_size(read(model)), threads)
        self._outputs = [output.name for output in self._session.get_outputs()]
        self._buffers = threading.local()

    def find(self, picture: Image.Image) -> tuple[Found, ...]:
        """Return the faces of an upright picture, the largest first."""
        longer = max(picture.size)
        if not min(picture.size):
            return ()
        size, rows = self.size, np.empty((0, 15), np.float32)
        while True:
            rows = np.concatenate([rows, self._look(picture, size)])
            smallest = rows[:, 2:4].max(1).min(initial=longer) * size / longer
            last = min(self.most, longer)
            if size >= last or (len(rows) and smallest >= SURE):
                break
            size = min(2 * size, last)
        if size > self.size:
            rows = rows[suppress(rows)]  # the same faces were found several times
        return tuple(sorted(map(_found, rows), key=lambda face: face.w * face.h, reverse=True))

    def _look(self, picture: Image.Image, size: int) -> Floats:
        """Return the faces as rows of `decode`, in pixels of the picture, seen at `size` pixels of the longer side."""
        width, height = picture.size
        scale = size / max(width, height)
        small = max(1, round(width * scale)), max(1, round(height * scale))
        blob = self._blob(_resized(picture, small))
        outputs = dict(zip(self._outputs, self._session.run(self._outputs, {"input": blob}), strict=True))
        rows = decode(outputs, blob.shape[3], self.min_score)
        rows = rows[suppress(rows)]
        rows[:, 0:14:2] *= width / small[0]
        rows[:, 1:14:2] *= height / small[1]
        return rows

    def _blob(self, picture: Image.Image) -> Floats:
        """Return (1, 3, H, W): blue, green, red in 0-255, black up to multiples of 32 at the right and the bottom.

        It is overwritten by the thread's next call: fresh memory would cost more than filling it.
        """
        width, height = picture.size
        shape = (1, 3, -(-height // MULTIPLE) * MULTIPLE, -(-width // MULTIPLE) * MULTIPLE)
        blob: Floats | None = getattr(self._buffers, "blob", None)
        if blob is None or blob.shape != shape:
            blob = self._buffers.blob = np.empty(shape, np.float32)
        blob[0, :, height:] = 0
        blob[0, :, :height, width:] = 0
        bands = [picture] * 3 if picture.mode == "L" else picture.split()[::-1]
        for channel, band in zip(blob[0], bands, strict=True):
            channel[:height, :width] = np.asarray(band)
        return blob


def decode(outputs: Mapping[str, Floats], width: int, min_score: float) -> Floats:
    """Turn the maps of the network into faces.

    Every place of a map of stride s, at column c and row r, speaks of the face near (c s, r s). Its score is
    sqrt(class * object), its box has the middle ((c + dx) s, (r + dy) s) and the sides (exp(w) s, exp(h) s), and its
    landmarks are at ((c + x) s, (r + y) s).

    Args:
        outputs: `cls`, `obj` (1, N, 1), `bbox` (1, N, 4) and `kps` (1, N, 10) of each stride, N places by rows.
        width: of the network's input in pixels.
        min_score: of the faces that are returned.

    Returns:
        (F, 15): left, top, width, height, x and y of five landmarks, score.
    """
    rows = []
    for stride in STRIDES:
        certainty = [outputs[f"{name}_{stride}"][0, :, 0].clip(0, 1) for name in ("cls", "obj")]
        scores = np.sqrt(certainty[0] * certainty[1])
        places = np.flatnonzero(scores >= min_score)
        where = np.stack([places % (width // stride), places // (width // stride)], 1).astype(np.float32)
        box, points = outputs[f"bbox_{stride}"][0, places], outputs[f"kps_{stride}"][0, places]
        middles, sides = (where + box[:, :2]) * stride, np.exp(box[:, 2:]) * stride
        landmarks = (points + np.tile(where, 5)) * stride
        rows.append(np.concatenate([middles - sides / 2, sides, landmarks, scores[places, None]], 1))
    return np.concatenate(rows)


def suppress(rows: Floats) -> list[int]:
    """Return which faces stay when the weaker of two that overlap goes, best score first.

    Boxes are cut to whole pixels of the network's input, as OpenCV does.
    """
    order = np.argsort(-rows[:, 14], kind="stable")[:MAX_CANDIDATES]
    left, top, width, height = rows[order, :4].T.astype(np.int64)
    areas = width * height
    alive = np.ones(len(order), bool)
    kept = []
    for index, row in enumerate(order):
        if not alive[index]:
            continue
        kept.append(int(row))
        across = np.minimum(left + width, left[index] + width[index]) - np.maximum(left, left[index])
        down = np.minimum(top + height, top[index] + height[index]) - np.maximum(top, top[index])
        shared = across.clip(0) * down.clip(0)
        alive &= shared <= MAX_OVERLAP * (areas + areas[index] - shared)
    return kept


def _found(row: Floats) -> Found:
    x, y, w, h, *points, score = row.tolist()
    return Found(x, y, w, h, score, tuple(zip(points[::2], points[1::2], strict=True)))


def _resized(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Return the picture as L or RGB in another size; whole factors are averaged first, which is six times as fast."""
    if picture.mode not in ("L", "RGB"):
        picture = picture.convert("RGB")
    return picture if picture.size == size else picture.resize(size, FILTER, reducing_gap=1.0)


def read(model: str | Path | bytes) -> bytes:
    """Return the bytes of the one file that is known to work.

    Raises:
        InputError: if it is not there or is any other.
    """
    what = "the face detector" if isinstance(model, bytes) else str(model)
    if not isinstance(model, bytes) and not Path(model).is_file():  # a pipe or a device might never end
        raise InputError(f"{what}: the face detector is not there (no such file)")
    try:
        data = model if isinstance(model, bytes) else Path(model).read_bytes()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"{what}: the face detector cannot be read ({reason})") from None
    digest = hashlib.sha256(data).hexdigest()
    if digest != SHA256:
        raise InputError(
            f"{what}: this is not face_detection_yunet_2023mar.onnx, or it is damaged "
            f"(its SHA-256 is {digest[:12]}..., and {SHA256[:12]}... is expected)"
        )
    return data


def _any_size(data: bytes) -> bytes:
    """Return the model with an input of free height and width; all other shapes follow from it."""

    def parts() -> Iterator[bytes]:
        for number, wire, value in fields(memoryview(data), "model"):
            yield encode(number, wire, _free(message(value)) if number == GRAPH else value)

    return b"".join(parts())


def _free(graph: memoryview) -> bytes:
    out = bytearray()
    for number, wire, value in fields(graph, "graph"):
        if number == GRAPH_INPUT:
            out += encode(number, wire, _tensor(_name(value), 1, 3, "height", "width"))
        elif number == GRAPH_OUTPUT:
            out += encode(number, wire, _tensor(_name(value)))
        elif number != GRAPH_VALUES:
            out += encode(number, wire, value)
    return bytes(out)


def _name(value: int | memoryview) -> str:
    return next(text(part) for number, _, part in fields(message(value), "value") if number == 1)


def _tensor(name: str, *shape: int | str) -> bytes:
    """Return a ValueInfoProto of floats; without a shape, of any."""
    sizes = (encode(1, 0, size) if isinstance(size, int) else encode(2, BYTES, size.encode()) for size in shape)
    dims = b"".join(encode(1, BYTES, size) for size in sizes)
    kind = encode(1, 0, 1) + (encode(2, BYTES, dims) if shape else b"")
    return encode(1, BYTES, name.encode()) + encode(2, BYTES, encode(1, BYTES, kind))


def _open(data: bytes, threads: int) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = SILENT
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    return ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
