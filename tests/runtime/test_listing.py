"""Which pictures are meant by files, globs and folders."""

import os
import tracemalloc
from pathlib import Path

import pytest

from slimfer.errors import InputError
from slimfer.runtime.listing import Listing

FILES = ("b.png", "a.jpg", "sub/c.JPG", "sub/deep/d.webp", "z.png", "notes.txt", ".hidden.png", ".git/e.png", "x.jfif")


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in FILES:
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_folder_gives_its_pictures_sorted(tree: Path) -> None:
    assert list(Listing(["photos"])) == ["photos/a.jpg", "photos/b.png", "photos/z.png"]


def test_recursive_goes_deeper_and_leaves_hidden_ones_out(tree: Path) -> None:
    found = list(Listing(["photos/"], recursive=True))
    pictures = [f"photos/{name}" for name in FILES if not name.startswith(".") and name not in ("notes.txt", "x.jfif")]
    assert found == [str(path) for path in sorted(map(Path, pictures))]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("photos/*.png", ["photos/b.png", "photos/z.png"]),
        ("photos/**/*.webp", ["photos/sub/deep/d.webp"]),
        ("photos/*", ["photos/a.jpg", "photos/b.png", "photos/z.png"]),
        ("photos/*.jfif", ["photos/x.jfif"]),
        ("**/[ab].*", ["photos/a.jpg", "photos/b.png"]),
        ("photos/**", ["photos/a.jpg", "photos/b.png", "photos/sub/c.JPG", "photos/sub/deep/d.webp", "photos/z.png"]),
    ],
)
def test_globs(tree: Path, pattern: str, expected: list[str]) -> None:
    assert list(Listing([pattern])) == expected
    assert Listing([pattern]).count() == len(expected)


def test_a_file_is_taken_whatever_its_name(tree: Path) -> None:
    odd = tree / "[1]*.dat"
    odd.write_bytes(b"")
    assert list(Listing([str(odd), "photos/notes.txt", "-"])) == [str(odd), "photos/notes.txt", "-"]


def test_each_picture_comes_once_in_the_order_of_the_names(tree: Path) -> None:
    found = list(Listing(["photos/z.png", "photos", "photos/*.png", "photos"]))
    assert found == ["photos/z.png", "photos/a.jpg", "photos/b.png"]


def test_it_comes_the_same_way_every_time(tree: Path) -> None:
    listing = Listing(["photos", "photos/sub"], recursive=True)
    assert list(listing) == list(listing)
    assert listing.count() == len(list(listing)) == 5


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nowhere.jpg", "nowhere.jpg: no such file or folder"),
        ("--fast", "--fast: no such option"),
        ("photos/q*.jpg", "photos/q*.jpg: the pattern matches no picture"),
        ("empty", "empty: a folder without pictures"),
        ("nested", "--recursive looks into its folders"),
    ],
)
def test_what_stands_for_nothing_is_named(tree: Path, name: str, words: str) -> None:
    (tree / "empty").mkdir()
    (tree / "nested" / "inner").mkdir(parents=True)
    (tree / "nested" / "inner" / "a.png").write_bytes(b"")
    with pytest.raises(InputError) as caught:
        Listing([name]).count()
    assert words in str(caught.value)


def test_links_are_read_but_folders_are_not_walked_in_circles(tree: Path) -> None:
    os.symlink(tree / "photos", tree / "photos" / "sub" / "circle.png")
    os.symlink(tree / "photos" / "a.jpg", tree / "photos" / "sub" / "link.png")
    os.symlink(tree / "gone", tree / "photos" / "sub" / "torn.png")
    os.mkfifo(tree / "photos" / "sub" / "pipe.png")
    assert list(Listing(["photos/sub"])) == ["photos/sub/c.JPG", "photos/sub/link.png", "photos/sub/torn.png"]


def test_folders_may_be_very_deep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Deeper than Python calls functions."""
    monkeypatch.chdir(tmp_path)
    deepest = os.path.join(*["d"] * 1200)
    os.makedirs(deepest[: len(deepest) // 2])
    os.makedirs(deepest, exist_ok=True)
    Path(deepest, "a.png").write_bytes(b"")
    try:
        assert [os.path.basename(path) for path in Listing(["d"], recursive=True)] == ["a.png"]
    finally:  # nor can others remove it
        os.unlink(os.path.join(deepest, "a.png"))
        os.removedirs(deepest)


def test_what_the_caller_writes_is_not_read(tree: Path) -> None:
    marked = tree / "photos" / "sub"
    for names in (["photos"], ["photos/**/*.*"]):
        listing = Listing(names, recursive=True, leave_out=marked)
        assert list(listing) == ["photos/a.jpg", "photos/b.png", "photos/z.png"]


def test_a_folder_that_cannot_be_read_is_noted(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.scandir

    def scandir(path: str) -> object:
        if path.endswith("deep"):
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    listing = Listing(["photos"], recursive=True)
    assert "photos/sub/c.JPG" in list(listing)
    assert listing.closed == {"photos/sub/deep": "Permission denied"}


def test_the_layout_below_everything_is_kept(tree: Path) -> None:
    one, two = Listing(["photos"], recursive=True), Listing(["photos/sub/c.JPG", "photos/*.png"])
    assert one.relative("photos/sub/c.JPG") == Path("sub/c.JPG")
    assert two.relative("photos/sub/c.JPG") == Path("sub/c.JPG")
    assert Listing(["photos/sub", "photos/a.jpg"]).relative("photos/sub/c.JPG") == Path("sub/c.JPG")
    assert Listing(["photos/a.jpg"]).relative("photos/a.jpg") == Path("a.jpg")


def test_many_files_need_no_list(tmp_path: Path) -> None:
    """100 folders of 60 files: what is held is one folder, not 6,000 paths (which would take 1 MB)."""
    for i in range(100):
        (tmp_path / f"{i:03d}").mkdir()
        for j in range(60):
            os.close(os.open(tmp_path / f"{i:03d}" / f"{j:05d}.jpg", os.O_CREAT | os.O_WRONLY))
    listing = Listing([str(tmp_path)], recursive=True)
    tracemalloc.start()
    try:
        assert listing.count() == sum(1 for _ in listing) == 6_000
        assert tracemalloc.get_traced_memory()[1] < 150_000
    finally:
        tracemalloc.stop()
