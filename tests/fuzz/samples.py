"""Small whole files of every kind that is read, from which damaged ones are made."""

import io
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from PIL import Image

SIZE = (40, 30)


def picture(mode: str, size: tuple[int, int] = SIZE) -> Image.Image:
    """Return a picture with edges and noise; it compresses neither to nothing nor not at all."""
    noise = np.random.default_rng(0).integers(0, 60, (size[1], size[0], 3))
    rows, columns = np.mgrid[: size[1], : size[0]]
    image = Image.fromarray((noise + 6 * np.stack([rows, columns, rows ^ columns], 2) % 190).astype(np.uint8))
    if mode == "I;16":
        return Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    return image.convert(mode)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def animated(kind: str) -> bytes:
    frames = [picture("RGB").rotate(angle) for angle in (0, 90, 180)]
    return encoded(frames[0], kind, save_all=True, append_images=frames[1:], duration=40)


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def _jpeg() -> list[bytes]:
    return [
        encoded(picture("RGB"), "JPEG", exif=turned(6)),
        encoded(picture("L"), "JPEG", progressive=True),
        encoded(picture("CMYK"), "JPEG", quality=90, subsampling=0),
    ]


def _png() -> list[bytes]:
    palette = picture("P")
    palette.info["transparency"] = 3
    return [
        *(encoded(picture(mode), "PNG") for mode in ("1", "L", "LA", "RGBA", "I;16")),
        encoded(palette, "PNG", exif=turned(3)),
        animated("PNG"),
    ]


def _webp() -> list[bytes]:
    return [encoded(picture("RGB"), "WEBP"), encoded(picture("RGBA"), "WEBP", lossless=True), animated("WEBP")]


def _bmp() -> list[bytes]:
    return [encoded(picture(mode), "BMP") for mode in ("1", "L", "P", "RGB", "RGBA")]


def _ppm() -> list[bytes]:
    plain = b"P2\n# words\n4 3\n255\n" + b" ".join(b"%d" % (20 * i) for i in range(12)) + b"\n"
    return [*(encoded(picture(mode), "PPM") for mode in ("1", "L", "RGB", "I;16")), plain]


def _gif() -> list[bytes]:
    return [encoded(picture("P"), "GIF"), animated("GIF"), encoded(picture("L"), "GIF", interlace=1)]


PICTURES: Mapping[str, Callable[[], list[bytes]]] = {
    "JPEG": _jpeg, "PNG": _png, "WEBP": _webp, "BMP": _bmp, "PPM": _ppm, "GIF": _gif,
}  # fmt: skip
