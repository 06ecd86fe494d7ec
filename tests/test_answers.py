import hashlib
import json

import numpy as np
import pytest

from slimfer.answers import ANSWERS, ISSUES, MISTAKES, PICTURES, examine, read_answers, read_pictures, same_pictures
from slimfer.calibration import Calibration
from slimfer.metrics import score

CLASSES = ("angry", "happy", "neutral")


def examined(folder, n=60, seed=0, *, channels=1, side=8, classes=CLASSES, temperature=1.0, **kwargs):
    generator = np.random.default_rng(seed)
    labels = np.arange(n) % len(classes)
    stages = {name: generator.dirichlet(np.ones(len(classes)), n).astype(np.float32) for name in ("dense", "int8")}
    images = generator.integers(0, 256, (n, channels, side, side), dtype=np.uint8)
    parts = examine(
        folder, stages, labels, classes, images=images, calibration=Calibration(temperature), **kwargs
    )  # fmt: skip
    return parts, stages, labels, images


def test_answers_come_back_as_they_were(tmp_path):
    parts, stages, labels, _ = examined(tmp_path)
    read = read_answers(tmp_path, json.loads(json.dumps(parts))["answers"])
    assert list(read) == ["", "dense", "int8"]
    assert read[""].tolist() == labels.tolist()
    for name, probabilities in stages.items():
        assert read[name].tolist() == probabilities.argmax(1).tolist()


def test_the_file_is_small_and_plain(tmp_path):
    parts, *_ = examined(tmp_path)
    table = np.load(tmp_path / ANSWERS, allow_pickle=False)
    assert table.dtype == np.uint8
    assert table.shape == (3, 60)
    assert hashlib.sha256((tmp_path / ANSWERS).read_bytes()).hexdigest() == parts["answers"]["sha256"]


def test_equal_runs_write_equal_files(tmp_path):
    one, other = examined(tmp_path / "a")[0], examined(tmp_path / "b")[0]
    assert one == other
    for name in (ANSWERS, PICTURES):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_more_classes_than_a_byte_holds(tmp_path):
    classes = tuple(str(i) for i in range(300))
    parts, _, labels, _ = examined(tmp_path, n=600, classes=classes)
    assert read_answers(tmp_path, parts["answers"])[""].tolist() == labels.tolist()


def test_change_agrees_with_the_confusion_matrices(tmp_path):
    parts, stages, labels, _ = examined(tmp_path)
    before, after = (score(stages[name], labels, CLASSES) for name in ("dense", "int8"))
    change = parts["change"]
    assert (change["from"], change["to"]) == ("dense", "int8")
    assert change["difference"] == pytest.approx(after["accuracy"] - before["accuracy"])
    for name, row in change["per_class"].items():
        recalls = (scores["per_class"][name]["recall"] for scores in (after, before))
        assert row["difference"] == pytest.approx(next(recalls) - next(recalls))


def test_one_stage_has_no_change(tmp_path):
    labels = np.array([0, 1])
    images = np.zeros((2, 1, 8, 8), np.uint8)
    parts = examine(
        tmp_path, {"only": np.eye(3, dtype=np.float32)[:2]}, labels, CLASSES, images=images, calibration=Calibration()
    )
    assert "change" not in parts
    assert parts["mistakes"] == []
    assert parts["label_issues"] == {"count": 0, "rows": []}


def test_mistakes_are_wrong_and_their_confidence_is_calibrated(tmp_path):
    names = tuple(f"validation/x/{i}.jpg" for i in range(60))
    parts, stages, labels, _ = examined(tmp_path, temperature=2.0, names=names)
    softened = Calibration(2.0).calibrated(stages["int8"])
    for row in parts["mistakes"]:
        index = row["index"]
        assert row["label"] == CLASSES[labels[index]] != row["predicted"] == CLASSES[stages["int8"][index].argmax()]
        assert row["before"] == CLASSES[stages["dense"][index].argmax()]
        assert row["name"] == names[index]
        assert row["confidence"] == pytest.approx(softened[index].max(), abs=1e-4)
    wrong = (stages["int8"].argmax(1) != labels).sum()
    assert len(parts["mistakes"]) == min(MISTAKES, wrong)


def test_lists_stay_short_however_much_is_wrong(tmp_path):
    parts, _, _, _ = examined(tmp_path, n=10_000, side=4)
    assert len(parts["mistakes"]) == MISTAKES
    assert len(parts["label_issues"]["rows"]) == ISSUES < parts["label_issues"]["count"]
    assert len(json.dumps(parts)) < 60_000
    assert (tmp_path / PICTURES).stat().st_size < 10_000


@pytest.mark.parametrize(("channels", "side"), [(1, 48), (3, 8), (1, 96), (3, 224)])
def test_pictures_are_those_of_the_lists_at_most_48_wide(tmp_path, channels, side):
    parts, _, _, images = examined(tmp_path, channels=channels, side=side)
    kept = read_pictures(tmp_path, parts["pictures"])
    shown = {row["index"] for row in (*parts["mistakes"], *parts["label_issues"]["rows"][:48])}
    assert set(kept) == shown
    for index, pixels in kept.items():
        assert pixels.shape == (channels, min(side, 48), min(side, 48))
        if side <= 48:
            assert (pixels == images[index]).all()
        else:
            assert pixels.mean() == pytest.approx(images[index].mean(), abs=1)


def test_no_pictures_are_kept_when_none_are_wanted(tmp_path):
    examined(tmp_path)
    parts, *_ = examined(tmp_path, pictures=False)
    assert parts["pictures"] is None
    assert not (tmp_path / PICTURES).exists()
    assert read_pictures(tmp_path, parts["pictures"]) is None
    assert read_answers(tmp_path, parts["answers"]) is not None


@pytest.mark.parametrize("damage", ["missing", "flipped", "of another run", "cut"])
def test_a_wrong_file_is_not_read(tmp_path, damage):
    parts, *_ = examined(tmp_path)
    for name in (ANSWERS, PICTURES):
        path = tmp_path / name
        data = bytearray(path.read_bytes())
        if damage == "missing":
            path.unlink()
        elif damage == "flipped":
            data[-1] ^= 1
            path.write_bytes(data)
        elif damage == "cut":
            path.write_bytes(data[: len(data) // 2])
    if damage == "of another run":
        examined(tmp_path, seed=1)
    assert read_answers(tmp_path, parts["answers"]) is None
    assert read_pictures(tmp_path, parts["pictures"]) is None


def test_a_pickle_is_never_opened(tmp_path):
    parts, *_ = examined(tmp_path)
    np.save(tmp_path / ANSWERS, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    digest = hashlib.sha256((tmp_path / ANSWERS).read_bytes()).hexdigest()
    assert read_answers(tmp_path, {**parts["answers"], "sha256": digest}) is None


def test_the_same_pictures_are_known_by_pixels_or_by_names(tmp_path):
    names = tuple(map(str, range(60)))
    one = examined(tmp_path, names=names)[0]["answers"]
    assert same_pictures(one, examined(tmp_path)[0]["answers"])
    assert same_pictures(one, examined(tmp_path, side=16, names=names)[0]["answers"])
    assert not same_pictures(one, examined(tmp_path, side=16)[0]["answers"])
    other = examined(tmp_path, seed=4)[0]["answers"]
    assert not same_pictures(other, examined(tmp_path, seed=5)[0]["answers"])
