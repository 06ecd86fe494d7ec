"""From the bytes of a picture file to pixels: the one way in, for training data and for the runtime alike.

Bytes come from anywhere, so the format is on a short list, the size is read from the header before anything is
decoded, and a file that ends early is refused rather than shown half gray. The route to a network's pixels (colour to
gray, resampling filter) is also here, once: training and runtime cannot differ.
"""

import importlib
import io
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from slimfer.errors import InputError

# Formats by Pillow's names, and the endings of their files.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "PPM", "GIF")
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".ppm", ".pgm", ".gif", ".heic", ".heif")
MAX_PIXELS = 25_000_000  # what phones take as a rule; reading as many needs 170 MB

# What a phone's HEIC files have in their first twelve bytes, and the package that lets Pillow read them.
_HEIC = (b"ftypheic", b"ftypheix", b"ftyphevc", b"ftypmif1", b"ftypmsf1")
_HEIC_PLUGIN = "pillow_heif"

# Averages what it shrinks, never rings: an edge in a face stays an edge.
FILTER = Image.Resampling.BILINEAR

# Every PNG that is whole ends with this chunk: no length, its name, its checksum. Pillow does not insist on it.
_PNG_END = b"\0\0\0\0IEND\xaeB`\x82"
_GIF_END = b"\0;"  # the end of the last block, and the trailer; some writers pad it

# Every scan of a JPEG passes over all pixels, and one that changes nothing takes 40 bytes: 100 kB decode for minutes.
_JPEG_START, _JPEG_SCAN, _MAX_SCANS = b"\xff\xd8", b"\xff\xda", 50


def read_image(data: bytes, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decode a picture, turned upright by its EXIF orientation.

    Args:
        data: the whole file; JPEG, PNG, WebP, BMP, PPM, PGM, GIF, or HEIC where `pillow-heif` is installed;
            whatever its name says. Of an animated picture the first frame is read.
        max_pixels: most pixels that are decoded; the header is asked first.

    Returns:
        A decoded picture in the mode it was stored in.

    Raises:
        InputError: if it is empty, in another format, too large, truncated or damaged.
    """
    if not data:
        raise InputError("the picture is empty (0 bytes)")
    try:
        with Image.open(io.BytesIO(data), formats=_formats(data)) as picture:
            check_size(picture, max_pixels)
            if data.startswith(_JPEG_START) and data.count(_JPEG_SCAN) > _MAX_SCANS:
                raise InputError(f"the picture has more than {_MAX_SCANS} scans")
            picture.load()
            if (picture.format == "PNG" and _PNG_END not in data) or (
                picture.format == "GIF" and _GIF_END not in data[-9:]
            ):
                raise InputError("the picture is truncated")
            ImageOps.exif_transpose(picture, in_place=True)  # no copy where nothing is to be turned
            return picture
    except InputError:
        raise
    except UnidentifiedImageError:
        raise InputError(f"not a picture in a format that is read here ({', '.join(FORMATS)})") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise InputError(f"the picture is far larger than {max_pixels} pixels") from None
    # Decoders raise OSError, SyntaxError, ValueError, struct.error, EOFError, ... for damaged input: all the same here.
    except Exception as error:
        truncated = "truncated" in str(error).lower()
        raise InputError("the picture is truncated" if truncated else f"the picture is damaged ({error})") from None


def check_size(picture: Image.Image, max_pixels: int) -> None:
    """See whether a picture may be decoded; its header is enough for that.

    Raises:
        InputError: if it has more than `max_pixels` pixels.
    """
    width, height = picture.size
    if width * height > max_pixels:
        raise InputError(f"the picture has {width} x {height} pixels, and {max_pixels} are the most")


def _formats(data: bytes) -> tuple[str, ...]:
    """Return the formats to try; HEIC needs a plug-in, which is asked for only when such a picture comes.

    Raises:
        InputError: if it is not there.
    """
    if data[4:12] not in _HEIC:
        return FORMATS
    try:
        importlib.import_module(_HEIC_PLUGIN).register_heif_opener()
    except ImportError:
        raise InputError("a HEIC picture, which needs a plug-in: pip install pillow-heif") from None
    return ("HEIF",)


def plain(image: Image.Image) -> Image.Image:
    """Return a decoded picture as gray (mode L) or RGB; itself if it is.

    Transparency is ignored, 16-bit gray is cut to its upper 8 bits, floats are clipped to 0-255.
    """
    if image.mode in ("L", "RGB"):
        return image
    if image.mode.startswith("I"):
        # Pillow would clip 16 bits to white.
        return Image.fromarray((np.asarray(image) >> 8).clip(0, 255).astype(np.uint8))
    return image.convert("L" if image.mode in ("1", "LA", "La", "F") else "RGB")


def array_picture(array: npt.NDArray[Any]) -> Image.Image:
    """Return an array as a picture of mode L or RGB.

    Args:
        array: (H, W), (H, W, 1) gray, (H, W, 3) RGB or (H, W, 4) RGBA; uint8, uint16 (cut to its upper 8 bits, as in
            files), bool, or floats from 0 to 1.

    Raises:
        InputError: if its shape, type or values are others, or it holds NaN.
    """
    if array.ndim not in (2, 3) or array.shape[2:] not in ((), (1,), (3,), (4,)) or array.size == 0:
        raise InputError(f"an array of shape {array.shape} is no picture; (H, W), (H, W, 3) and (H, W, 4) are")
    if array.dtype.kind == "f":
        if not (array.min() >= 0 and array.max() <= 1):  # NaN is neither
            raise InputError("an array of floats must lie between 0 and 1, without NaN")
        array = np.rint(array * 255).astype(np.uint8)
    elif array.dtype == np.bool_:
        array = array.astype(np.uint8) * np.uint8(255)
    elif array.dtype == np.uint16:
        array = (array >> 8).astype(np.uint8)
    elif array.dtype != np.uint8:
        raise InputError(f"an array of {array.dtype} is no picture; uint8, uint16, bool and floats from 0 to 1 are")
    if array.shape[2:] == (1,):
        array = array[..., 0]
    return Image.fromarray(np.ascontiguousarray(array[..., :3] if array.ndim == 3 else array))


def to_pixels(image: Image.Image, side: int, channels: int) -> npt.NDArray[np.uint8]:
    """Bring a picture to a network's input: gray or RGB, then stretched to a square.

    Args:
        image: a decoded picture in any mode; see `plain`.
        side: height and width of the result.
        channels: 1 (gray by ITU-R 601 luma) or 3 (RGB).

    Returns:
        (channels, side, side) uint8.

    Raises:
        InputError: if `channels` is neither 1 nor 3.
    """
    if channels not in (1, 3):
        raise InputError(f"channels must be 1 or 3, not {channels}")
    image = plain(image).convert("L" if channels == 1 else "RGB")
    if image.size != (side, side):
        image = image.resize((side, side), FILTER)
    pixels = np.asarray(image)
    return pixels[None] if channels == 1 else np.ascontiguousarray(pixels.transpose(2, 0, 1))
