"""Read results.json with care, and compare its stages with the first one, the control."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from slimfer.errors import InputError
from slimfer.files import read_json

FORMAT = 1

# What a results.json of each kind must have at the top, and in each stage; all else may be absent.
REQUIRED: Mapping[str, tuple[str, ...]] = {
    "compress": ("model", "labels", "data", "recipe", "layers", "curves", "checks", "artifact", "command"),
    "train": ("model", "labels", "curves"),
    "slim": ("model", "labels", "curves"),
    "prune": ("model", "labels"),
    "dsd": ("model", "labels", "curves"),
    "quantize": ("model", "labels"),
    "distill": ("model", "labels", "curves", "sweep"),
    "evaluate": ("labels",),
    "bench": (),
    "study": ("labels", "trade_offs", "command"),
    "analysis": ("model", "labels", "data", "analysis", "command"),
}
STAGE_REQUIRED: Mapping[str, tuple[str, ...]] = {
    "compress": ("scores", "params", "macs", "bytes", "latency_ms", "throughput"),
    "distill": ("scores",),
    "evaluate": ("scores",),
    "bench": ("latency_ms",),
    "analysis": ("scores", "params", "macs", "bytes"),
}
SCORE_REQUIRED = ("accuracy", "macro_f1", "per_class", "n", "ci95", "confusion")
LAYER_REQUIRED = (
    "name", "kind", "out_before", "out_after", "params_before", "params_after", "macs_before", "macs_after",
)  # fmt: skip
CHECK_REQUIRED = ("name", "value", "limit", "passed", "note")
SWEEP_REQUIRED = ("temperature", "weight", "accuracy")
CHANGE_REQUIRED = ("lost", "gained", "difference", "ci95")
MISTAKE_REQUIRED = ("index", "name", "label", "predicted", "confidence", "before")
ISSUE_REQUIRED = ("index", "name", "label", "suggested", "probability", "self_confidence")
TRIAL_REQUIRED = ("name", "kind", "step", "why")
TRADE_OFF_REQUIRED = ("series", "label", "bytes", "accuracies")
ANALYSIS_REQUIRED = ("settings", "layers", "groups", "scales", "control", "cuts", "bits", "suggestion")


@dataclass(frozen=True)
class Stage:
    """One row of the result table; the first row is the control. Attributes are None where nothing was measured."""

    name: str
    title: str
    runtime: str | None = None
    scores: Mapping[str, Any] | None = None
    params: int | None = None
    macs: int | None = None
    activations: int | None = None
    bytes: int | None = None
    latency_ms: Mapping[str, float] | None = None
    throughput: float | None = None
    reliability: Sequence[tuple[float, float, int]] = ()

    @property
    def accuracy(self) -> float | None:
        """Return the accuracy, 0-1."""
        return None if self.scores is None else float(self.scores["accuracy"])

    @property
    def median_ms(self) -> float | None:
        """Return the median batch-1 latency in milliseconds."""
        return None if self.latency_ms is None else float(self.latency_ms["median"])


@dataclass(frozen=True)
class Results:
    """One results.json: `stages` as objects, everything else as the JSON has it (absent parts empty)."""

    kind: str
    stages: tuple[Stage, ...]
    data: Mapping[str, Any]

    @property
    def labels(self) -> tuple[str, ...]:
        """Return the class names in the order of the outputs."""
        return tuple(self.data.get("labels", ()))

    @property
    def layers(self) -> Sequence[Mapping[str, Any]]:
        """Return one row per layer: what it had before and after."""
        return tuple(self.data.get("layers", ()))

    @property
    def curves(self) -> Sequence[Mapping[str, Any]]:
        """Return one `{"stage", "rows"}` per training."""
        return tuple(self.data.get("curves", ()))

    @property
    def checks(self) -> Sequence[Mapping[str, Any]]:
        """Return the verifications of the artifact."""
        return tuple(self.data.get("checks", ()))

    @property
    def trade_offs(self) -> Sequence[Mapping[str, Any]]:
        """Return points of accuracy against bytes: `{"series", "label", "bytes", "accuracies"}`, one value per seed."""
        return tuple(self.data.get("trade_offs", ()))

    @property
    def sweep(self) -> Sequence[Mapping[str, float]]:
        """Return the students of a distillation: `{"temperature", "weight", "accuracy"}`."""
        return tuple(self.data.get("sweep", ()))

    @property
    def change(self) -> Mapping[str, Any] | None:
        """Return what the last stage reads differently from the first (`slimfer.mistakes.paired_change`)."""
        return self.data.get("change")

    @property
    def calibration(self) -> Mapping[str, float] | None:
        """Return the temperature and threshold of what ships, and its calibration error without and with them."""
        return self.data.get("calibration")

    @property
    def first(self) -> Stage:
        """Return the control."""
        return self.stages[0]

    @property
    def last(self) -> Stage:
        """Return the final result."""
        return self.stages[-1]


def load_results(path: Path | str) -> Results:
    """Read and check a results.json.

    Raises:
        InputError: if the file is missing, not JSON, of a newer format, or lacks a key, naming file and key.
    """
    return parse_results(read_json(path), str(path))


def parse_results(data: Any, where: str = "results") -> Results:
    """Check the value of a results.json; `where` begins the messages.

    Raises:
        InputError: see `load_results`.
    """
    if not isinstance(data, Mapping):
        raise InputError(f"{where}: not an object but a {type(data).__name__}")
    _need(data, ("format", "kind", "stages"), where)
    if not isinstance(data["format"], int):
        raise InputError(f"{where}: format {data['format']!r} is not a number")
    if data["format"] > FORMAT:
        raise InputError(f"{where}: format {data['format']} is newer than this slimfer reads ({FORMAT}); please update")
    kind = data["kind"]
    if kind not in REQUIRED:
        raise InputError(f"{where}: unknown kind {kind!r}; known are {', '.join(REQUIRED)}")
    _need(data, REQUIRED[kind], where)
    if not data["stages"]:
        raise InputError(f"{where}: stages is empty")
    parts = {
        "layers": LAYER_REQUIRED,
        "checks": CHECK_REQUIRED,
        "curves": ("stage", "rows"),
        "trade_offs": TRADE_OFF_REQUIRED,
        "trials": TRIAL_REQUIRED,
        "sweep": SWEEP_REQUIRED,
        "mistakes": MISTAKE_REQUIRED,
    }
    for part, keys in parts.items():
        for index, row in enumerate(data.get(part, ())):
            _need(row, keys, f"{where}: {part}[{index}]")
    _check_errors(data, where)
    if kind == "analysis":
        _need(data["analysis"], ANALYSIS_REQUIRED, f"{where}: analysis")
    stages = [_stage(row, kind, f"{where}: stages[{i}]") for i, row in enumerate(data["stages"])]
    return Results(kind, _told_apart(stages), data)


def _check_errors(data: Mapping[str, Any], where: str) -> None:
    """Check what `slimfer.answers.examine` gave, as far as it is there."""
    parts = {
        "change": ("from", "to", "n", "per_class", *CHANGE_REQUIRED),
        "calibration": ("temperature", "threshold", "ece_before", "ece_after", "n"),
        "label_issues": ("count", "rows"),
        "answers": ("sha256", "stages", "sha256_pictures", "sha256_names"),
        "pictures": ("sha256", "index"),
    }
    for part, keys in parts.items():
        if data.get(part) is not None:
            _need(data[part], keys, f"{where}: {part}")
    per_class = (data.get("change") or {}).get("per_class", {})
    _need(per_class, (), f"{where}: change.per_class")
    for name, row in per_class.items():
        _need(row, ("support", *CHANGE_REQUIRED), f"{where}: change.per_class[{name!r}]")
    for index, row in enumerate((data.get("label_issues") or {"rows": ()})["rows"]):
        _need(row, ISSUE_REQUIRED, f"{where}: label_issues.rows[{index}]")


def _stage(row: Any, kind: str, where: str) -> Stage:
    _need(row, ("name", "title", *STAGE_REQUIRED.get(kind, ())), where)
    if row.get("scores") is not None:
        _need(row["scores"], SCORE_REQUIRED, f"{where}.scores")
    if row.get("latency_ms") is not None:
        _need(row["latency_ms"], ("median", "p95", "best"), f"{where}.latency_ms")
    known = {name: row[name] for name in Stage.__dataclass_fields__ if name in row}
    return Stage(**known)


def _told_apart(stages: Sequence[Stage]) -> tuple[Stage, ...]:
    """Return the stages with their names behind those titles that several have, as after fine-tuning twice."""
    titles = [stage.title for stage in stages]
    return tuple(
        replace(stage, title=f"{stage.title} ({stage.name})") if titles.count(stage.title) > 1 else stage
        for stage in stages
    )


def _need(value: Any, keys: Sequence[str], where: str) -> None:
    if not isinstance(value, Mapping):
        raise InputError(f"{where}: not an object but a {type(value).__name__}")
    for key in keys:
        if key not in value:
            raise InputError(f"{where}: the key {key!r} is missing")


def size_ratio(results: Results, stage: Stage) -> float | None:
    """Return how many times smaller the stage's file is than the control's."""
    return _ratio(results.first.bytes, stage.bytes)


def speed_ratio(results: Results, stage: Stage) -> float | None:
    """Return how many times faster the stage answers one picture than the control (medians)."""
    return _ratio(results.first.median_ms, stage.median_ms)


def points_lost(results: Results, stage: Stage) -> float | None:
    """Return the percentage points of accuracy that the stage lacks against the control; negative if it has more."""
    if results.first.accuracy is None or stage.accuracy is None:
        return None
    return 100 * (results.first.accuracy - stage.accuracy)


def _ratio(control: float | None, value: float | None) -> float | None:
    return None if not control or not value else control / value
