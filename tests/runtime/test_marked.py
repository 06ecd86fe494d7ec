"""A folder of marked pictures: same layout, same formats, whole files."""

from pathlib import Path

import pytest
from PIL import Image

from slimfer.errors import InputError
from slimfer.runtime.answer import Prediction
from slimfer.runtime.marked import MarkedFolder

PICTURE = Image.new("RGB", (300, 260), (90, 120, 60))
ANSWER = Prediction("a.jpg", "no_face", 300, 260)


def marked(folder: Path, *, again: bool = False) -> MarkedFolder:
    return MarkedFolder(folder, [str(folder.parent / "photos")], again=again)


@pytest.mark.parametrize(
    ("name", "written", "kind"),
    [
        ("a.jpg", "a.jpg", "JPEG"), ("deep/er/b.JPEG", "deep/er/b.JPEG", "JPEG"), ("c.png", "c.png", "PNG"),
        ("d.webp", "d.webp", "WEBP"), ("e.bmp", "e.bmp", "BMP"), ("f.pgm", "f.pgm.png", "PNG"), ("g", "g.png", "PNG"),
        ("h.gif", "h.gif.png", "PNG"),
    ],
)  # fmt: skip
def test_layout_and_format_stay(tmp_path: Path, name: str, written: str, kind: str) -> None:
    path = marked(tmp_path / "marked").save(Path(name), PICTURE, ANSWER)
    assert path == tmp_path / "marked" / written
    with Image.open(path) as picture:
        picture.load()
        assert (picture.format, picture.size) == (kind, PICTURE.size)
    assert [file for file in (tmp_path / "marked").rglob("*") if file.is_file()] == [path]


def test_what_the_format_cannot_hold_becomes_a_png(tmp_path: Path) -> None:
    long = Image.new("L", (17_000, 241))
    path = marked(tmp_path / "marked").save(Path("long.webp"), long, Prediction("x", "no_face", *long.size))
    assert path.name == "long.webp.png"


def test_nothing_of_the_camera_is_copied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x010F] = "a camera"
    PICTURE.save(tmp_path / "a.jpg", exif=exif)
    with Image.open(tmp_path / "a.jpg") as picture:
        path = marked(tmp_path / "marked").save(Path("a.jpg"), picture, ANSWER)
    assert b"a camera" not in path.read_bytes()


def test_a_folder_with_something_in_it_needs_a_word(tmp_path: Path) -> None:
    (tmp_path / "marked").mkdir()
    (tmp_path / "marked" / "mine.txt").write_text("mine")
    (tmp_path / "marked" / "a.jpg.slimfer-tmp-999999999").write_bytes(b"half")
    with pytest.raises(InputError, match="is not empty"):
        marked(tmp_path / "marked")
    marked(tmp_path / "marked", again=True)
    assert [path.name for path in (tmp_path / "marked").iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("root", ["photos", "photos/deeper", "link"])
def test_sources_are_safe(tmp_path: Path, root: str) -> None:
    (tmp_path / "photos" / "deeper").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "photos")
    with pytest.raises(InputError, match="must go to another folder"):
        MarkedFolder(tmp_path / "photos", [str(tmp_path / root)], again=True)
    MarkedFolder(tmp_path / "photos" / "marked", [str(tmp_path / "photos")], again=True)


def test_a_link_to_a_source_is_replaced_and_not_followed(tmp_path: Path) -> None:
    source = tmp_path / "photos" / "a.png"
    source.parent.mkdir()
    PICTURE.save(source)
    before = source.read_bytes()
    (tmp_path / "marked").mkdir()
    (tmp_path / "marked" / "a.png").symlink_to(source)
    marked(tmp_path / "marked", again=True).save(Path("a.png"), PICTURE, ANSWER)
    assert source.read_bytes() == before
    assert not (tmp_path / "marked" / "a.png").is_symlink()
