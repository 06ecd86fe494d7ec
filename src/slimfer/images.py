"""From the bytes of a picture file to pixels: the one way in, for training data and for the runtime alike.

Bytes come from anywhere, so the format is on a short list, the size is read from the header before anything is
decoded, and a file that ends early is refused rather than shown half gray. The route to a network's pixels (colour to
gray, resampling filter) is also here, once: training and runtime cannot differ.
"""

import io

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from slimfer.errors import InputError

# Formats by Pillow's names, and the endings of their files.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "PPM")
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".ppm", ".pgm")

# Averages what it shrinks, never rings: an edge in a face stays an edge.
FILTER = Image.Resampling.BILINEAR

# Every PNG that is whole ends with this chunk: no length, its name, its checksum. Pillow does not insist on it.
_PNG_END = b"\0\0\0\0IEND\xaeB`\x82"


def read_image(data: bytes, *, max_pixels: int = 25_000_000) -> Image.Image:
    """Decode a picture, turned upright by its EXIF orientation.

    Args:
        data: the whole file; JPEG, PNG, WebP, BMP, PPM or PGM, whatever its name says.
        max_pixels: most pixels that are decoded; the header is asked first.

    Returns:
        A decoded picture in the mode it was stored in.

    Raises:
        InputError: if it is empty, in another format, too large, truncated or damaged.
    """
    if not data:
        raise InputError("the picture is empty (0 bytes)")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
            width, height = picture.size
            if width * height > max_pixels:
                raise InputError(f"the picture has {width} x {height} pixels, and {max_pixels} are the most")
            picture.load()
            if picture.format == "PNG" and _PNG_END not in data:
                raise InputError("the picture is truncated")
            return ImageOps.exif_transpose(picture)
    except InputError:
        raise
    except UnidentifiedImageError:
        raise InputError("not a picture in a format that is read here (JPEG, PNG, WebP, BMP, PPM)") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise InputError(f"the picture is far larger than {max_pixels} pixels") from None
    # Decoders raise OSError, SyntaxError, ValueError, struct.error, EOFError, ... for damaged input: all the same here.
    except Exception as error:
        truncated = "truncated" in str(error).lower()
        raise InputError("the picture is truncated" if truncated else f"the picture is damaged ({error})") from None


def to_pixels(image: Image.Image, side: int, channels: int) -> npt.NDArray[np.uint8]:
    """Bring a picture to a network's input: gray or RGB, then stretched to a square.

    Args:
        image: a decoded picture in any mode; transparency is ignored, 16-bit gray is cut to its upper 8 bits.
        side: height and width of the result.
        channels: 1 (gray by ITU-R 601 luma) or 3 (RGB).

    Returns:
        (channels, side, side) uint8.

    Raises:
        InputError: if `channels` is neither 1 nor 3.
    """
    if channels not in (1, 3):
        raise InputError(f"channels must be 1 or 3, not {channels}")
    if image.mode.startswith("I"):
        # Pillow would clip 16 bits to white.
        image = Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
    image = image.convert("L" if channels == 1 else "RGB")
    if image.size != (side, side):
        image = image.resize((side, side), FILTER)
    pixels = np.asarray(image)
    return pixels[None] if channels == 1 else np.ascontiguousarray(pixels.transpose(2, 0, 1))
