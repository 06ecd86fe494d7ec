import stat
import struct
import zipfile
import zlib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data.tables import jpeg, write_zip
from slimfer.data.archive import MAX_BYTES, FolderTree, ZipTree
from slimfer.data.loader import load
from slimfer.errors import InputError

GOOD = {"train/happy/a.jpg": jpeg()}


def zip_of(path, name="train/happy/b.jpg", data=b"x", *, mode=0, method=zipfile.ZIP_STORED):
    """A zip with one good picture and one member as told."""
    write_zip(path, GOOD)
    with zipfile.ZipFile(path, "a", method) as archive:
        member = zipfile.ZipInfo("placeholder")
        member.filename = name
        member.external_attr = mode << 16
        member.compress_type = method
        archive.writestr(member, data)
    return path


def patch_directory(path, offset, form, value):
    """Change a field of the last member's entry in the central directory."""
    data = bytearray(path.read_bytes())
    entry = data.rindex(b"PK\x01\x02")
    struct.pack_into(form, data, entry + offset, value)
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("/etc/passwd", "'/etc/passwd' has an absolute path"),
        ("C:/windows/a.jpg", "'C:/windows/a.jpg' has an absolute path"),
        ("\\windows\\a.jpg", "has an absolute path"),
        ("../../a.jpg", "'../../a.jpg' leads out of the archive"),
        ("train/../../a.jpg", "leads out of the archive"),
        ("train\\..\\..\\a.jpg", "leads out of the archive"),
        ("train/happy/a.jpg", "'train/happy/a.jpg' is there twice"),
    ],
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_names_that_lead_elsewhere_are_refused(tmp_path, name, sentence):
    path = zip_of(tmp_path / "bad.zip", name)
    with pytest.raises(InputError, match="member ") as refused:
        load(path)
    assert sentence in str(refused.value)
    assert "bad.zip" in str(refused.value)


def test_symbolic_link_is_refused(tmp_path):
    path = zip_of(tmp_path / "bad.zip", data=b"/etc/passwd", mode=stat.S_IFLNK | 0o777)
    with pytest.raises(InputError, match=r"'train/happy/b\.jpg' is a symbolic link"):
        load(path)


@pytest.mark.parametrize("size", [MAX_BYTES + 1, 2**32 - 2])
def test_huge_member_is_refused_by_what_it_declares(tmp_path, size):
    path = zip_of(tmp_path / "bad.zip")
    patch_directory(path, 24, "<I", size)
    with pytest.raises(InputError, match=rf"'train/happy/b\.jpg' declares {size} bytes"):
        load(path)


def test_ten_gigabyte_member_is_refused(tmp_path):
    path = tmp_path / "bad.zip"
    with zipfile.ZipFile(path, "w") as archive:
        # zip64: the size is in the extra field of the central directory, as for a real one of that size.
        archive.writestr(zipfile.ZipInfo("train/happy/b.jpg"), b"x")
        archive.filelist[0].file_size = 10 * 10**9
    with pytest.raises(InputError, match=r"'train/happy/b\.jpg' declares 10000000000 bytes"):
        load(path)


def test_member_that_inflates_beyond_its_size_is_refused_without_inflating_it(tmp_path):
    path = zip_of(tmp_path / "bad.zip", data=bytes(50_000_000), method=zipfile.ZIP_DEFLATED)
    patch_directory(path, 24, "<I", 1000)
    with ZipTree(path) as tree, pytest.raises(InputError, match="damaged in the zip"):
        tree.read("train/happy/b.jpg")


def test_member_that_lies_in_both_size_and_checksum_ends_at_its_size(tmp_path):
    path = zip_of(tmp_path / "bad.zip", data=bytes(50_000_000), method=zipfile.ZIP_DEFLATED)
    patch_directory(path, 24, "<I", 1000)
    patch_directory(path, 16, "<I", zlib.crc32(bytes(1000)))
    with ZipTree(path) as tree:
        assert len(tree.read("train/happy/b.jpg")) <= 1000


def test_encrypted_member_is_refused(tmp_path):
    path = zip_of(tmp_path / "bad.zip")
    patch_directory(path, 8, "<H", 1)
    with pytest.raises(InputError, match="is encrypted"):
        load(path)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_methods_that_cannot_be_bounded_are_refused(tmp_path, method):
    with pytest.raises(InputError, match="another method than deflate"):
        load(zip_of(tmp_path / "bad.zip", method=method))


def test_cut_zip_is_refused(tmp_path):
    whole = write_zip(tmp_path / "whole.zip", GOOD).read_bytes()
    for end in range(0, len(whole), 37):
        (tmp_path / "cut.zip").write_bytes(whole[:end])
        with pytest.raises(InputError, match=r"cut\.zip"):
            load(tmp_path / "cut.zip")


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=3))
def test_damaged_zip_is_read_or_refused(tmp_path, changes):
    data = bytearray(write_zip(tmp_path / "whole.zip", GOOD | {"test/sad/b.jpg": jpeg(3)}).read_bytes())
    for place, value in changes:
        data[place % len(data)] = value
    (tmp_path / "damaged.zip").write_bytes(data)
    try:
        read = load(tmp_path / "damaged.zip")
    except InputError:
        return
    assert sum(map(len, read.values())) <= 2


def test_nothing_is_extracted(tmp_path):
    load(write_zip(tmp_path / "faces.zip", GOOD))
    assert [path.name for path in tmp_path.iterdir()] == ["faces.zip"]


def test_large_file_in_a_folder_is_refused(tmp_path):
    with open(tmp_path / "a.jpg", "wb") as stream:
        stream.truncate(MAX_BYTES + 1)
    with pytest.raises(InputError, match=f"larger than {MAX_BYTES} bytes"):
        FolderTree(tmp_path).read("a.jpg")


def test_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match="No such file"):
        FolderTree(tmp_path).read("a.jpg")
