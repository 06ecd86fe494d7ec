"""The pictures that a run kept for its report, as data URIs: nothing has to be fetched to see them."""

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from slimfer.answers import PICTURES, read_pictures
from slimfer.report.results import Results

MOST_BYTES = 900_000  # of all pictures together, so that the page stays below 2 MB


@dataclass(frozen=True)
class Thumbnails:
    """Pictures as data URIs by their number, and where there are none, why."""

    uris: Mapping[int, str] = field(default_factory=dict)
    told: str = "The run kept no pictures."


def thumbnails(folder: Path, results: Results, *, wanted: bool = True) -> Thumbnails:
    """Return the pictures beside a results.json.

    Args:
        folder: of the run.
        results: of the run.
        wanted: False leaves them out.
    """
    part = results.data.get("pictures")
    if not wanted:
        return Thumbnails(told="Pictures were left out (--no-pictures).")
    if part is None:
        return Thumbnails()
    kept = read_pictures(folder, part)
    if kept is None:
        return Thumbnails(told=f"The pictures are missing: {PICTURES} is not there, or not that of this run.")
    uris: dict[int, str] = {}
    room = MOST_BYTES
    for number, pixels in kept.items():
        uri = _uri(pixels)
        room -= len(uri)
        if room < 0:
            break
        uris[number] = uri
    return Thumbnails(uris)


def _uri(pixels: npt.NDArray[np.uint8]) -> str:
    """Return (C, H, W) pixels as a PNG in a data URI."""
    stream = io.BytesIO()
    picture = Image.fromarray(pixels[0] if len(pixels) == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    picture.save(stream, "png", optimize=True)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()
