import numpy as np
import pytest

from slimfer.artifact import open_artifact
from slimfer.compress.config import Limits, QuantizeConfig, SlimConfig
from slimfer.compress.pipeline import Stage
from slimfer.compress.quantize import quantize
from slimfer.compress.slim import slim
from slimfer.data.synthetic import synthetic
from slimfer.export.deliver import deliver, layer_changes, title
from slimfer.metrics import score
from slimfer.model.complexity import complexity
from slimfer.model.spec import NetSpec
from slimfer.runtime.session import Session
from slimfer.train.loop import initial


@pytest.fixture(scope="module")
def faces():
    return synthetic(n_train=64, n_validation=32, n_test=7, seed=5)


@pytest.fixture(scope="module")
def chain(faces, tmp_path_factory):
    folder = tmp_path_factory.mktemp("stages")
    dense = initial(NetSpec("resnet18", args={"width": 0.125}), faces["train"].classes, seed=0, gamma=0.5)
    slimmed = slim(dense, SlimConfig(ratio=0.5, limits=Limits(), recalibrate=1), faces["train"])
    integers = quantize(slimmed, faces["train"], QuantizeConfig(images=32))
    made = (("start", dense), ("1-slim", slimmed), ("2-quantize", integers))
    return [Stage(name, name.partition("-")[2] or name, folder, checkpoint) for name, checkpoint in made]


@pytest.fixture(scope="module")
def delivered(chain, faces, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    return folder, *deliver(chain, faces["validation"], folder, recipe={"seed": 0}, rounds=2)


def test_every_stage_has_its_row_and_the_dense_net_is_the_control(delivered, chain):
    folder, parts, _ = delivered
    rows = parts["stages"]
    assert [row["runtime"] for row in rows] == ["torch", "onnxruntime", "torch", "onnxruntime"]
    assert len({row["name"] for row in rows}) == len(rows)
    for row, stage in ((rows[0], chain[0]), (rows[2], chain[1])):
        cost = complexity(stage.checkpoint.build(), 1, 48)
        assert (row["params"], row["macs"]) == (cost.params, cost.macs)
    assert rows[3]["params"] == rows[2]["params"]
    assert rows[0]["bytes"] > rows[2]["bytes"] > rows[3]["bytes"] > 0
    assert rows[3]["bytes"] == parts["artifact"]["bytes"] == (folder / "model.onnx").stat().st_size
    assert all(row["latency_ms"]["best"] <= row["latency_ms"]["median"] and row["throughput"] > 0 for row in rows)


def test_titles_say_what_a_network_went_through(chain, faces):
    dense, slimmed, integers = (stage.checkpoint for stage in chain)
    assert title(["start"], dense) == "Dense, fp32"
    assert title(["start", "slim"], slimmed) == "Slimmed, not yet fine-tuned, fp32"
    kinds = ["start", "slim", "finetune", "slim", "finetune", "quantize"]
    assert title(kinds, integers) == "Slimmed, fine-tuned, quantized, int8"
    few = quantize(slimmed, faces["train"], QuantizeConfig(bits=4, images=32))
    mixed = quantize(slimmed, faces["train"], QuantizeConfig(bits=8, per_layer={"layer4.*": 3}, images=32))
    assert title(["start", "slim"], mixed).endswith("3- to 8-bit weights, 8-bit activations")
    assert title(["start", "slim", "qat"], few) == "Slimmed, quantization-aware, 4-bit weights, 8-bit activations"


def test_the_artifact_is_what_was_scored_and_tells_its_scores(delivered, faces):
    folder, parts, checks = delivered
    artifact = open_artifact(folder / "model.onnx")
    assert parts["artifact"] == {"path": "model.onnx", "bytes": len(artifact.data), "sha256": artifact.sha256}
    assert artifact.recipe == {"seed": 0}
    validation = faces["validation"]
    probabilities = Session(artifact).run_all(validation.images)
    expected = score(probabilities, validation.labels, validation.classes)
    assert parts["stages"][-1]["scores"] == expected
    assert artifact.scores["accuracy"] == expected["accuracy"]
    assert {"smaller than float", "faster than float"} <= {check.name for check in checks}


def test_a_float_artifact_has_no_float_twin_to_beat(chain, faces, tmp_path):
    _, checks = deliver(chain[:2], faces["validation"], tmp_path, recipe={}, rounds=1)
    assert not any("float" in check.name for check in checks)
    assert all(check.passed for check in checks)


def test_layer_changes_add_up_to_the_networks(chain):
    changes = layer_changes(chain[0].checkpoint, chain[1].checkpoint)
    for when, stage in (("before", chain[0]), ("after", chain[1])):
        cost = complexity(stage.checkpoint.build(), 1, 48)
        assert sum(change[f"macs_{when}"] for change in changes) == cost.macs
    assert np.all([change["out_after"] <= change["out_before"] for change in changes])
