"""Proof that an artifact answers as the network it was written from, with integers, smaller and faster.

An exporter that succeeds says nothing: a quantizer in the wrong place leaves convolutions in float (slower than
before), a wrong scale changes answers. So the file itself is measured: operators as onnxruntime runs them, answers by
several routes (here, without graph optimization, in a fresh process without torch, in OpenVINO where it is installed),
bytes against the bits of the weights, bytes and time against its float reference.

Answers are compared as centred log-probabilities, which are the logits up to the constant that softmax ignores. They
never agree to the last digit (onnxruntime's own answers change by units of the last integer between optimization
levels), hence the signal-to-noise ratio in dB and the share of equal labels.
"""

import importlib.util
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from torch import fx

from slimfer.artifact import Artifact, open_artifact
from slimfer.data.frames import Frames
from slimfer.errors import InputError, VerificationError
from slimfer.export.onnx import to_onnx
from slimfer.export.pack import stored_bits
from slimfer.metrics import sqnr_db
from slimfer.model.placing import quant_layers
from slimfer.model.quant import ActivationQuantizer, QuantConv2d, QuantLinear
from slimfer.runtime.openvino import OpenVinoSession
from slimfer.runtime.session import SILENT, Session
from slimfer.timing import interleave
from slimfer.train.checkpoint import Checkpoint
from slimfer.train.evaluate import predict_logits

UNOPTIMIZED_IMAGES = 512  # without graph optimization a picture takes many times longer

# What the file may need beyond its weights: per channel (scale, bias), per layer and quantizer (operators and their
# constants), for the operators that expand packed weights; and its metadata.
SLACK = 1.1
CHANNEL_BYTES, LAYER_BYTES, PACKING_BYTES = 8, 160, 1500

# OpenVINO computes scales in another order, and when it may fuse it leaves roundings out (`slimfer.runtime.openvino`).
OPENVINO_DB, FUSED_DB, FUSED_AGREEMENT = 5.0, 15.0, 0.1
# Without graph optimization onnxruntime multiplies floats: values half-way between two steps fall either way, and with
# activations of few bits a step is large. Measured: 33 to 36 dB and the same label for 99.8 %.
FLOATS_DB = 5.0

Logits = npt.NDArray[np.float32]

FRESH = """
import sys
import numpy as np
from slimfer.runtime.session import Session
model, images, answers = sys.argv[1:]
session, pictures = Session(model), np.load(images)
np.save(answers, session.run_all(pictures))
assert "torch" not in sys.modules, "the runtime imported torch"
"""


@dataclass(frozen=True)
class Check:
    """One measured property of an artifact.

    Attributes:
        name: what was measured.
        value: the measurement.
        limit: what it has to reach (at least, unless the note says otherwise).
        passed: whether it did.
        note: unit and circumstances.
    """

    name: str
    value: float
    limit: float
    passed: bool
    note: str


def verify(
    model: str | Path | bytes,
    checkpoint: Checkpoint,
    frames: Frames,
    *,
    reference: Checkpoint | None = None,
    min_sqnr: float | None = None,
    min_agreement: float = 0.99,
    min_smaller: float = 1.0,
    min_faster: float = 1.0,
    rounds: int = 30,
) -> tuple[Check, ...]:
    """Measure an artifact against the network that it was written from.

    Args:
        model: the artifact.
        checkpoint: what it was written from.
        frames: pictures to compare the answers on.
        reference: a float network that the artifact must beat in bytes and in time; None leaves these checks out.
        min_sqnr: dB, against the torch network; 35 for integers and 80 for floats by default. Without optimization and
            in OpenVINO 5 less will do, and 15 less where OpenVINO fuses.
        min_agreement: share of pictures with the same label; 0.1 less where OpenVINO fuses.
        min_smaller: bytes of the reference's artifact divided by the artifact's, to be exceeded.
        min_faster: its median batch-1 latency divided by the artifact's, one thread, to be exceeded.
        rounds: of the interleaved timing.

    Raises:
        InputError: if the artifact cannot be opened, or there are no pictures.
    """
    if not len(frames):
        raise InputError("there are no pictures to verify the artifact on")
    artifact = open_artifact(model)
    net = checkpoint.build()
    checks: list[Check] = []
    if checkpoint.quant:
        assert isinstance(net, fx.GraphModule)
        checks += [*_integer_checks(artifact, net), _stored(artifact, net)]
    limit = min_sqnr if min_sqnr is not None else 35.0 if checkpoint.quant else 80.0
    logits = predict_logits(net, frames)
    few = np.linspace(0, len(frames) - 1, min(len(frames), UNOPTIMIZED_IMAGES)).astype(np.int64)
    part = frames.images[few]
    plain, fused = (limit, min_agreement), (limit - FUSED_DB, min_agreement - FUSED_AGREEMENT)
    checks += _agreement("", logits, Session(artifact).run_all(frames.images), *plain)
    unoptimized = Session(artifact, optimize=False).run_all(part)
    checks += _agreement(", unoptimized", logits[few], unoptimized, limit - FLOATS_DB, min_agreement)
    checks += _agreement(", fresh process", logits, _fresh_process(artifact, frames), *plain)
    if importlib.util.find_spec("openvino"):
        exact = OpenVinoSession(artifact, optimize=False).run_all(part)
        checks += _agreement(", OpenVINO", logits[few], exact, limit - OPENVINO_DB, min_agreement)
        checks += _agreement(", OpenVINO fused", logits[few], OpenVinoSession(artifact).run_all(part), *fused)
    if reference is not None:
        checks += _savings(artifact, reference, frames, min_smaller, min_faster, rounds)
    return tuple(checks)


def require(checks: Sequence[Check]) -> None:
    """Return if every check passed.

    Raises:
        VerificationError: naming those that did not, with value and limit.
    """
    failed = [f"{c.name} is {c.value:.4g} (limit {c.limit:.4g}, {c.note})" for c in checks if not c.passed]
    if failed:
        raise VerificationError(f"the artifact failed {len(failed)} of {len(checks)} checks: {'; '.join(failed)}")


def operators(artifact: Artifact) -> Counter[str]:
    """Return how often each operator stands in the graph that onnxruntime makes of the artifact and runs."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "optimized.onnx"
        options = ort.SessionOptions()
        options.log_severity_level = SILENT
        options.optimized_model_filepath = str(path)
        ort.InferenceSession(artifact.data, options, providers=["CPUExecutionProvider"])
        return Counter(node.op_type for node in onnx.load(path).graph.node)


def centred(probabilities: Logits) -> Logits:
    """Return the logits (N, K) that give these probabilities and have mean 0."""
    logs = np.log(np.maximum(probabilities, np.finfo(np.float32).tiny))
    return logs - logs.mean(1, keepdims=True)


def _integer_checks(artifact: Artifact, net: fx.GraphModule) -> list[Check]:
    """Count the layers that run as integer operations."""
    layers = [layer.module for layer in quant_layers(net)]
    found = operators(artifact)
    checks = []
    for name, kind, integer, words in (
        ("convolutions in integers", QuantConv2d, "QLinearConv", ("Conv",)),
        ("linear layers in integers", QuantLinear, "QGemm", ("Gemm", "MatMul")),
    ):
        total = sum(isinstance(layer, kind) for layer in layers)
        in_float = sum(n for op, n in found.items() if op != integer and any(word in op for word in words))
        passed = found[integer] == total and in_float == 0
        checks.append(Check(name, found[integer], total, passed, f"{in_float} in float, as onnxruntime runs them"))
    return checks


def _stored(artifact: Artifact, net: fx.GraphModule) -> Check:
    """Compare the size of the file with the bits of its weights."""
    layers = {layer.module for layer in quant_layers(net)}
    quantizers = sum(isinstance(module, ActivationQuantizer) for module in net.modules())
    weights = sum(layer.weight.numel() * stored_bits(int(layer.weight_bits)) / 8 for layer in layers)
    told = sum(len(key) + len(value.encode()) + 8 for key, value in artifact.metadata.items())
    channels = sum(len(layer.weight) for layer in layers)
    rest = told + CHANNEL_BYTES * channels + LAYER_BYTES * (len(layers) + quantizers) + PACKING_BYTES
    bits = 8 * weights / sum(layer.weight.numel() for layer in layers)
    note = f"bytes at most; {bits:.2f} bits per weight, and {rest} bytes for everything else"
    size, limit = len(artifact.data), SLACK * weights + rest
    return Check("stored in its bits", size, limit, size <= limit, note)


def _agreement(
    route: str, logits: Logits, probabilities: Logits, min_sqnr: float, min_agreement: float
) -> tuple[Check, Check]:
    noise = sqnr_db(logits - logits.mean(1, keepdims=True), centred(probabilities))
    same = float((logits.argmax(1) == probabilities.argmax(1)).mean())
    note = f"against torch, {len(logits)} pictures"
    return (
        Check(f"signal to noise{route}", noise, min_sqnr, noise >= min_sqnr, f"dB, {note}"),
        Check(f"same label{route}", same, min_agreement, same >= min_agreement, f"share, {note}"),
    )


def _fresh_process(artifact: Artifact, frames: Frames) -> Logits:
    """Return the probabilities that a new process without torch computes from the file."""
    with tempfile.TemporaryDirectory() as folder:
        model, images, answers = (Path(folder) / name for name in ("model.onnx", "images.npy", "answers.npy"))
        model.write_bytes(artifact.data)
        np.save(images, frames.images)
        command = [sys.executable, "-c", FRESH, str(model), str(images), str(answers)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise VerificationError(f"the artifact does not run in a fresh process: {reason}")
        return np.load(answers)


def _savings(
    artifact: Artifact, reference: Checkpoint, frames: Frames, min_smaller: float, min_faster: float, rounds: int
) -> tuple[Check, Check]:
    control = to_onnx(reference)
    one = frames.images[:1]
    before, after = Session(control), Session(artifact)
    times = interleave({"reference": lambda: before.run(one), "artifact": lambda: after.run(one)}, rounds=rounds)
    smaller = len(control) / len(artifact.data)
    faster = times["reference"].median_ms / times["artifact"].median_ms
    sizes = f"times, {len(control)} and {len(artifact.data)} bytes"
    latencies = f"times, {times['reference'].median_ms:.3f} and {times['artifact'].median_ms:.3f} ms"
    return (
        Check("smaller than float", smaller, min_smaller, smaller > min_smaller, sizes),
        Check("faster than float", faster, min_faster, faster > min_faster, latencies),
    )
