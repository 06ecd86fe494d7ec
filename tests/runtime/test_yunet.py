"""YuNet decoded here says what OpenCV says."""

from pathlib import Path

import pytest
from PIL import Image

from slimfer.errors import InputError
from slimfer.runtime.yunet import YuNet

FILE = "face_detection_yunet_2023mar.onnx"


@pytest.fixture(scope="module")
def yunet(shared: Path) -> YuNet:
    return YuNet(shared / FILE)


def test_every_photo_has_one_face(yunet: YuNet, shared: Path) -> None:
    for path in sorted((shared / "photos").glob("*.jpg")):
        with Image.open(path) as picture:
            assert len(yunet.find(picture)) == 1, path.name


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("size", [(1, 1), (10000, 20), (20, 10000), (0, 0)])
def test_a_picture_of_one_colour_has_no_face(yunet: YuNet, mode: str, size: tuple[int, int]) -> None:
    assert yunet.find(Image.new(mode, size, "gray")) == ()


@pytest.mark.parametrize("index", [0, 1000, -1])
def test_a_damaged_file_is_refused(shared: Path, index: int) -> None:
    data = bytearray((shared / FILE).read_bytes())
    data[index] ^= 1
    with pytest.raises(InputError, match="SHA-256"):
        YuNet(bytes(data))
