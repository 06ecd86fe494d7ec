"""`slimfer analyze`."""

import csv
import hashlib
import io
import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Group, Parameter

from slimfer.cli.classifier import from_checkpoint, require_split
from slimfer.cli.common import Answer, Common, note, table
from slimfer.cli.flags import (
    Data,
    Force,
    Out,
    RecipeFile,
    Resume,
    Votes,
    base_recipe,
    default_of,
    numbers,
    over_data,
    override,
)
from slimfer.cli.progress import Pace, showing
from slimfer.cli.record import describe_data, document, finish
from slimfer.cli.resolve import load_checkpoint
from slimfer.cli.start import name_start
from slimfer.cli.steps import Step, open_step
from slimfer.compress.config import AnalyzeConfig
from slimfer.errors import InputError
from slimfer.files import write_text
from slimfer.recipes import ModelRecipe

_DEFAULT = AnalyzeConfig()

# Columns of results.csv, one row per trial; `slimfer.compress.sensitivity.ROW` says what they mean.
TRIAL_COLUMNS = (
    "kind", "name", "value", "kept", "channels", "params", "macs", "weight_bytes", "sqnr_db", "accuracy", "drop",
    "drop_low", "drop_high", "nll", "nll_increase", "nll_increase_se", "same", "logits_sqnr_db",
)  # fmt: skip
# Columns of layers.csv, one row per layer; `slimfer.export.costs.layer_costs` says what they mean.
LAYER_COLUMNS = (
    "name", "kind", "group", "outputs", "params", "params_share", "macs", "macs_share", "bytes", "bytes_share",
    "latency_ms", "latency_share",
)  # fmt: skip


@Parameter(name="*", group=Group("Trials", sort_key=60))
@dataclass(frozen=True)
class AnalyzeFlags:
    """Flags over the recipe's [analyze] table.

    Attributes:
        ratios: shares of its channels that each group loses, e.g. 0.25,0.5,0.75,0.9.
        bits: bits that each layer's weights get, e.g. 8,6,4,3,2.
        images: validation pictures that every trial reads; 0 is all.
        calibration: training pictures for BN statistics and corrections.
        keep_statistics: leave the BN statistics behind a cut as they are.
        rounds: runs whose layers are timed; 0 is no timing.
        tolerance: nats that the suggested bits may add in sum.
    """

    ratios: str | None = None
    bits: str | None = None
    images: Annotated[int | None, default_of(_DEFAULT, "images")] = None
    calibration: Annotated[int | None, default_of(_DEFAULT, "calibration")] = None
    keep_statistics: bool = False
    rounds: Annotated[int | None, default_of(_DEFAULT, "rounds")] = None
    tolerance: Annotated[float | None, default_of(_DEFAULT, "tolerance")] = None

    def over(self, config: AnalyzeConfig) -> AnalyzeConfig:
        """Return `config` with the flags that were given over it.

        Raises:
            InputError: if one is out of range.
        """
        bits = numbers("--bits", self.bits)
        if bits and any(number != int(number) for number in bits):
            raise InputError(f"--bits takes whole numbers, not {self.bits!r}")
        return override(
            config,
            ratios=numbers("--ratios", self.ratios),
            bits=None if bits is None else tuple(int(number) for number in bits),
            images=self.images,
            calibration=self.calibration,
            recalibrate=False if self.keep_statistics else None,
            rounds=self.rounds,
            tolerance=self.tolerance,
        )


def analyze(
    model: str | None = None,
    /,
    *,
    out: Out,
    data: Data = None,
    recipe: RecipeFile = None,
    votes: Votes = None,
    resume: Resume = False,
    force: Force = False,
    trials: AnalyzeFlags = AnalyzeFlags(),
    common: Common = Common(),
) -> Answer:
    """See what each layer costs, and what is lost when it alone is cut or rounded.

    Args:
        model: a run folder or a checkpoint of a float network; of a run that ends in integers, its last float network.
        out: see flags.
        data: see flags.
        recipe: see flags.
        votes: see flags.
        resume: see flags.
        force: see flags.
        trials: see `AnalyzeFlags`.
        common: see `Common`.
    """
    base = base_recipe(recipe, out, resume=resume)
    seed = base.train.seed if common.seed is None else common.seed
    resolved = replace(
        base,
        data=over_data(base.data, data, votes),
        model=_float_start(name_start(base.model, model), common),
        train=replace(base.train, seed=seed),
        analyze=trials.over(base.analyze),
    )
    with open_step(resolved, ("analyze",), out, common, seed=seed, resume=resume, force=force) as step:
        results = _results(step, resolved.analyze, seed, common)
        return _finish(step, results)


def _float_start(start: ModelRecipe, common: Common) -> ModelRecipe:
    """Return what to analyze: of a run that ends in integers the last float network on its way, if it holds one."""
    from slimfer.train.checkpoint import Checkpoint

    stages = Path(start.checkpoint) / "stages"
    if not (start.checkpoint and stages.is_dir()) or not load_checkpoint(start.checkpoint).quant:
        return start
    on_the_way = {
        int(found[1]): path
        for path in stages.glob("*/result.safetensors")
        if (found := re.match(r"(\d+)-", path.parent.name))
    }
    for _, path in sorted(on_the_way.items(), reverse=True):
        if not Checkpoint.load(path).quant:
            if not common.quiet:
                note(f"{start.checkpoint} ends in integers; analyzing its last float network, {path}")
            return replace(start, checkpoint=str(path))
    return start


def _results(step: Step, config: AnalyzeConfig, seed: int, common: Common) -> dict[str, Any]:
    """Run the trials that are left and return results.json."""
    from slimfer.compress.sensitivity import Sensitivity, Trial
    from slimfer.compress.slim import scale_distribution
    from slimfer.compress.surgery import channels_of
    from slimfer.data.splits import stratified
    from slimfer.export.costs import layer_costs
    from slimfer.export.deliver import layer_changes
    from slimfer.metrics import score

    checkpoint, train = step.checkpoint, step.dataset["train"]
    classifier = from_checkpoint(step.tables["model"]["checkpoint"], checkpoint, step.device)
    validation = require_split(step.dataset, "validation", classifier)
    index = stratified(validation.labels, config.images or len(validation), seed)
    sample = validation.take(index)
    calibration = train.take(stratified(train.labels, config.calibration, seed))
    sensitivity = Sensitivity(checkpoint, calibration, sample, config, device=step.device)
    decisive = {name: value for name, value in asdict(config).items() if name != "tolerance"}
    key = _key(checkpoint.digest(), decisive, sample.images, sample.labels, calibration.images)
    journal = Journal(step.run.path / "stages" / "trials.jsonl", key)
    if not journal.rows:
        journal.add({"costs": layer_costs(checkpoint, config.bits, config.rounds)})
    done = {Trial(row["kind"], row["name"], row["value"]): row for row in journal.rows[1:]}
    with showing(common) as show:
        pace = Pace(show, len(sensitivity.trials), "trials", done=len(done))
        for row in sensitivity.run(done):
            journal.add(row)
            done[Trial(row["kind"], row["name"], row["value"])] = row
            pace.step()
    costs = journal.rows[0]["costs"]
    rows = [done[trial] for trial in sensitivity.trials]
    full = replace(checkpoint, spec=replace(checkpoint.spec, widths={}))
    scores = score(classifier.probabilities(sample), sample.labels, sample.classes)
    title = f"{checkpoint.spec.builder}, float"
    stage = classifier.stage(name="float", title=title, scores=scores, latency_ms=costs["latency_ms"])
    groups = [
        {"name": g.name, "layers": list(g.layers), "channels": len(g.atoms), "criterion": g.criterion}
        for g in sensitivity.groups
    ]
    return document(
        step.run,
        "analysis",
        [stage],
        model=checkpoint.spec.builder,
        labels=list(checkpoint.labels),
        data={**describe_data(step.tables["data"]["source"], step.dataset), "sample": len(sample)},
        recipe=step.tables,
        lineage=list(checkpoint.lineage),
        layers=layer_changes(full, checkpoint) if checkpoint.spec.widths else [],
        analysis={
            "settings": {**asdict(config), "images": len(sample), "calibration": len(calibration), "seed": seed},
            **_with_groups(costs, groups),
            "groups": groups,
            "scales": scale_distribution(channels_of(checkpoint, checkpoint.build())),
            "control": next((row for row in rows if row["kind"] == "control"), None),
            "cuts": [row for row in rows if row["kind"] == "cut"],
            "bits": [row for row in rows if row["kind"] == "bits"],
            "suggestion": _suggestion(rows, costs["layers"], config),
        },
    )


def _with_groups(costs: Mapping[str, Any], groups: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the costs with the name of the group of channels that each layer makes, or None."""
    made = {layer: group["name"] for group in reversed(groups) for layer in group["layers"]}
    return {**costs, "layers": [{**row, "group": made.get(row["name"])} for row in costs["layers"]]}


def _suggestion(
    rows: Sequence[Mapping[str, Any]], layers: Sequence[Mapping[str, Any]], config: AnalyzeConfig
) -> dict[str, Any]:
    """Return the bits that cost least, in order, and the lines of a recipe that sets those within the tolerance."""
    import glob

    from slimfer.compress.suggest import order_bits, within
    from slimfer.toml import to_toml

    sizes = {row["name"]: {int(bits): size for bits, size in row["weight_bytes"].items()} for row in layers}
    losses: dict[str, dict[int, float]] = {}
    for row in rows:
        if row["kind"] == "bits":
            losses.setdefault(row["name"], {})[int(row["value"])] = row["nll_increase"]
    changes = order_bits(losses, sizes)
    found = within(changes, config.tolerance)
    chosen = {name: found[name] for name in losses if name in found}
    last = [change for change in changes if change.total <= config.tolerance][-1:]
    most = max(config.bits, default=8)
    before = sum(sizes[name][most] for name in losses)
    patterns = {glob.escape(name): bits for name, bits in chosen.items()}
    return {
        "tolerance": config.tolerance,
        "per_layer": chosen,
        "bytes_before": before,
        "bytes": last[0].bytes if last else before,
        "loss": last[0].total if last else 0.0,
        "recipe": to_toml({"quantize": {"bits": most, "per_layer": patterns}}) if chosen else "",
        "order": [{**asdict(change), "loss_per_kb": change.loss_per_kb} for change in changes],
    }


def _finish(step: Step, results: dict[str, Any]) -> Answer:
    """Write results.json, the tables and the page."""
    from slimfer.report.analysis import analysis_told, overview_table, suggestion_told
    from slimfer.report.page import write_report

    data, run = results["analysis"], step.run
    sizes = {row["name"]: row["weight_bytes"] for row in data["layers"]}
    trials = [
        {
            **row,
            "drop_low": row["drop_ci95"][0],
            "drop_high": row["drop_ci95"][1],
            "weight_bytes": sizes[row["name"]][str(int(row["value"]))] if row["kind"] == "bits" else None,
        }
        for row in (*([data["control"]] if data["control"] else []), *data["cuts"], *data["bits"])
    ]
    write_text(run.path / "results.csv", _csv(TRIAL_COLUMNS, trials))
    write_text(run.path / "layers.csv", _csv(LAYER_COLUMNS, data["layers"]))
    source = step.tables["data"]["source"]
    overview, suggestion = overview_table(data), data["suggestion"]
    words = ["slimfer", "quantize", step.tables["model"]["checkpoint"], "--data", source, "--out", f"{run.path}-int8"]
    if suggestion["recipe"]:
        write_text(run.path / "bits.toml", suggestion["recipe"])
        words[3:3] = ["--recipe", str(run.path / "bits.toml")]
    answer = finish(run, results, shlex.join(words))
    return replace(
        answer,
        view=(
            table(overview.header, overview.rows, numeric=overview.numeric),
            "points of accuracy lost; groups of channels stand at their first layer",
            *answer.view,
            analysis_told(data),
            suggestion_told(suggestion),
            *([suggestion["recipe"].rstrip()] if suggestion["recipe"] else []),
            f"report: {write_report(run.path)}",
        ),
    )


def _csv(columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> str:
    stream = io.StringIO()
    writer = csv.DictWriter(stream, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def _key(*parts: Any) -> str:
    """Return a hash of everything that decides the trials."""
    found = hashlib.sha256()
    for part in parts:
        found.update(part.tobytes() if hasattr(part, "tobytes") else json.dumps(part, sort_keys=True).encode())
    return found.hexdigest()


class Journal:
    """Results one by one in a file, so that a killed run loses at most the one that it was at.

    Attributes:
        rows: all results so far.
    """

    def __init__(self, path: Path, key: str) -> None:
        """Go on with the file, or begin it; `key` stands for all that decides the results.

        Raises:
            InputError: if the file is of another key.
        """
        self.path, self.rows = path, list[dict[str, Any]]()
        text = path.read_bytes() if path.exists() else b""
        whole = text[: text.rfind(b"\n") + 1]  # a kill may have left half a line
        if not whole:
            write_text(path, json.dumps({"key": key}) + "\n")
            return
        head, *rows = (json.loads(line) for line in whole.splitlines())
        if head["key"] != key:
            raise InputError(f"{path} has trials of another network, data or settings; --force starts afresh")
        if whole != text:
            write_text(path, whole.decode())
        self.rows = rows

    def add(self, row: dict[str, Any]) -> None:
        """Append one result."""
        with open(self.path, "a", encoding="utf-8") as stream:
            stream.write(json.dumps(row, allow_nan=False) + "\n")
        self.rows.append(row)
