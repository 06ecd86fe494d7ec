"""The benchmarks of finding and cutting faces run, and change what they say they change."""

import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench import crops, finding
from slimfer.data.frames import Frames
from slimfer.images import to_pixels
from slimfer.report.tables import Table
from slimfer.runtime.faces import Found
from slimfer.shipped import SHIPPED

FILE = "face_detection_yunet_2023mar.onnx"
MODELS = [SHIPPED["small"]]


def test_a_shift_follows_a_turned_face() -> None:
    """A face that lies on its side, with its chin to the left."""
    points = ((55.0, 40.0), (55.0, 60.0), (50.0, 50.0), (45.0, 40.0), (45.0, 60.0))
    moved = crops.framed(Found(40, 40, 20, 10, 0.9, points), 2.0, 0.5)
    assert (moved.w, moved.h) == (40, 40)
    assert math.isclose(moved.x + 20, 50 - 10)
    assert math.isclose(moved.y + 20, 45, abs_tol=1e-9)


def test_finding_runs(shared: Path) -> None:
    result = finding.run(shared / FILE, MODELS, shared / "photos", pictures=1, repeats=1)
    large = [row for row in result["finding"] if row["side"] == 600]
    assert all(row["found"] == 1 for row in large)
    assert all(isinstance(table, Table) for table in finding.tables(result))


def test_crops_runs(shared: Path, tmp_path: Path) -> None:
    names = ("happiness_1", "neutral_1", "surprise_1", "happiness_2")
    lines = ["file,expression", *(f"{name}.jpg,{name.partition('_')[0]}" for name in names)]
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    pixels = []
    for name in names:
        with Image.open(shared / "photos" / f"{name}.jpg") as photo:
            photo.save(tmp_path / f"{name}.jpg")
            pixels.append(to_pixels(photo, 48, 1))
    frames = Frames(np.stack(pixels), np.array([3, 6, 5, 3]), tuple(crops.Session(MODELS[0]).labels))
    result = crops.run(crops.Settings(step=1), shared / FILE, MODELS, tmp_path, frames)
    scores = {(row["pictures"], row["variant"]): row for row in result["rows"]}
    assert scores["photos", "chosen"] == {**scores["photos", "margin 1.0"], "variant": "chosen"}
    assert scores["photos", "chosen"]["n"] == 4
    assert all(isinstance(table, Table) for table in crops.tables(result))


def test_crops_needs_labels(tmp_path: Path) -> None:
    with pytest.raises(crops.InputError, match="labels"):
        list(crops._photos(tmp_path, ("happy",)))
