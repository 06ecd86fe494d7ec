"""What is fuzzed: readers, whole files for them, and the only exceptions that may come out."""

import atexit
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np

from fuzz.samples import PICTURES
from runtime.videos import write_gif, write_video
from slimfer.artifact import open_artifact
from slimfer.errors import SlimferError
from slimfer.images import read_image, to_pixels
from slimfer.runtime.predict import Recognizer
from slimfer.runtime.session import Session
from slimfer.runtime.video import open_video
from slimfer.runtime.yunet import YuNet
from slimfer.shipped import SHIPPED

HASH = 64  # digits at the end of an artifact


@dataclass(frozen=True)
class Target:
    """A reader of bytes.

    Attributes:
        read: what must return or raise one of `allowed`.
        samples: whole inputs, which must be read without an exception.
        allowed: exceptions that are an answer.
    """

    read: Callable[[bytes], object]
    samples: Sequence[bytes]
    allowed: tuple[type[BaseException], ...] = (SlimferError,)


def picture(kind: str) -> Target:
    """Without the runtime's net below it; at its default limit, pictures of 4 bytes a pixel may need more memory."""
    return Target(lambda data: to_pixels(read_image(data), 48, 1), PICTURES[kind]())


def predict() -> Target:
    """The whole way: no exception at all, but a status."""
    detector = detector_file()
    recognizer = Recognizer(detect=detector is not None, detector=detector)
    samples = [sample for kind in PICTURES for sample in PICTURES[kind]()]
    photos = sorted((detector.parent / "photos").glob("*_4.jpg")) if detector else []
    return Target(lambda data: recognizer.predict(data).to_dict(), samples + [p.read_bytes() for p in photos], ())


def artifact() -> Target:
    """The file as it is: the hash must refuse every damage."""

    def read(data: bytes) -> None:
        opened = open_artifact(data)
        assert data in samples, f"damaged, yet opened as {opened.name}"

    samples = [path.read_bytes() for path in SHIPPED.values()]
    return Target(read, samples)


def graph() -> Target:
    """Behind a hash that is right again: what the walk over the protobuf lets through must run."""
    import networks  # with torch, which no other target needs
    from slimfer.compress.quantize import quantize
    from slimfer.export.onnx import to_onnx

    def read(data: bytes) -> None:
        body = data[:-HASH]
        session = Session(body + hashlib.sha256(body).hexdigest().encode())
        session.run(np.zeros((1, session.channels, session.image, session.image), np.uint8))

    names = ("norm", "gate", "depthwise", "cat", "max_pool", "gelu")
    nets = [networks.untrained(networks.case_spec(name)) for name in names]
    integers = quantize(nets[0], networks.noise(64, 16, classes=3))
    return Target(read, [to_onnx(net) for net in (*nets, integers)])


def moving(write: Callable[[Path, int], Path], *endings: str) -> Target:
    """Videos and animated pictures, opened by path as users do; the first frames of each."""
    folder = Path(tempfile.mkdtemp(prefix="slimfer-fuzz-"))
    atexit.register(shutil.rmtree, folder)
    samples = [write(folder / f"sample{ending}", 6).read_bytes() for ending in endings]
    path = folder / f"input{endings[0]}"  # what is in it decides how it is read

    def read(data: bytes) -> None:
        path.write_bytes(data)
        with open_video(path) as video:
            for frame in islice(video, 4):
                frame.picture.load()

    return Target(read, samples)


def detector() -> Target:
    file = detector_file()
    assert file, "no file of the detector"
    return Target(lambda data: YuNet(data), [file.read_bytes()])


def detector_file() -> Path | None:
    """Return YuNet's file where the real data are (see conftest.py)."""
    folder = Path(os.environ.get("SLIMFER_SHARED", Path(__file__).resolve().parents[3] / "shared"))
    file = folder / "data" / "face_detection_yunet_2023mar.onnx"
    return file if file.is_file() else None


def plant(target: Target, fault: str) -> Target:
    """Return the target with a fault that one input in twenty meets: the test of the test.

    Args:
        target: a reader without faults.
        fault: `error`, `slow`, `stuck`, `memory` or `crash`.
    """

    def read(data: bytes) -> object:
        if hashlib.sha256(data).digest()[0] < 256 // 20:
            FAULTS[fault]()
        return target.read(data)

    return replace(target, read=read)


def _error() -> None:
    raise ValueError("planted")


def _slow() -> None:
    end = time.process_time() + 1.5
    while time.process_time() < end:
        pass


FAULTS: Mapping[str, Callable[[], object]] = {
    "error": _error,
    "slow": _slow,
    "stuck": lambda: time.sleep(600),
    "memory": lambda: bytearray(1 << 30),
    "crash": os.abort,
}
TARGETS: Mapping[str, Callable[[], Target]] = {
    **{kind.lower(): partial(picture, kind) for kind in PICTURES},
    "animation": partial(moving, write_gif, ".gif", ".webp", ".png"),
    "video": partial(moving, write_video, ".mp4", ".avi", ".mkv"),
    "predict": predict,
    "artifact": artifact,
    "graph": graph,
    "detector": detector,
}
