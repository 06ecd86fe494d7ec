import json
import random
from dataclasses import replace

import numpy as np
import pytest
import torch

from bench import control, dsd, inference, leaks, quantization, run, slimming_controls, trade_offs, train_speed
from slimfer.compress.config import DsdConfig, Limits, SlimConfig
from slimfer.compress.quantize import RANGES
from slimfer.data.synthetic import synthetic
from slimfer.export.onnx import to_onnx
from slimfer.labels import EMOTIONS
from slimfer.model.spec import NetSpec
from slimfer.train.checkpoint import Checkpoint
from slimfer.train.config import AugmentConfig, TrainConfig
from slimfer.train.loop import initial

STILL = AugmentConfig(flip=False, rotate=0, shift=0, scale=0, light=0, erase=0)


@pytest.fixture(autouse=True)
def same_threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def face(side=48):
    return np.random.default_rng(0).integers(0, 256, (1, side, side), np.uint8)


def test_the_control_without_augmentation_only_normalizes():
    x = control.transform(control.picture(face()), STILL)
    assert torch.allclose(x, torch.from_numpy(face()).float() / 127.5 - 1, atol=1e-6)


def test_the_control_shifts_by_what_it_says(monkeypatch):
    """With every draw at its upper end, a shift of 1/8 moves the picture by 6 of 48 pixels, right and down."""
    monkeypatch.setattr(random, "uniform", lambda low, high: high)
    x = control.transform(control.picture(face()), AugmentConfig(**{**vars(STILL), "shift": 0.125}))
    still = control.transform(control.picture(face()), STILL)
    assert torch.allclose(x[:, 6:, 6:], still[:, :-6, :-6], atol=0.02)


def test_the_control_turns_about_the_centre(monkeypatch):
    monkeypatch.setattr(random, "uniform", lambda low, high: high)
    x = control.transform(control.picture(face()), AugmentConfig(**{**vars(STILL), "rotate": 90}))
    still = control.transform(control.picture(face()), STILL)
    assert torch.allclose(x[0], torch.rot90(still[0], -1), atol=0.02)


def test_the_control_erases_a_rectangle():
    random.seed(1)
    x = control.transform(control.picture(face()), AugmentConfig(**{**vars(STILL), "erase": 1.0}))
    rows, columns = np.nonzero((x[0] == 0).numpy())
    assert 0.01 < len(rows) / x[0].numel() < 0.25
    assert len(rows) == (np.ptp(rows) + 1) * (np.ptp(columns) + 1)


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # on a machine with one core
@pytest.mark.parametrize("workers", [0, 2])
def test_the_control_learns(workers):
    """One batch, again and again: the loss of the plain loop must fall."""
    spec = NetSpec("mobile", args={"width": 0.25})
    frames = train_speed._noise(32, spec)
    net = train_speed.build(spec)
    x, labels = torch.from_numpy(frames.images).float() / 127.5 - 1, torch.from_numpy(frames.labels)
    config = train_speed.TrainConfig(epochs=1, batch_size=16, lr=0.05, label_smoothing=0.0, augment=STILL)

    def loss():
        with torch.no_grad():
            return float(torch.nn.functional.cross_entropy(net(x), labels))

    before = loss()
    moments = [moment for _ in range(4) for moment in control.train_steps(net, frames, config, workers)]
    assert len(moments) == 8
    assert moments == sorted(moments)
    assert loss() < before


def test_train_speed_has_a_row_for_everyone_and_ratios_to_the_fastest_control(tmp_path, capsys):
    out = tmp_path / "speed.json"
    run.main(["train_speed", "--smoke", "--out", str(out)])
    result = json.loads(out.read_text())
    rows = {row["contestant"]: row for row in result["rows"]}
    assert list(rows) == ["control, 0 workers", "slimfer, fp32", "slimfer"]
    assert rows["control, 0 workers"]["ratio"] == 1
    for row in rows.values():
        assert 0 < row["lowest"] <= row["images_per_s"] <= row["highest"]
        share = 6 * row["macs"] * row["images_per_s"] / (1e9 * row["matrix_gflops"])
        assert row["matrix_share"] == pytest.approx(share)
    assert rows["slimfer"]["ratio"] == rows["slimfer"]["images_per_s"] / rows["control, 0 workers"]["images_per_s"]
    assert result["machine"]["cpu"] in capsys.readouterr().out


def test_inference_puts_the_control_first(tmp_path, capsys):
    checkpoint = initial(NetSpec("mobile", args={"width": 0.25}), EMOTIONS, seed=0)
    checkpoint.save(tmp_path / "dense.safetensors")
    (tmp_path / "model.onnx").write_bytes(to_onnx(checkpoint))
    out = tmp_path / "inference.json"
    models = [str(tmp_path / "model.onnx")]
    run.main(
        [
            "inference",
            "--smoke",
            "--control",
            str(tmp_path / "dense.safetensors"),
            "--out",
            str(out),
            "--models",
            *models,
        ]
    )
    rows = json.loads(out.read_text())["rows"]
    assert [row["contestant"] for row in rows] == ["control: float, torch", "1: model"]
    assert (rows[0]["smaller"], rows[0]["faster"]) == (1, 1)
    assert rows[1]["bytes"] == (tmp_path / "model.onnx").stat().st_size
    assert rows[1]["faster"] == rows[0]["latency_ms"]["median"] / rows[1]["latency_ms"]["median"]
    assert "| 1: model |" in capsys.readouterr().out


def test_inference_without_models_is_refused(capsys):
    with pytest.raises(SystemExit) as stopped:
        run.main(["inference"])
    assert stopped.value.code == 2
    assert "--control CHECKPOINT" in capsys.readouterr().err


def test_torch_and_artifact_do_the_same_work():
    """The contestants must agree in what they compute, or the comparison means nothing."""
    checkpoint = initial(NetSpec("mobile", args={"width": 0.25}), EMOTIONS, seed=0)
    images = inference._noise(4, 1, 48)
    answer = inference._torch_job(checkpoint.build(), images)()
    assert np.allclose(answer.numpy(), inference.Session(to_onnx(checkpoint)).run(images), atol=1e-5)


def test_slimming_controls_have_the_parameters_of_the_slimmed_net():
    faces = synthetic(n_train=128, n_validation=64, n_test=7, seed=1)
    dense = initial(NetSpec("resnet18", args={"width": 0.125}), faces["train"].classes, seed=0, gamma=0.5)
    settings = slimming_controls.Settings(
        slim=SlimConfig(ratio=0.5, limits=Limits(), recalibrate=1), finetune=TrainConfig(epochs=1, batch_size=32)
    )
    result = slimming_controls.run(settings, dense, faces, note=lambda line: None)
    names = [row["name"] for row in result["rows"]]
    assert names[0] == "dense"
    controls = [slimming_controls.NAMES[criterion] for criterion in ("l1", "fpgm", "taylor", "random")]
    assert names[1:] == ["network slimming", *controls, "slimmed net from scratch"]
    params = [row["params"] for row in result["rows"][1:]]
    assert max(params) < 1.03 * min(params) < params[0] * 1.1
    assert slimming_controls.table(result).rows[0][-1] == "–"


@pytest.fixture(scope="module")
def few():
    return synthetic(n_train=64, n_validation=32, n_test=7, seed=1)


@pytest.fixture(scope="module")
def narrow(few):
    return initial(NetSpec("resnet18", args={"width": 0.125}), few["train"].classes, seed=0, gamma=0.5)


ONE = TrainConfig(epochs=1, batch_size=32, lr=0.01)


def test_quantization_names_every_way_and_starts_with_float(few, narrow, tmp_path):
    settings = quantization.Settings(32, (4,), (("lsq", "lsq", 4, 8), ("lsq", "pact", 2, 4)), ONE)
    result = quantization.run(settings, narrow, few, tmp_path)
    first, *others = result["rows"]
    assert (first["name"], first["agreement"]) == ("float", 1.0)
    plain = [row for row in others if row["name"] == "after training"]
    assert {row["way"] for row in plain if row["bits"] == row["activations"] == 8} >= set(RANGES)
    assert max(row["sqnr_db"] for row in plain if row["bits"] == 4) < max(row["sqnr_db"] for row in plain)
    trained = [(row["way"], row["bits"], row["activations"]) for row in others if row["name"] == "quantization-aware"]
    assert trained == [("lsq, lsq", 4, 8), ("lsq, pact", 2, 4)]


def test_dsd_and_its_control_train_as_long_at_the_same_rates(few, narrow, tmp_path):
    settings = dsd.Settings((0.5,), (0, 1), DsdConfig(sparse=ONE, dense=replace(ONE, lr=0.001)))
    result = dsd.run(settings, narrow, few, tmp_path)
    assert [(row["name"], row["sparsity"]) for row in result["rows"]] == [
        ("start", None), ("control, no masks", None), ("dense-sparse-dense", 0.5)
    ]  # fmt: skip
    for seed in (0, 1):
        ends = ("control/2-dense", "0.5/3-dense")
        ways = [Checkpoint.load(tmp_path / f"seed{seed}-{end}" / "result.safetensors").lineage for end in ends]
        rates = [[(r["config"]["lr"], r["config"]["epochs"]) for r in line if r["step"] != "mask"] for line in ways]
        assert rates[0] == rates[1] == [(0.01, 1), (0.001, 1)]
    assert dsd.table(result).rows[1][-1] == "+0.00"


def test_trade_offs_are_points_of_files_with_all_seeds_where_chosen(few, narrow, tmp_path):
    narrow.save(tmp_path / "dense.safetensors")
    settings = trade_offs.Settings((0.5,), (0.5,), (0, 1), (8, 4), (8,), ONE, ONE, orders=True)
    teachers = [str(tmp_path / "dense.safetensors")]
    result = trade_offs.run(settings, narrow, teachers, few, tmp_path / "work", "again")
    points = {(point["series"], point["label"]): point for point in result["trade_offs"]}
    assert {series for series, _ in points} == {
        trade_offs.SLIM, trade_offs.INTEGERS, trade_offs.BOTH, trade_offs.TAUGHT, trade_offs.ORDERS
    }  # fmt: skip
    for series in (trade_offs.BOTH, trade_offs.TAUGHT):
        eight, four = (points[series, f"50 % cut, {bits} bits"] for bits in (8, 4))
        assert eight["seeds"] == four["seeds"] == [0, 1]
        assert four["bytes"] < eight["bytes"] < points[trade_offs.SLIM, "50 % cut"]["bytes"]
    assert len(trade_offs.table(result).rows) == len(points)
    assert points[trade_offs.SLIM, "0 % cut"]["bytes"] == result["stages"][0]["bytes"]
    assert trade_offs.run(settings, narrow, teachers, few, tmp_path / "work", "again") == result


def test_leaks_are_the_validation_pictures_that_training_has():
    faces = synthetic(n_train=40, n_validation=20, n_test=7, seed=1)
    train, validation = faces["train"], faces["validation"]
    shown = replace(validation, images=np.concatenate([train.images[:5], validation.images[5:]]))
    model = to_onnx(initial(NetSpec("mobile", args={"width": 0.25}), train.classes, seed=0))
    rows = leaks.run([model], {"train": train, "validation": shown})["rows"]
    assert [row["n"] for row in rows] == [20, 5, 15]
    hits = [round(row["accuracy"] * row["n"]) for row in rows]
    assert hits[0] == hits[1] + hits[2]
