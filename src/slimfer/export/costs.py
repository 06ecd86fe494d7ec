"""What each layer of a network costs as a file and on this machine: parameters, multiply-adds, bytes, milliseconds.

The layers are those of the artifact: convolutions and linear layers of the folded network (a batch normalization that
could not be folded is a convolution there). Times are onnxruntime's own, of its profile of the float artifact with
batch 1 on one thread; a layer's time includes the activation and the addition that were fused into it.
"""

import json
import re
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

from slimfer.errors import InputError
from slimfer.export.onnx import to_onnx
from slimfer.export.pack import stored_bits
from slimfer.model.complexity import complexity
from slimfer.model.fold import fold, layer_calls
from slimfer.runtime.session import SILENT
from slimfer.timing import interleave
from slimfer.train.checkpoint import Checkpoint

WARMUP = 10  # runs before those that count
MARK = "slimfer-layer-"
# What stands between a layer and the value that a runtime names after it.
BEHIND = ("Relu", "Clip", "Sigmoid", "LeakyRelu", "HardSigmoid", "Tanh")


def layer_costs(checkpoint: Checkpoint, bits: Sequence[int] = (), rounds: int = 100) -> dict[str, Any]:
    """Return what each layer of a float network costs, as JSON values.

    Keys: `layers`, rows with `name`, `kind`, `outputs`, `params`, `macs`, `bytes` (float32), their `*_share` of the
    sum over layers, `weight_bytes` (bits as text -> bytes of the weights in an artifact) and `latency_ms` (median of
    the runs; None if not measured); `other_ms`, the time of all operators that are no layer; `latency_ms`, of the whole
    network without the profiler, and `latency_note`, why there are no times, or empty.

    Args:
        checkpoint: a float network.
        bits: to give `weight_bytes` for.
        rounds: runs that are timed; 0 = none.
    """
    spec = checkpoint.spec
    graph = fold(checkpoint.build())
    cost = complexity(graph, spec.channels, spec.image)
    counted = [row for row in cost.layers if row.macs]
    times: Mapping[str, float] = {}
    told: dict[str, Any] = {"other_ms": None, "latency_ms": None, "latency_note": "not timed" if not rounds else ""}
    if rounds:
        try:
            times, told["other_ms"], told["latency_ms"] = profile(checkpoint, rounds)
        except InputError as error:  # what has no ONNX form can still be analyzed
            told["latency_note"] = str(error)
    sums = {key: max(1, sum(getattr(row, key) for row in counted)) for key in ("params", "macs")}
    all_ms = sum(times.values()) + (told["other_ms"] or 0.0)
    rows = []
    for row in counted:
        weights = graph.get_submodule(row.name).weight.numel()  # type: ignore[operator]
        ms = times.get(row.name)
        rows.append(
            {
                "name": row.name,
                "kind": row.kind,
                "outputs": row.shape[0],
                "params": row.params,
                "params_share": row.params / sums["params"],
                "macs": row.macs,
                "macs_share": row.macs / sums["macs"],
                "bytes": 4 * row.params,
                "bytes_share": row.params / sums["params"],
                "latency_ms": ms,
                "latency_share": None if ms is None else ms / all_ms,
                "weight_bytes": {str(b): round(weights * stored_bits(b) / 8) for b in bits},
            }
        )
    return {"layers": rows, **told}


def profile(checkpoint: Checkpoint, rounds: int) -> tuple[dict[str, float], float, dict[str, float]]:
    """Return milliseconds by layer (medians), those of all other operators, and the time of whole runs.

    Raises:
        InputError: if the network cannot be exported.
    """
    spec = checkpoint.spec
    layers = [str(node.target) for node in layer_calls(fold(checkpoint.build()))]
    model = onnx.load_from_string(to_onnx(checkpoint))
    _name_layers(model, len(layers))
    data = model.SerializeToString()
    picture = np.random.default_rng(0).integers(0, 256, (1, spec.channels, spec.image, spec.image), np.uint8)
    feed = {model.graph.input[0].name: picture}
    with tempfile.TemporaryDirectory() as folder:
        session = _session(data, Path(folder))
        for _ in range(WARMUP + rounds):
            session.run(None, feed)
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    times: dict[int, list[float]] = defaultdict(list)
    other: dict[str, list[float]] = defaultdict(list)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            found = re.search(rf"{MARK}(\d+)", event["name"])
            (times[int(found[1])] if found else other[event["name"]]).append(event["dur"] / 1000)
    per_layer: dict[str, float] = defaultdict(float)
    for number, spent in times.items():  # a layer that is called twice has two operators
        per_layer[layers[number]] += median(spent[WARMUP:])
    rest = sum(median(spent[WARMUP:]) for spent in other.values())
    return dict(per_layer), rest, _whole(data, feed, rounds)


def _name_layers(model: onnx.ModelProto, count: int) -> None:
    """Name the operator of each layer, and the values that a runtime may call it after, by the layer's number."""
    names: dict[str, str] = {}
    number = -1
    for node in model.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        behind = node.op_type in BEHIND and node.input[0].startswith(MARK)
        if node.op_type in ("Conv", "Gemm"):
            number += 1
            node.name = f"{MARK}{number}-layer"
        if node.op_type in ("Conv", "Gemm") or behind:
            own = f"{MARK}{number}" if not behind else node.input[0]
            names[node.output[0]] = f"{own}-{node.op_type}"
            node.output[0] = names[node.output[0]]
    assert number + 1 == count, (number, count)


def _session(data: bytes, profiles: Path | None = None) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = SILENT
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    if profiles:
        options.enable_profiling = True
        options.profile_file_prefix = str(profiles / "layers")
    return ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def _whole(data: bytes, feed: Mapping[str, Any], rounds: int) -> dict[str, float]:
    """Return the time of runs without the profiler, which has a price of its own."""
    session = _session(data)
    timing = interleave({"run": lambda: session.run(None, feed)}, rounds=rounds, min_time=0, warmup=WARMUP)
    return timing["run"].to_dict()
