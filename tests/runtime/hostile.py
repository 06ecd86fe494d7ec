"""Pictures that no reader should have to meet; each is a function that writes one into a folder and returns its path.

`CASES` says for each the status that it gets when it is taken for a face (`detect=False`), and what its sentence tells.
"""

import os
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from PIL import Image

from fuzz.samples import PICTURES, animated, encoded, picture, turned

ENDS = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp", "BMP": "bmp", "PPM": "ppm", "GIF": "gif"}
HUGE = 30_000  # pixels on each side


@dataclass(frozen=True)
class Case:
    """A picture, its status and a pattern of its sentence."""

    make: Callable[[Path], Path]
    status: str
    error: str = ""


def file(name: str, data: bytes) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path = folder / name
        path.write_bytes(data)
        return path

    return make


def whole(kind: str) -> bytes:
    return PICTURES[kind]()[0]


# --- huge by their headers ------------------------------------------------------------------------------------------
def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def huge(kind: str, side: int = HUGE) -> bytes:
    """Return a file of a few hundred bytes whose header says `side` x `side` pixels."""
    if kind == "PNG":
        header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0))
        return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    if kind == "PPM":
        return b"P5 %d %d 255\n" % (side, side)
    data = bytearray(whole(kind))
    if kind == "JPEG":
        place = data.index(b"\xff\xc0") + 5
        data[place : place + 4] = struct.pack(">HH", side, side)
    elif kind == "BMP":
        data[18:26] = struct.pack("<ii", side, side)
    elif kind == "GIF":
        data[6:10] = struct.pack("<HH", side, side)
    elif kind == "WEBP":
        # The format ends at 16,384 pixels on a side; the canvas of an animated file may be larger.
        data = bytearray(animated("WEBP"))
        place = data.index(b"VP8X") + 12
        data[place : place + 6] = 2 * struct.pack("<I", min(side, 16_000) - 1)[:3]
    return bytes(data)


def many_scans(side: int = 4000, scans: int = 2000) -> bytes:
    """Return a progressive JPEG that passes over all its pixels again and again: 100 kB, a minute."""
    data = encoded(Image.new("L", (side, side), 128), "JPEG", progressive=True, quality=50)
    places = [place for place in range(len(data) - 1) if data[place : place + 2] == b"\xff\xda"]
    last = min((data[a:b] for a, b in zip(places, [*places[1:], len(data) - 2], strict=True)), key=len)
    return data[:-2] + last.partition(b"\xff\xc4")[0] * scans + data[-2:]


def text_bomb() -> bytes:
    """Return a PNG whose comment would take a gigabyte."""
    data = whole("PNG")
    bomb = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(1 << 27)))
    return data[:33] + bomb * 8 + data[33:]


# --- what is no file ------------------------------------------------------------------------------------------------
def fifo(folder: Path) -> Path:
    os.mkfifo(folder / "pipe.jpg")
    return folder / "pipe.jpg"


def link(target: str, folder: Path) -> Path:
    path = folder / "link.jpg"
    path.symlink_to(target)
    return path


def directory(folder: Path) -> Path:
    path = folder / "x.jpg"
    path.mkdir()
    return path


def named(name: bytes, folder: Path) -> Path:
    path = Path(os.fsdecode(os.path.join(os.fsencode(folder), name)))
    path.write_bytes(whole("PNG"))
    return path


PALETTE = picture("P")
PALETTE.info["transparency"] = 3
PNG = whole("PNG")

CASES: dict[str, Case] = {
    **{f"{kind} cut in half": Case(file(f"cut.{end}", whole(kind)[: len(whole(kind)) // 2]), "unreadable",
                                   "truncated|damaged|not a picture") for kind, end in ENDS.items()},
    **{f"{kind} of 30,000 x 30,000": Case(file(f"huge.{end}", huge(kind)), "unreadable", "pixels") for kind, end in
       ENDS.items()},
    **{f"EXIF orientation {turn}": Case(file("turned.jpg", encoded(picture("RGB"), "JPEG", exif=turned(turn))), "ok")
       for turn in (*range(10), 65535)},
    **{f"animated {kind}": Case(file(f"animated.{ENDS[kind]}", animated(kind)), "ok") for kind in
       ("GIF", "PNG", "WEBP")},
    "empty": Case(file("empty.jpg", b""), "unreadable", "empty"),
    "text": Case(file("text.jpg", b"I am a picture, honestly.\n"), "unreadable", "not a picture"),
    "a web page": Case(file("page.png", b"<!DOCTYPE html><html></html>"), "unreadable", "not a picture"),
    "PostScript": Case(file("eps.png", b"%!PS-Adobe-3.0 EPSF-3.0\n"), "unreadable", "not a picture"),
    "PNG named .jpg": Case(file("face.jpg", PNG), "ok"),
    "JPEG named .gif": Case(file("face.gif", whole("JPEG")), "ok"),
    "an ending of no picture": Case(file("face.onnx", PNG), "ok"),
    "no ending": Case(file("face", PNG), "ok"),
    "1 x 1": Case(file("dot.png", encoded(Image.new("L", (1, 1)), "PNG")), "ok"),
    "1 x 65,535": Case(file("line.png", encoded(Image.new("L", (1, 65535)), "PNG")), "ok"),
    "65,535 x 1": Case(file("line.png", encoded(Image.new("RGB", (65535, 1)), "PNG")), "ok"),
    "CMYK": Case(file("cmyk.jpg", encoded(picture("CMYK"), "JPEG")), "ok"),
    "palette with transparency": Case(file("palette.png", encoded(PALETTE, "PNG")), "ok"),
    "gray with transparency": Case(file("alpha.png", encoded(picture("LA"), "PNG")), "ok"),
    "16 bits": Case(file("deep.png", encoded(picture("I;16"), "PNG")), "ok"),
    "1 bit": Case(file("bit.png", encoded(picture("1"), "PNG")), "ok"),
    "HEIC without the plug-in": Case(file("phone.heic", b"\0\0\0\x18ftypheic"), "unreadable", "pillow-heif"),
    "2,000 scans": Case(file("scans.jpg", many_scans()), "unreadable", "scans"),
    "a comment of a gigabyte": Case(file("comment.png", text_bomb()), "unreadable", ""),
    "a folder named x.jpg": Case(directory, "unreadable", "folder"),
    "a pipe": Case(fifo, "unreadable", "neither a file nor a folder"),
    "a device that never ends": Case(partial(link, "/dev/zero"), "unreadable", "neither a file nor a folder"),
    "a device that is empty": Case(partial(link, "/dev/null"), "unreadable", "neither a file nor a folder"),
    "a link to itself": Case(partial(link, "link.jpg"), "unreadable", "symbolic links"),
    "a link to nothing": Case(partial(link, "nothing.jpg"), "unreadable", "No such file"),
    "a name with a line end": Case(partial(named, b"one\ntwo.png"), "ok"),
    "a name that is not UTF-8": Case(partial(named, b"caf\xe9\xff.png"), "ok"),
    "a name with colours of a terminal": Case(partial(named, b"\x1b[31mred.png"), "ok"),
    "a name that looks like a glob": Case(partial(named, b"[a]*?.png"), "ok"),
    "a name that looks like an option": Case(partial(named, b"--json.png"), "ok"),
    "the longest name": Case(partial(named, b"n" * 251 + b".png"), "ok"),
}  # fmt: skip
