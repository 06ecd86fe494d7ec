"""A folder of marked pictures that mirrors where the pictures came from, and never touches them."""

import io
from collections.abc import Iterable
from pathlib import Path

from PIL import Image

from slimfer.errors import InputError
from slimfer.files import atomic_write, sweep_stale
from slimfer.runtime.annotate import annotate
from slimfer.runtime.answer import Prediction
from slimfer.runtime.listing import lies_in

# Formats that are written as they were read, by ending; everything else becomes a PNG. Colours keep all their pixels in
# a JPEG (4:4:4), or thin coloured lines would blur.
_FORMATS: dict[str, tuple[str, dict[str, int]]] = {
    ".jpg": ("JPEG", {"quality": 90, "subsampling": 0}),
    ".jpeg": ("JPEG", {"quality": 90, "subsampling": 0}),
    ".webp": ("WEBP", {"quality": 90}),
    ".bmp": ("BMP", {}),
}
_PNG: tuple[str, dict[str, int]] = ("PNG", {"compress_level": 3})


class MarkedFolder:
    """Where marked pictures go."""

    def __init__(self, folder: Path, roots: Iterable[str], *, again: bool) -> None:
        """Make the folder.

        Args:
            folder: where to write.
            roots: folders that pictures are read from.
            again: whether it may hold something already; files of the same name are then replaced.

        Raises:
            InputError: if pictures are read from it or from a folder inside, it is a file, it cannot be made, or it is
                not empty and must be.
        """
        if any(lies_in(root, folder) for root in roots):
            raise InputError(f"{folder}: pictures are read from there, so marked ones must go to another folder")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if not again and any(folder.iterdir()):
                raise InputError(f"{folder} is not empty; --resume goes on, --force replaces files of the same name")
        except FileExistsError:
            raise InputError(f"{folder} is a file; marked pictures need a folder") from None
        except OSError as error:
            raise InputError(f"{folder}: {error.strerror}") from None
        sweep_stale(folder)
        self.folder = folder

    def save(self, relative: Path, picture: Image.Image, prediction: Prediction) -> Path:
        """Mark a picture and write it, whole or not at all; return where.

        Args:
            relative: where the picture stood; the marked one stands there below this folder.
            picture: upright.
            prediction: what was read in it.

        Raises:
            InputError: if it cannot be written.
        """
        marked = annotate(picture, prediction)
        name = relative.name
        kind = _PNG if relative.suffix.lower() == ".png" else _FORMATS.get(relative.suffix.lower())
        data = _encoded(marked, kind) if kind else None
        if data is None:
            name, data = f"{name}.png", _encoded(marked, _PNG)
        path = self.folder / relative.with_name(name)
        try:
            atomic_write(path, data or b"")
        except OSError as error:
            raise InputError(f"{path}: {error.strerror}") from None
        return path


def _encoded(picture: Image.Image, kind: tuple[str, dict[str, int]]) -> bytes | None:
    """Return the bytes of a file; None if the format cannot hold a picture of this size."""
    stream = io.BytesIO()
    try:
        picture.save(stream, kind[0], **kind[1])
    except (OSError, ValueError):
        return None
    return stream.getvalue()
