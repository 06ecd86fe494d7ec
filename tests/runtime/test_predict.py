import csv
import io
import json
import os
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import FrozenInstanceError, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import networks
from helpers import CLASSES, patterns
from slimfer.artifact import calibrated
from slimfer.calibration import Calibration
from slimfer.errors import InputError
from slimfer.export.onnx import to_onnx
from slimfer.images import to_pixels
from slimfer.model.spec import NetSpec
from slimfer.runtime import predict
from slimfer.runtime.answer import Box, Prediction
from slimfer.runtime.crop import face_pixels
from slimfer.runtime.faces import Found
from slimfer.runtime.predict import Recognizer, Source


@pytest.fixture(scope="module")
def recognizer() -> Recognizer:
    return Recognizer(to_onnx(networks.integers()), detect=False)


@pytest.fixture(scope="module")
def colourful() -> Recognizer:
    spec = NetSpec("mobile", classes=3, channels=3, image=32, args={"width": 0.25})
    return Recognizer(to_onnx(networks.untrained(spec)), detect=False)


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
        (".", "folder, not a picture"),
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
    [np.full((16, 16), np.nan), np.zeros((16, 16, 2), np.uint8), np.zeros(16, np.uint8), np.zeros((0, 16), np.uint8)],
    ids=["NaN", "two channels", "one axis", "empty"],
)
def test_a_bad_array_is_a_status_too(recognizer, array):
    answer = recognizer.predict(array)
    assert answer.status == "unreadable"
    assert answer.error


@pytest.mark.parametrize("nothing", [None, 3, 1.5, {"a": 1}, object()])
def test_what_is_no_picture_at_all_is_the_callers_mistake(recognizer, nothing):
    with pytest.raises(InputError, match="is no picture; paths, bytes, PIL pictures and arrays are"):
        recognizer(nothing)


def test_a_list_gives_a_list_and_a_stream_gives_a_stream(recognizer):
    arrays = list(patterns(5, seed=2).images[:, 0])
    single = [scores(recognizer(array)) for array in arrays]
    assert [scores(answer) for answer in recognizer(arrays)] == single
    assert [scores(answer) for answer in recognizer(tuple(arrays))] == single
    drawn = []
    stream = recognizer(array for array in arrays if not drawn.append(1))
    assert not drawn
    assert scores(next(stream)) == single[0]
    assert len(drawn) == 1  # one picture at a time
    assert [scores(answer) for answer in stream] == single[1:]
    assert recognizer([]) == []


def test_see_gives_the_picture_as_well(recognizer):
    array = patterns(1).images[0, 0]
    answer, picture = recognizer.see(array)
    assert answer.faces == recognizer(array).faces
    assert (np.asarray(picture) == array).all()
    answer, picture = recognizer.see(b"no picture")
    assert (answer.status, picture) == ("unreadable", None)


def test_open_files_are_pictures_though_they_iterate(recognizer, tmp_path):
    array = patterns(1).images[0, 0]
    data = png(Image.fromarray(array))
    (tmp_path / "a.png").write_bytes(data)
    expected = scores(recognizer(array))
    with open(tmp_path / "a.png", "rb") as stream:
        assert scores(recognizer(stream)) == expected
    for same in (io.BytesIO(data), bytearray(data), memoryview(data)):
        assert scores(recognizer(same)) == expected


@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_what_may_never_end_is_not_read(recognizer, tmp_path, kind):
    path = {"pipe": tmp_path / "a.png", "device": Path("/dev/zero"), "folder": tmp_path}[kind]
    if kind == "pipe":
        os.mkfifo(path)
    assert recognizer(path).status == "unreadable"


def test_large_pictures_are_refused_by_a_limit_that_can_be_set(recognizer):
    data = png(Image.new("L", (100, 100)))
    small = Recognizer(recognizer.session.artifact, detect=False, max_pixels=9_999)
    assert "100 x 100 pixels, and 9999 are the most" in (small(data).error or "")
    assert recognizer(data).status == "ok"
    with pytest.raises(InputError, match="max_pixels"):
        Recognizer(recognizer.session.artifact, max_pixels=0)


def test_the_json_has_the_agreed_form(recognizer, tmp_path):
    path = forms(patterns(1).images[0, 0], tmp_path)["path"]
    told = json.loads(json.dumps(recognizer.predict(path).to_dict()))
    assert list(told) == ["path", "status", "width", "height", "faces", "ms", "model", "version"]
    assert list(told["faces"][0]) == [
        "box", "label", "score", "scores", "confidence", "uncertain", "detection_score",
    ]  # fmt: skip
    assert told["faces"][0]["box"] == {"x": 0, "y": 0, "w": 16, "h": 16}
    assert list(told["faces"][0]["scores"]) == list(CLASSES)
    assert sum(told["faces"][0]["scores"].values()) == pytest.approx(1, abs=1e-6)
    assert set(told["ms"]) == {"preprocess", "inference"}
    assert all(value >= 0 for value in told["ms"].values())


def test_uncertain_means_below_the_threshold(recognizer):
    image = patterns(1).images[0, 0]
    confidence = recognizer.predict(image).confidence
    data = recognizer.session.artifact.data
    assert Recognizer(data, threshold=confidence, detect=False).predict(image).status == "ok"
    doubtful = Recognizer(data, threshold=1.0, detect=False).predict(image)
    assert doubtful.faces[0].uncertain == (confidence < 1)
    assert (doubtful.status == "low_confidence") == (confidence < 1)
    for threshold in (-0.1, 1.1):
        with pytest.raises(InputError, match="threshold must be between 0 and 1"):
            Recognizer(data, threshold=threshold)


def test_confidence_and_threshold_belong_to_the_artifact(recognizer):
    image = patterns(1).images[0, 0]
    plain_ = recognizer(image)
    assert plain_.confidence == plain_.score
    told = calibrated(recognizer.session.artifact, Calibration(temperature=3.0, threshold=0.99))
    softened = Recognizer(told, detect=False)
    answer = softened(image)
    assert answer.scores == plain_.scores
    assert answer.label == plain_.label
    expected = Calibration(3.0).confidence(np.array([list(plain_.scores.values())], np.float32))[0]
    assert answer.confidence == pytest.approx(expected)
    assert answer.confidence < answer.score
    assert softened.threshold == 0.99
    assert answer.status == "low_confidence"
    assert Recognizer(told, detect=False, threshold=0.0)(image).status == "ok"


class Two:
    """A detector that always finds the same two faces."""

    name = "two"

    def find(self, picture):
        return (Found(10, 20, 60, 60, 0.9), Found(-10, -5, 40, 40, 0.8))


class Nobody:
    name = "nobody"

    def find(self, picture):
        return ()


def test_every_face_has_its_answer_the_largest_first(recognizer):
    photo = np.random.default_rng(0).integers(0, 256, (120, 100, 3), np.uint8)
    answer = Recognizer(recognizer.session.artifact, detector=Two())(photo)
    assert answer.status == "ok"
    assert [face.box for face in answer.faces] == [Box(10, 20, 60, 60), Box(0, 0, 30, 35)]
    assert [face.detection_score for face in answer.faces] == [0.9, 0.8]
    assert (answer.box, answer.label, answer.scores) == (
        answer.faces[0].box,
        answer.faces[0].label,
        answer.faces[0].scores,
    )
    picture = Image.fromarray(photo)
    for face, found in zip(answer.faces, Two().find(picture), strict=True):
        pixels = face_pixels(picture, found, 16, 1)
        # Answers of a batch differ from single ones by rounding at most.
        assert list(face.scores.values()) == pytest.approx(recognizer.session.run(pixels[None])[0].tolist(), abs=1e-6)


def test_no_face_is_a_status(recognizer):
    answer = Recognizer(recognizer.session.artifact, detector=Nobody())(np.zeros((50, 40), np.uint8))
    assert (answer.status, answer.faces, answer.width, answer.height) == ("no_face", (), 40, 50)
    assert (answer.label, answer.score, answer.confidence, answer.box, dict(answer.scores)) == (*[None] * 4, {})
    json.dumps(answer.to_dict(), allow_nan=False)


def test_no_detector_is_a_status_with_the_remedy_and_is_looked_for_once(recognizer, monkeypatch):
    asked = []

    def nowhere(path, **_):
        asked.append(path)
        raise InputError("there is none; do this")

    monkeypatch.setattr(predict, "open_detector", nowhere)
    reader = Recognizer(recognizer.session.artifact)
    for _ in range(2):
        answer = reader(np.zeros((50, 40), np.uint8))
        assert (answer.status, answer.error) == ("no_detector", "there is none; do this")
    assert asked == [None]
    with pytest.raises(InputError, match="do this"):
        Recognizer(recognizer.session.artifact, detector="nowhere.onnx")


def test_the_model_that_ships_reads_real_faces(shared):
    """The whole way on real photos: every face is found; people hardly agree on most of them, but on smiles they do."""
    reader = Recognizer(detector=shared / "face_detection_yunet_2023mar.onnx")
    names = {"anger": "angry", "happiness": "happy", "sadness": "sad"}
    with open(shared / "photos" / "labels.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    answers = [reader(shared / "photos" / row["file"]) for row in rows]
    truth = [names.get(row["expression"], row["expression"]) for row in rows]
    assert all(answer.faces for answer in answers)
    assert all(answer.label == "happy" for answer, label in zip(answers, truth, strict=True) if label == "happy")
    assert np.mean([answer.label == label for answer, label in zip(answers, truth, strict=True)]) >= 0.4  # chance: 0.14


def test_many_threads_may_share_one(recognizer):
    arrays = list(patterns(40, seed=4).images[:, 0])
    expected = [scores(recognizer(array)) for array in arrays]
    with ThreadPoolExecutor(8) as pool:
        assert [scores(answer) for answer in pool.map(recognizer, arrays)] == expected


def test_predictions_are_frozen(recognizer):
    prediction = recognizer.predict(patterns(1).images[0, 0])
    with pytest.raises(FrozenInstanceError):
        prediction.status = "unreadable"  # type: ignore[misc]
    assert replace(prediction, path="x").path == "x"


def test_pixels_go_through_the_one_preprocessing(recognizer):
    array = np.random.default_rng(5).integers(0, 256, (90, 70, 3), np.uint8)
    pixels = to_pixels(Image.fromarray(array), 16, 1)
    assert scores(recognizer.predict(array)) == recognizer.session.run(pixels[None])[0].tolist()
