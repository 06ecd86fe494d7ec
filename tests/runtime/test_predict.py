import io
import json
import re
from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest
from PIL import Image

import networks
from helpers import CLASSES, patterns
from slimfer.errors import InputError
from slimfer.export.onnx import to_onnx
from slimfer.images import to_pixels
from slimfer.model.spec import NetSpec
from slimfer.runtime.predict import Box, Prediction, Recognizer, Source


@pytest.fixture(scope="module")
def recognizer() -> Recognizer:
    return Recognizer(to_onnx(networks.integers()))


@pytest.fixture(scope="module")
def colourful() -> Recognizer:
    spec = NetSpec("mobile", classes=3, channels=3, image=32, args={"width": 0.25})
    return Recognizer(to_onnx(networks.untrained(spec)))


def png(image: Image.Image, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG", **options)
    return stream.getvalue()


def scores(prediction: Prediction) -> list[float]:
    assert prediction.status == "ok", prediction.error
    return list(prediction.faces[0].scores.values())


def forms(array: np.ndarray, folder) -> dict[str, Source]:
    """The same picture in every form that is taken."""
    image = Image.fromarray(array)
    path = folder / "face.png"
    path.write_bytes(png(image))
    return {"array": array, "PIL": image, "bytes": png(image), "path": path, "string": str(path)}


@pytest.mark.parametrize("shape", [(16, 16), (37, 53), (40, 30, 3), (40, 30, 4), (1, 1), (1, 9, 3)])
def test_all_forms_of_a_picture_agree_to_the_bit(recognizer, colourful, shape, tmp_path):
    array = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    for reader in (recognizer, colourful):
        answers = {form: reader.predict(face) for form, face in forms(array, tmp_path).items()}
        expected = answers["array"]
        assert (expected.width, expected.height) == (shape[1], shape[0])
        for form, answer in answers.items():
            assert scores(answer) == scores(expected), form
            assert answer.faces == expected.faces
        assert answers["path"].path == answers["string"].path == str(tmp_path / "face.png")
        assert answers["bytes"].path is None


def test_gray_as_colour_is_the_same_gray(recognizer):
    gray = patterns(1).images[0, 0]
    colour = np.repeat(gray[..., None], 3, 2)
    opaque = np.dstack([colour, np.full_like(gray, 255)])
    assert scores(recognizer.predict(gray)) == scores(recognizer.predict(colour)) == scores(recognizer.predict(opaque))


def test_the_answer_is_what_the_session_says(recognizer):
    for image in patterns(20, seed=3).images[:, 0]:
        expected = recognizer.session.run(image[None, None])[0]
        prediction = recognizer.predict(image)
        assert scores(prediction) == expected.tolist()
        face = prediction.faces[0]
        assert face.label == CLASSES[expected.argmax()]
        assert face.score == expected.max() == face.scores[face.label]
        assert face.box == Box(0, 0, 16, 16)


def test_it_reads_what_it_has_learnt(recognizer):
    frames = patterns(100, seed=6)
    labels = [p.faces[0].label for p in recognizer.predict_many(frames.images[:, 0])]
    assert np.mean([label == CLASSES[i] for label, i in zip(labels, frames.labels, strict=True)]) > 0.95


def test_the_exif_orientation_is_obeyed_in_every_form(recognizer, tmp_path):
    array = np.random.default_rng(1).integers(0, 256, (20, 30), np.uint8)
    turned = Image.fromarray(array)
    exif = turned.getexif()
    exif[0x0112] = 6  # the camera was held upright: turn by 90 degrees clockwise
    data = png(turned, exif=exif)
    expected = recognizer.predict(np.ascontiguousarray(np.rot90(array, -1)))
    for face in (data, Image.open(io.BytesIO(data))):
        answer = recognizer.predict(face)
        assert scores(answer) == scores(expected)
        assert (answer.width, answer.height) == (20, 30)


@pytest.mark.parametrize(
    ("face", "error"),
    [
        (b"", "empty"),
        (b"not a picture", "not a picture"),
        (png(Image.new("L", (64, 64)))[:60], "truncated|damaged"),
        ("nowhere/at/all.png", "No such file"),
        (".", "directory"),
    ],
    ids=["empty", "text", "truncated", "missing", "folder"],
)
def test_a_bad_picture_is_a_status_not_an_exception(recognizer, face, error):
    prediction = recognizer.predict(face)
    assert prediction.status == "unreadable"
    assert prediction.faces == ()
    assert prediction.error is not None
    assert re.search(error, prediction.error)
    told = json.loads(json.dumps(prediction.to_dict()))
    assert told["error"] == prediction.error


def test_a_picture_object_whose_file_is_truncated_is_unreadable(recognizer):
    image = Image.open(io.BytesIO(png(Image.effect_noise((64, 64), 50))[:1500]))
    assert recognizer.predict(image).status == "unreadable"


@pytest.mark.parametrize("mode", ["1", "P", "LA", "CMYK", "YCbCr", "HSV", "I", "I;16", "F", "RGBA"])
def test_pictures_of_every_mode_are_read(recognizer, colourful, mode):
    image = Image.new(mode, (24, 20))
    for reader in (recognizer, colourful):
        assert reader.predict(image).status == "ok"


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((16, 16), np.float32),
        np.zeros((16, 16, 2), np.uint8),
        np.zeros(16, np.uint8),
        np.zeros((0, 16), np.uint8),
        np.zeros((1, 16, 16, 3), np.uint8),
    ],
    ids=["float", "two channels", "one axis", "empty", "batch"],
)
def test_arrays_of_another_kind_are_the_callers_mistake(recognizer, array):
    with pytest.raises(InputError, match=r"a face must be uint8 \(H, W\)"):
        recognizer.predict(array)


def test_the_json_has_the_agreed_form(recognizer, tmp_path):
    path = forms(patterns(1).images[0, 0], tmp_path)["path"]
    told = json.loads(json.dumps(recognizer.predict(path).to_dict()))
    assert list(told) == ["path", "status", "width", "height", "faces", "ms", "model", "version"]
    assert list(told["faces"][0]) == [
        "box", "label", "score", "scores", "uncertain", "detection_score", "track",
    ]  # fmt: skip
    assert told["faces"][0]["box"] == {"x": 0, "y": 0, "w": 16, "h": 16}
    assert list(told["faces"][0]["scores"]) == list(CLASSES)
    assert sum(told["faces"][0]["scores"].values()) == pytest.approx(1, abs=1e-6)
    assert set(told["ms"]) == {"preprocess", "inference"}
    assert all(value >= 0 for value in told["ms"].values())


def test_uncertain_means_below_the_threshold(recognizer):
    image = patterns(1).images[0, 0]
    score = recognizer.predict(image).faces[0].score
    data = recognizer.session.artifact.data
    assert not Recognizer(data, threshold=score).predict(image).faces[0].uncertain
    assert Recognizer(data, threshold=1.0).predict(image).faces[0].uncertain == (score < 1)
    for threshold in (-0.1, 1.1):
        with pytest.raises(InputError, match="threshold must be between 0 and 1"):
            Recognizer(data, threshold=threshold)


def test_predictions_are_frozen(recognizer):
    prediction = recognizer.predict(patterns(1).images[0, 0])
    with pytest.raises(FrozenInstanceError):
        prediction.status = "unreadable"  # type: ignore[misc]
    assert replace(prediction, path="x").path == "x"


def test_pixels_go_through_the_one_preprocessing(recognizer):
    array = np.random.default_rng(5).integers(0, 256, (90, 70, 3), np.uint8)
    pixels = to_pixels(Image.fromarray(array), 16, 1)
    assert scores(recognizer.predict(array)) == recognizer.session.run(pixels[None])[0].tolist()
