"""From the stages of a compression to the artifact and to the numbers about every stage."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from slimfer.answers import examine
from slimfer.artifact import calibrated, open_artifact
from slimfer.calibration import Calibration, fit
from slimfer.compress.pipeline import Stage
from slimfer.data.frames import Frames
from slimfer.export.onnx import to_onnx
from slimfer.export.parity import Check, verify
from slimfer.files import atomic_write
from slimfer.metrics import reliability, score
from slimfer.model.complexity import Complexity, complexity
from slimfer.model.zoo import build
from slimfer.preprocess import normalize
from slimfer.runs import read_curve
from slimfer.runtime.session import Session
from slimfer.timing import interleave, rate
from slimfer.train.checkpoint import Checkpoint
from slimfer.train.evaluate import predict_logits, softmax

BATCH = 32  # of the throughput figures

Run = Callable[[npt.NDArray[np.uint8]], object]


@dataclass(frozen=True)
class Row:
    """One row of the stage table before it is timed: what it is, what it answers, how to run it."""

    name: str
    title: str
    runtime: str
    checkpoint: Checkpoint
    bytes: int
    probabilities: npt.NDArray[np.float32]
    run: Run


def deliver(
    stages: Sequence[Stage],
    validation: Frames,
    folder: Path,
    *,
    recipe: Mapping[str, Any],
    rounds: int = 30,
    pictures: bool = True,
    note: Callable[[str], None] = lambda line: None,
) -> tuple[dict[str, Any], tuple[Check, ...]]:
    """Write `folder/model.onnx`, measure every stage, verify the artifact; return parts of results.json and the checks.

    All stages are timed in one interleaved run on one thread, batch 1 and batch 32; the first stage is the control.

    Args:
        stages: of `slimfer.compress.pipeline.run_steps`, the last one is delivered.
        validation: the pictures that stages are scored on.
        folder: the run folder.
        recipe: the resolved settings, for the artifact's metadata.
        rounds: turns of each stage in the timing.
        pictures: keep the pictures that the report shows in the run's folder.
        note: told what is being done.
    """
    scored: list[Row] = []
    kinds = [stage.kind for stage in stages]
    for number, stage in enumerate(stages, 1):
        note(f"scoring {stage.name}")
        scored += _rows(stage, kinds[:number], validation)
    note("timing all stages, interleaved, one thread")
    rows = list(_timed(scored, validation, rounds))

    first, last = stages[0].checkpoint, stages[-1].checkpoint
    calibration = fit(scored[-1].probabilities, validation.labels)
    artifact = final_file(last, rows[-1]["scores"], recipe, calibration)
    rows[-1]["bytes"] = len(artifact)  # what ships is a little larger than its graph: it carries its own story
    path = folder / "model.onnx"
    atomic_write(path, artifact)
    note("verifying the artifact")
    # Integers have to beat the float network that they were made from; a float artifact has no such twin.
    twin = next(stage.checkpoint for stage in reversed(stages) if not stage.checkpoint.quant)
    checks = verify(path, last, validation, reference=twin if last.quant else None)
    parts = {
        "stages": rows,
        "layers": layer_changes(first, last),
        "curves": [{"stage": s.name, "rows": rows_} for s in stages if (rows_ := read_curve(s.folder))],
        "checks": [asdict(check) for check in checks],
        "artifact": {"path": path.name, "bytes": len(artifact), "sha256": open_artifact(path).sha256},
        **examine(
            folder,
            {row.name: row.probabilities for row in scored},
            validation.labels,
            validation.classes,
            images=validation.images,
            names=validation.names,
            calibration=calibration,
            pictures=pictures,
        ),
    }
    return parts, checks


def final_file(
    checkpoint: Checkpoint, scores: Mapping[str, Any], recipe: Mapping[str, Any], calibration: Calibration
) -> bytes:
    """Return the artifact as it ships: with its scores (all but the confusion matrix), recipe and calibration."""
    headline = {key: value for key, value in scores.items() if key != "confusion"}
    return calibrated(open_artifact(to_onnx(checkpoint, scores=headline, recipe=recipe)), calibration)


def layer_changes(before: Checkpoint, after: Checkpoint) -> list[dict[str, Any]]:
    """Return per convolution and linear layer what the cut changed: outputs, parameters, MACs."""
    costs = [_cost(checkpoint) for checkpoint in (before, after)]
    narrowed = {layer.name: layer for layer in costs[1].layers}
    changes = []
    for layer in costs[0].layers:
        if not layer.macs:
            continue
        now = narrowed[layer.name]
        changes.append(
            {
                "name": layer.name,
                "kind": layer.kind,
                "out_before": layer.shape[0],
                "out_after": now.shape[0],
                "params_before": layer.params,
                "params_after": now.params,
                "macs_before": layer.macs,
                "macs_after": now.macs,
            }
        )
    return changes


# Stages that are also run in onnxruntime, so that what the runtime brings is told from what the cut brings.
IN_RUNTIME = ("start", "train", "finetune", "dense", "quantize", "qat")

WORDS = {
    "slim": "slimmed",
    "prune": "pruned",
    "cut": "cut",
    "mask": "masked",
    "finetune": "fine-tuned",
    "finetune-sparse": "fine-tuned with penalty",
    "sparse": "trained sparse",
    "dense": "trained dense",
    "quantize": "quantized",
    "qat": "quantization-aware",
}


def title(kinds: Sequence[str], checkpoint: Checkpoint) -> str:
    """Return what a network went through, in words, and its arithmetic; a word that repeats is said once."""
    words = list(dict.fromkeys(WORDS[kind] for kind in kinds if kind in WORDS))
    if words and kinds[-1] in ("slim", "prune", "cut"):
        words.append("not yet fine-tuned")
    said = ", ".join(words) or "dense"
    return f"{said[0].upper()}{said[1:]}, {_arithmetic(checkpoint)}"


def _arithmetic(checkpoint: Checkpoint) -> str:
    if not checkpoint.quant:
        return "fp32"
    record = next(record for record in reversed(checkpoint.lineage) if record["step"] == "quantize")
    bits, activations = {record["bits"], *record["per_layer"].values()}, record["activations"]
    if bits == {activations}:
        return f"int{activations}"
    weights = f"{max(bits)}" if len(bits) == 1 else f"{min(bits)}- to {max(bits)}"
    return f"{weights}-bit weights, {activations}-bit activations"


def _rows(stage: Stage, kinds: Sequence[str], validation: Frames) -> Iterable[Row]:
    """Give the rows of one stage, after steps of `kinds`: float networks in torch, some in onnxruntime as well."""
    checkpoint = stage.checkpoint
    said = title(kinds, checkpoint)
    model = to_onnx(checkpoint)
    if not checkpoint.quant:
        probabilities = softmax(predict_logits(checkpoint.build(), validation))
        yield Row(stage.name, f"{said}, torch", "torch", checkpoint, len(model), probabilities, _torch_run(checkpoint))
    if stage.kind in IN_RUNTIME:
        session = Session(model)
        answers = session.run_all(validation.images)
        name = stage.name if checkpoint.quant else f"{stage.name}-onnx"
        yield Row(name, f"{said}, onnxruntime", "onnxruntime", checkpoint, len(model), answers, session.run)


def _torch_run(checkpoint: Checkpoint) -> Run:
    """Run as a user of torch would: eager, contiguous, one call per batch."""
    net = checkpoint.build()

    def run(images: npt.NDArray[np.uint8]) -> object:
        with torch.inference_mode():
            return torch.softmax(net(torch.from_numpy(normalize(images))), 1)

    return run


def _timed(rows: Sequence[Row], validation: Frames, rounds: int) -> Iterable[dict[str, Any]]:
    """Measure latency and throughput of all rows in one interleaved run, on one thread."""
    one, many = (
        np.ascontiguousarray(np.resize(validation.images, (n, *validation.images.shape[1:]))) for n in (1, BATCH)
    )
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        latency = interleave({row.name: _job(row.run, one) for row in rows}, rounds=rounds)
        batched = interleave({row.name: _job(row.run, many) for row in rows}, rounds=max(3, rounds // 4))
    finally:
        torch.set_num_threads(threads)
    for row in rows:
        cost = _cost(row.checkpoint)
        yield {
            "name": row.name,
            "title": row.title,
            "runtime": row.runtime,
            "scores": score(row.probabilities, validation.labels, validation.classes),
            "params": cost.params,
            "macs": cost.macs,
            "activations": cost.activations,
            "bytes": row.bytes,
            "latency_ms": latency[row.name].to_dict(),
            "throughput": rate(batched[row.name], BATCH),
            "reliability": [list(point) for point in reliability(row.probabilities, validation.labels)],
        }


def _job(run: Run, images: npt.NDArray[np.uint8]) -> Callable[[], object]:
    return lambda: run(images)


def _cost(checkpoint: Checkpoint) -> Complexity:
    """Count the structure; quantizers do not change it."""
    spec = checkpoint.spec
    return complexity(build(spec), spec.channels, spec.image)
