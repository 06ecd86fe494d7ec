"""A small results.json of each kind, made from real scores of made-up answers."""

import copy
import json

import numpy as np
import pytest

from slimfer.answers import examine
from slimfer.calibration import Calibration
from slimfer.labels import EMOTIONS
from slimfer.metrics import reliability, score
from slimfer.report.plots import charts
from slimfer.report.results import parse_results

COUNT = 140


def _probabilities(skill, seed):
    """Return those of a reader that is right in about `skill` of the pictures."""
    generator = np.random.default_rng(seed)
    labels = np.arange(COUNT) % len(EMOTIONS)
    probabilities = generator.dirichlet(np.ones(len(EMOTIONS)), COUNT)
    right = generator.random(COUNT) < skill
    probabilities[right, labels[right]] += 1
    return (probabilities / probabilities.sum(1, keepdims=True)).astype(np.float32)


def _answers(skill, seed):
    """Return a score dict and reliability rows of such a reader."""
    labels, probabilities = np.arange(COUNT) % len(EMOTIONS), _probabilities(skill, seed)
    return score(probabilities, labels, EMOTIONS), [list(row) for row in reliability(probabilities, labels)]


def _stage(name, title, runtime, skill, params, size, latency, throughput):
    scores, bins = _answers(skill, seed=0)
    return {
        "name": name,
        "title": title,
        "runtime": runtime,
        "scores": scores,
        "params": params,
        "macs": 25 * params,
        "activations": 1000,
        "bytes": size,
        "latency_ms": {"median": latency, "p95": 1.2 * latency, "best": 0.9 * latency},
        "throughput": throughput,
        "reliability": bins,
    }


def _curve(stage, epochs):
    keys = ("train/loss", "train/accuracy", "val/loss", "val/accuracy", "val/macro_f1", "lr")
    return {
        "stage": stage,
        "rows": [
            {"epoch": epoch, "time": 2.0 * epoch, **dict.fromkeys(keys, 0.1 + 0.01 * epoch)}
            for epoch in range(1, epochs + 1)
        ],
    }


def _layer(name, before, after):
    return {
        "name": name,
        "kind": "Conv2d",
        "out_before": before,
        "out_after": after,
        "params_before": 9 * before,
        "params_after": 9 * after,
        "macs_before": 900 * before,
        "macs_after": 900 * after,
    }


COMPRESS = {
    "format": 1,
    "kind": "compress",
    "model": "resnet18",
    "labels": list(EMOTIONS),
    "data": {"source": "synthetic", "train": 700, "validation": COUNT, "split": "validation"},
    "seed": 3,
    "machine": {"cpu": "A processor", "cores": 2, "bf16": True, "vnni": False},
    "versions": {"slimfer": "0.1.0", "torch": "2.13.0"},
    "recipe": {"ratio": 0.7, "bits": 8, "train": {"epochs": 4, "augment": {"flip": True}}, "nothing": None},
    "wall_seconds": 3725.0,
    "stages": [
        _stage("dense", "Dense, fp32, torch", "torch", 0.7, 6_288_103, 25_190_000, 6.9, 412.0),
        _stage("int8", "Slimmed, int8, onnxruntime", "onnxruntime", 0.6, 688_103, 503_800, 0.23, 6140.0),
    ],
    "layers": [_layer("conv1", 48, 12), _layer("layer1.0.conv1", 48, 48), _layer("layer4.1.conv2", 384, 31)],
    "curves": [_curve("train", 4), _curve("finetune", 1)],
    "checks": [
        {"name": "integer operators", "value": 21, "limit": 21, "passed": True, "note": "all of them"},
        {"name": "agreement", "value": 0.9, "limit": 0.98, "passed": False, "note": "top-1"},
    ],
    "artifact": {"path": "model.onnx", "bytes": 503_800, "sha256": "ab" * 32},
    "command": "slimfer compress resnet18 --data synthetic --out runs/first",
}


def examined(folder, seed=0, *, skills=(0.7, 0.6), shift=0):
    """Return COMPRESS with what `examine` adds, whose files it writes into the folder.

    Args:
        folder: of the run.
        seed: of the pictures and answers.
        skills: share of the pictures that each stage reads correctly.
        shift: turns the labels by some places.
    """
    generator = np.random.default_rng(seed)
    labels = (np.arange(COUNT) + shift) % len(EMOTIONS)
    results = copy.deepcopy(COMPRESS)
    answers = {row["name"]: _probabilities(skill, seed) for row, skill in zip(results["stages"], skills, strict=True)}
    for row in results["stages"]:
        row["scores"] = score(answers[row["name"]], labels, EMOTIONS)
    parts = examine(
        folder,
        answers,
        labels,
        EMOTIONS,
        images=generator.integers(0, 256, (COUNT, 1, 48, 48), dtype=np.uint8),
        names=[f"validation/{EMOTIONS[label]}/{i}.jpg" for i, label in enumerate(labels)],
        calibration=Calibration(1.5, 0.4),
    )
    return {**results, **parts}


STUDY = {
    **{key: COMPRESS[key] for key in ("format", "labels", "data", "seed", "machine", "versions", "command")},
    "kind": "study",
    "stages": [COMPRESS["stages"][0]],
    "trade_offs": [
        {"series": "slimming", "label": "70 %", "bytes": 1_500_000, "accuracies": [0.68]},
        {"series": "both", "label": "70 %, int8", "bytes": 395_000, "accuracies": [0.66, 0.68, 0.67]},
        {"series": "both", "label": "70 %, 4 bits", "bytes": 210_000, "accuracies": [0.6, 0.61]},
    ],
}

DISTILL = {
    **{key: COMPRESS[key] for key in ("format", "labels", "data", "seed", "machine", "versions", "command")},
    "kind": "distill",
    "model": "mobile",
    "stages": [
        {**_stage(name, name, "torch", skill, 80_000, 320_000, 1.0, 100.0), "latency_ms": None, "throughput": None}
        for name, skill in (("control", 0.4), ("T2-w0.5", 0.2), ("T8-w0.5", 0.5), ("T2-w0.9", 0.6))
    ],
    "sweep": [
        {"temperature": 2.0, "weight": 0.5, "accuracy": 0.2},
        {"temperature": 8.0, "weight": 0.5, "accuracy": 0.5},
        {"temperature": 2.0, "weight": 0.9, "accuracy": 0.6},
    ],
    "curves": [],
}

TRAIN = {
    "format": 1,
    "kind": "train",
    "model": "mobile",
    "labels": list(EMOTIONS),
    "stages": [{"name": "train", "title": "mobile"}],
    "curves": [_curve("train", 2)],
}


@pytest.fixture
def compressed():
    return copy.deepcopy(COMPRESS)


@pytest.fixture
def run(tmp_path):
    """A run folder with answers and pictures, and its results."""
    folder = tmp_path / "run"
    results = examined(folder)
    (folder / "results.json").write_text(json.dumps(results))
    return folder, results


@pytest.fixture
def studied():
    return copy.deepcopy(STUDY)


@pytest.fixture
def distilled():
    return copy.deepcopy(DISTILL)


@pytest.fixture(scope="session")
def drawn():
    """All charts of `compressed`, drawn once: they take a second."""
    return charts(parse_results(COMPRESS))


@pytest.fixture
def trained():
    return copy.deepcopy(TRAIN)
