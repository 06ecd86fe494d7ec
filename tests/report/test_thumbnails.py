import base64
import io

import numpy as np
import pytest
from PIL import Image

from slimfer.answers import PICTURES, examine
from slimfer.calibration import Calibration
from slimfer.report.results import parse_results
from slimfer.report.thumbnails import MOST_BYTES, thumbnails


def pixels_of(uri):
    head, _, data = uri.partition(",")
    assert head == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))


def test_pictures_are_the_pixels_that_were_kept(run):
    folder, results = run
    kept = dict(zip(results["pictures"]["index"], np.load(folder / PICTURES), strict=True))
    found = thumbnails(folder, parse_results(results))
    assert set(found.uris) == set(kept)
    for index, uri in found.uris.items():
        assert (pixels_of(uri) == kept[index][0]).all()


def test_colours_come_through(tmp_path, compressed):
    noise = np.random.default_rng(0).integers(0, 256, (4, 3, 20, 20), dtype=np.uint8)
    wrong = np.eye(3, dtype=np.float32)[[1, 1, 1, 1]]
    labels = np.zeros(4, np.int64)
    parts = examine(tmp_path, {"only": wrong}, labels, ("a", "b", "c"), images=noise, calibration=Calibration())
    found = thumbnails(tmp_path, parse_results({**compressed, **parts}))
    assert sorted(found.uris) == [0, 1, 2, 3]
    for index, uri in found.uris.items():
        assert (pixels_of(uri) == noise[index].transpose(1, 2, 0)).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_they_never_fill_the_page(run, channels, monkeypatch):
    folder, results = run
    noise = np.random.default_rng(0).integers(0, 256, (2000, channels, 48, 48), dtype=np.uint8)
    monkeypatch.setattr("slimfer.report.thumbnails.read_pictures", lambda *_: dict(enumerate(noise)))
    uris = thumbnails(folder, parse_results(results)).uris
    total = sum(len(uri) for uri in uris.values())
    assert MOST_BYTES * 0.95 < total <= MOST_BYTES
    assert list(uris) == list(range(len(uris)))  # the surest first


def test_unwanted_ones_are_not_even_read(run, monkeypatch):
    folder, results = run
    monkeypatch.setattr("slimfer.report.thumbnails.read_pictures", None)
    assert thumbnails(folder, parse_results(results), wanted=False).uris == {}
