import math
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from bench.microexpnet import SMOKE, Settings, answers, slope

from bench import inference, microexpnet, run
from slimfer.data.synthetic import synthetic
from slimfer.export.onnx import to_onnx
from slimfer.model.spec import NetSpec
from slimfer.train.loop import initial


@pytest.fixture(scope="module")
def faces():
    return synthetic(n_train=64, n_validation=32, n_test=7, seed=1)


@pytest.fixture(scope="module")
def study(faces, tmp_path_factory):
    """A study of two seeds and one size; then the same again, with a teacher that must not be asked."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("study")
    teacher = folder / "teacher.onnx"
    teacher.write_bytes(to_onnx(initial(NetSpec("mobile", args={"width": 0.25}), faces["train"].classes, seed=0)))
    asked = []
    opened = microexpnet.open_teacher

    def counting(path):
        inner = opened(path)

        class Counting:
            name, digest, labels = inner.name, inner.digest, inner.labels
            channels, image = inner.channels, inner.image

            def __call__(self, x):
                asked.append(len(x))
                return inner(x)

        return Counting()

    settings = replace(SMOKE, seeds=(0, 1))
    notes = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(microexpnet, "open_teacher", counting)
        first = microexpnet.run(settings, [teacher], faces, folder / "work", notes.append)
        asked_first = list(asked)
        second = microexpnet.run(settings, [teacher], faces, folder / "work", notes.append)
    return first, second, asked_first, asked[len(asked_first) :], notes


def test_every_cell_has_every_seed(study):
    rows = study[0]["rows"]
    assert [(row["network"], row["size"], row["taught"]) for row in rows] == [
        (network, "XXS", taught) for network in ("microexpnet-v", "microexpnet") for taught in (False, True)
    ]
    assert all(len(row["accuracies"]) == len(row["seconds"]) == 2 for row in rows)
    assert [row["params"] for row in rows] == [27_831, 27_831, 23_479, 23_479]
    assert len(study[4]) == 16


def test_a_study_goes_on_where_it_stopped(study):
    """What is finished is read, not trained again: times are the old ones, and the teacher is asked nothing."""
    first, second, _, asked, _ = study
    assert second["rows"] == first["rows"]
    assert asked == []


def test_networks_of_one_seed_share_the_teachers_answers(study):
    """Two seeds with two steps each, and two taught networks: each batch is asked once."""
    assert study[2] == [32] * 4


def test_the_teacher_changes_the_training(study):
    plain, taught = (row["seconds"] for row in study[0]["rows"][:2])
    assert plain != taught


def rows_of(accuracy):
    return [
        {
            "network": network, "size": size, "taught": taught, "params": params, "macs": 9e5, "seconds": [1.0] * 3,
            "accuracies": (values := [accuracy(network, size, taught, seed) for seed in range(3)]),
            "last": values, **microexpnet._spread(values),
        }
        for network in ("microexpnet-v", "microexpnet")
        for size, params in (("M", 256_000), ("S", 64_000), ("XS", 32_000))
        for taught in (False, True)
    ]  # fmt: skip


GAIN = {"M": 0.01, "S": 0.02, "XS": 0.025}


def accuracy(network, size, taught, seed):
    return 0.5 + 0.03 * (network == "microexpnet") + GAIN[size] * taught + 0.01 * seed


def test_answers_are_differences_seed_by_seed():
    """The seeds' own level, 0.01 apart, must not come into the spread of differences."""
    found = answers(rows_of(accuracy))
    for row in found["pooling"]:
        assert row["differences"] == pytest.approx([0.03] * 3)
        assert row["std"] == pytest.approx(0, abs=1e-12)
    assert {(row["size"], round(row["mean"], 9)) for row in found["teaching"]} == set(GAIN.items())
    # The gain falls by 0.005 with every doubling of the parameters.
    assert found["trend"]["slope"] == pytest.approx(-0.005)
    assert found["trend"]["half"] == pytest.approx(0, abs=1e-9)


def test_slopes_are_those_of_numpy_with_the_known_interval():
    generator = random.Random(0)
    x = [generator.uniform(0, 5) for _ in range(24)]
    y = [3 - 0.7 * one + generator.gauss(0, 0.2) for one in x]
    coefficients, covariance = np.polyfit(x, y, 1, cov=True)
    found = slope(x, y)
    assert found["slope"] == pytest.approx(coefficients[0])
    assert found["half"] == pytest.approx(2.0739 * math.sqrt(covariance[0, 0]), rel=1e-3)  # t with 22 degrees
    assert slope([1.0, 1.0], [2.0, 3.0]) == {"slope": None, "half": None}


@pytest.mark.parametrize(("degrees", "point"), [(2, 4.303), (9, 2.262), (10, 2.228), (15, 2.131), (30, 2.042)])
def test_student_points_are_those_of_the_tables(degrees, point):
    assert microexpnet._t95(degrees) == pytest.approx(point, abs=0.005)


def result():
    rows = rows_of(accuracy)
    settings = {"seeds": [0, 1, 2], "distill": {"teachers": ["x"]}}
    timing = {"rows": [{"contestant": "control: float, torch", "bytes": 9, "smaller": 1, "faster": 1, "throughput": 2,
                        "latency_ms": {"median": 1, "p95": 1}}]}  # fmt: skip
    return {"settings": settings, "rows": rows, "answers": answers(rows), "speed": timing}


def test_tables_tell_points_with_their_spread():
    scores, speed = microexpnet.tables(result())
    assert scores.header[3] == "accuracy %, 3 seeds"
    assert scores.rows[0][-3:] == ("51.00 ± 1.00", "52.00 ± 1.00", "+1.00 ± 0.00")
    assert len(scores.rows) == 6
    assert speed.rows[0][0] == "control: float, torch"


def test_the_chart_is_small_and_the_same_every_time():
    drawn = microexpnet.chart(result())
    assert drawn == microexpnet.chart(result())
    assert len(drawn) < 40_000
    for words in ("no pooling, labels alone", "max-pooling, with a teacher", "parameters (logarithmic)"):
        assert words in drawn


def test_the_published_form_is_timed_one_picture_at_a_time(study):
    rows = study[0]["speed"]["rows"]
    assert [row["contestant"] for row in rows] == ["control: float, torch", "1: float", "2: integers"]
    assert rows[2]["bytes"] < rows[1]["bytes"] / 3
    assert Settings().speed == inference.Settings(batch_size=1)


def test_flags_of_the_study(monkeypatch, tmp_path, capsys):
    seen = {}

    def fake(settings, teachers, faces, folder):
        seen.update(settings=settings, teachers=teachers, folder=folder)
        return result()

    monkeypatch.setattr(microexpnet, "run", fake)
    monkeypatch.setattr(run, "load", lambda source: {})
    words = ["microexpnet", "--smoke", "--data", "synthetic", "--models", "t.onnx", "--epochs", "3", "--seeds", "2"]
    files = ["--work", str(tmp_path), "--out", str(tmp_path / "r.json"), "--chart", str(tmp_path / "c.svg")]
    run.main([*words, *files])
    assert (seen["settings"].train.epochs, seen["settings"].seeds) == (3, (0, 1))
    assert seen["folder"] == tmp_path / "microexpnet"
    assert (tmp_path / "c.svg").read_text() == microexpnet.chart(result())
    assert capsys.readouterr().out.count("| --- |") == 2
    with pytest.raises(SystemExit):
        run.main(["leaks", "--chart", "x.svg"])
    assert "leaks has no chart" in capsys.readouterr().err
