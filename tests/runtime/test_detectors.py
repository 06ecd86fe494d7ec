"""Which detector is taken: the one named, the cache, the network, Haar's cascade, none."""

import shutil
import sys
from pathlib import Path

import pytest
from PIL import Image

from slimfer.errors import InputError
from slimfer.runtime import detectors
from slimfer.runtime.detectors import FILE, SIZE, open_detector
from slimfer.runtime.haar import Haar
from slimfer.runtime.yunet import YuNet

NOWHERE = ("http://127.0.0.1:9/nowhere.onnx",)


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty cache, and no network."""
    monkeypatch.setattr(detectors, "ADDRESSES", NOWHERE)
    monkeypatch.delenv("SLIMFER_DETECTOR", raising=False)
    monkeypatch.delenv("SLIMFER_OFFLINE", raising=False)
    monkeypatch.setenv("SLIMFER_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def without_opencv(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)


def silent(line: str) -> None:
    raise AssertionError(line)


def test_the_file_is_as_large_as_the_message_says(shared: Path) -> None:
    assert (shared / FILE).stat().st_size == SIZE


def test_the_path_given_goes_before_the_environment(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLIMFER_DETECTOR", "nothing/there.onnx")
    assert isinstance(open_detector(shared / FILE, say=silent), YuNet)
    with pytest.raises(InputError, match=r"nothing/there\.onnx"):
        open_detector(say=silent)
    monkeypatch.setenv("SLIMFER_DETECTOR", str(shared / FILE))
    assert isinstance(open_detector(say=silent), YuNet)


def test_the_cache_needs_no_network(shared: Path, cache: Path) -> None:
    cache.mkdir()
    shutil.copy(shared / FILE, cache)
    assert isinstance(open_detector(say=silent), YuNet)


@pytest.mark.usefixtures("without_opencv")
def test_without_any_the_remedy_is_said(cache: Path) -> None:
    lines: list[str] = []
    with pytest.raises(InputError) as caught:
        open_detector(say=lines.append)
    for part in ("no connection", "--detector", "SLIMFER_DETECTOR", "slimfer[video]", "--no-detect", FILE):
        assert part in str(caught.value)
    assert lines == [f"fetching {FILE} (233 kB) from {NOWHERE[0]} to {cache}"]


@pytest.mark.usefixtures("without_opencv")
def test_offline_nothing_is_fetched(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLIMFER_OFFLINE", "1")
    with pytest.raises(InputError, match="SLIMFER_OFFLINE"):
        open_detector(say=silent)
    assert not cache.exists()


@pytest.mark.usefixtures("without_opencv")
def test_a_damaged_file_in_the_cache_is_said(shared: Path, cache: Path) -> None:
    cache.mkdir()
    (cache / FILE).write_bytes((shared / FILE).read_bytes()[:-1])
    lines: list[str] = []
    with pytest.raises(InputError, match="no face detector"):
        open_detector(say=lines.append)
    assert "damaged" in lines[0]
    assert len(lines) == 2


def test_threads_out_of_range_is_not_taken_for_a_missing_file(shared: Path, cache: Path) -> None:
    cache.mkdir()
    shutil.copy(shared / FILE, cache)
    with pytest.raises(InputError, match="threads must be"):
        open_detector(threads=0, say=silent)


def test_the_cascade_is_the_last_and_says_that_it_is_weaker(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("cv2")
    monkeypatch.setenv("SLIMFER_OFFLINE", "1")
    lines: list[str] = []
    assert isinstance(open_detector(say=lines.append), Haar)
    assert len(lines) == 1
    assert "weaker" in lines[0]


@pytest.mark.usefixtures("without_opencv")
def test_the_cascade_needs_opencv() -> None:
    with pytest.raises(InputError, match=r"slimfer\[video\]"):
        Haar()


def test_the_cascade_needs_an_opencv_that_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """As OpenCV 5."""
    monkeypatch.setitem(sys.modules, "cv2", type(sys)("cv2"))
    with pytest.raises(InputError, match="OpenCV 4"):
        Haar()


def test_the_cascade_frames_faces_as_yunet_does(shared: Path) -> None:
    pytest.importorskip("cv2")
    haar, yunet = Haar(), YuNet(shared / FILE)
    sides = []
    for path in sorted((shared / "photos").glob("*.jpg")):
        with Image.open(path) as photo:
            picture = Image.new("RGB", (640, 480), (90, 110, 120))
            picture.paste(photo.convert("RGB").resize((300, 300)), (170, 90))
        weak, strong = haar.find(picture), yunet.find(picture)
        if weak and strong:
            sides.append(weak[0].w / max(strong[0].w, strong[0].h))
    assert len(sides) > 15
    assert 0.85 < sorted(sides)[len(sides) // 2] < 1.15


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("size", [(1, 1), (10000, 20), (0, 0), (640, 480)])
def test_the_cascade_finds_nothing_where_nothing_is(mode: str, size: tuple[int, int]) -> None:
    pytest.importorskip("cv2")
    assert Haar().find(Image.new(mode, size)) == ()
