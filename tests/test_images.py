import io
import sys
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from slimfer.errors import InputError
from slimfer.images import FORMATS, array_picture, plain, read_image, to_pixels


def encode(pixels: np.ndarray, kind: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind, **options)
    return stream.getvalue()


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "PPM"])
@pytest.mark.parametrize("shape", [(9, 7), (9, 7, 3)])
def test_lossless_formats_give_back_the_pixels(kind, shape):
    assert (np.asarray(read_image(encode(noise(*shape), kind))) == noise(*shape)).all()


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("shape", [(24, 24), (24, 24, 3)])
def test_file_cut_anywhere_is_refused(kind, shape):
    data = encode(noise(*shape), kind)
    for end in range(len(data)):
        with pytest.raises(InputError):
            read_image(data[:end])


@given(st.binary(max_size=200))
def test_any_bytes_give_a_picture_or_a_sentence(data):
    for start in (b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"BM", b"P5 4 4 255\n"):
        with suppress(InputError):
            read_image(start + data)


@given(st.integers(0, 10**6), st.sampled_from(FORMATS))
def test_flipped_bits_give_a_picture_or_a_sentence(place, kind):
    data = bytearray(encode(noise(16, 16), kind))
    data[place // 8 % len(data)] ^= 1 << place % 8
    with suppress(InputError):
        read_image(bytes(data), max_pixels=10_000)


@pytest.mark.parametrize("side", [5_001, 10_000, 12_000, 60_000])
def test_too_many_pixels_are_refused_by_the_header(side):
    with pytest.raises(InputError, match="25000000"):
        read_image(f"P5 {side} {side} 255\n".encode())


def test_limit_is_exact():
    data = encode(noise(10, 10))
    assert read_image(data, max_pixels=100).size == (10, 10)
    with pytest.raises(InputError, match="10 x 10 pixels, and 99 are the most"):
        read_image(data, max_pixels=99)


@pytest.mark.parametrize("data", [b"", b"GIF89a" + bytes(20), b"hello", encode(noise(8, 8), "PCX"), b"%PDF-1.4"])
def test_other_files_are_refused(data):
    with pytest.raises(InputError):
        read_image(data)


def test_exif_orientation_is_applied():
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its left side
    picture = np.zeros((8, 16), np.uint8)
    picture[:, :8] = 255
    upright = read_image(encode(picture, "PNG", exif=exif))
    assert upright.size == (8, 16)
    assert (np.asarray(upright)[:8] == 255).all()
    assert (np.asarray(upright)[8:] == 0).all()


def test_gray_is_kept_as_it_is():
    pixels = noise(48, 48)
    assert (to_pixels(Image.fromarray(pixels), 48, 1) == pixels[None]).all()
    assert (to_pixels(Image.fromarray(pixels), 48, 3) == pixels[None]).all()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "I"])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_mode_comes_out_in_the_same_form(mode, channels):
    pixels = to_pixels(Image.new(mode, (30, 20)), 24, channels)
    assert pixels.shape == (channels, 24, 24)
    assert pixels.dtype == np.uint8


def test_sixteen_bits_are_not_clipped_to_white():
    deep = np.arange(0, 65536, 16, np.uint16).reshape(64, 64)
    read = read_image(encode(deep))
    assert (to_pixels(read, 64, 1)[0] == deep >> 8).all()


def test_resizing_keeps_constant_pictures_and_range():
    assert (to_pixels(Image.new("L", (100, 70), 137), 48, 1) == 137).all()
    edges = to_pixels(Image.fromarray(np.repeat(np.array([[50, 200]], np.uint8), 50, 1)), 48, 1)
    assert edges.min() == 50
    assert edges.max() == 200


def test_other_channel_counts_are_refused():
    with pytest.raises(InputError, match="not 2"):
        to_pixels(Image.new("L", (8, 8)), 8, 2)


def test_of_an_animated_picture_the_first_frame_is_read():
    stream = io.BytesIO()
    frames = [Image.new("L", (8, 8), value) for value in (10, 200)]
    frames[0].save(stream, "GIF", save_all=True, append_images=frames[1:])
    assert (to_pixels(read_image(stream.getvalue()), 8, 1) == 10).all()


def test_heic_without_its_plug_in_is_refused_with_the_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(InputError, match="pip install pillow-heif"):
        read_image(b"\0\0\0\x18ftypheic" + bytes(40))


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "HSV", "I;16", "I", "F"]
)
def test_plain_is_gray_or_rgb(mode):
    assert plain(Image.new(mode, (3, 2))).mode in ("L", "RGB")


@pytest.mark.parametrize("ending", [(), (1,), (3,), (4,)])
def test_arrays_of_all_types_are_the_same_picture(ending):
    pixels = noise(9, 7, *ending)
    expected = np.asarray(array_picture(pixels))
    assert (expected == (pixels[..., 0] if ending == (1,) else pixels[..., :3] if ending else pixels)).all()
    for same in (pixels.astype(np.uint16) * 257, pixels / 255, (pixels / np.float32(255)), pixels[::-1][::-1]):
        assert (np.asarray(array_picture(same)) == expected).all()
    black = pixels > 127
    assert (np.asarray(array_picture(black)) == np.asarray(array_picture(black * np.uint8(255)))).all()


@pytest.mark.parametrize(
    ("array", "told"),
    [
        (np.zeros(5), "shape"),
        (np.zeros((5, 5, 2), np.uint8), "shape"),
        (np.zeros((0, 5), np.uint8), "shape"),
        (np.zeros((1, 5, 5, 3), np.uint8), "shape"),
        (np.full((5, 5), np.nan), "NaN"),
        (np.full((5, 5), np.inf), "NaN"),
        (np.full((5, 5), 255.0), "between 0 and 1"),
        (np.zeros((5, 5), np.int64), "int64"),
        (np.zeros((5, 5), complex), "complex128"),
        (np.full((5, 5), "x"), "<U1"),
        (np.full((5, 5), None), "object"),
    ],
)
def test_other_arrays_are_refused_in_a_sentence(array, told):
    with pytest.raises(InputError, match=told):
        array_picture(array)
