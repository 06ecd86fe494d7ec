"""From a dense network and a budget to the best network within it: measure, plan, probe, try, choose.

1. What each part of the network loses when it alone is cut or rounded (`slimfer.compress.sensitivity`).
2. A plan (`slimfer.compress.search`) by a model of the costs (`slimfer.export.estimate`); its file is written without
   any training, and the model is corrected by what it really needs, until the file itself is within the limits.
3. Several such plans, each with another opinion of how much fine-tuning repairs: each is trained for a short while,
   and the one that reads best is the result.

Whatever was computed or measured is kept in the folder, so that a killed search goes on where it was and comes to the
same end. Without a limit of time, two searches with one seed choose the same plan to the last bit.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from math import log2
from pathlib import Path
from typing import Any

import numpy as np

from slimfer.compress.config import AnalyzeConfig, CompressConfig
from slimfer.compress.goal import SearchConfig
from slimfer.compress.pipeline import Stage, run_steps
from slimfer.compress.plan import PlannedStep
from slimfer.compress.search import Knob, Plan, loss_curve, search, smallest
from slimfer.compress.sensitivity import Sensitivity, Trial
from slimfer.data.frames import Dataset
from slimfer.data.splits import stratified
from slimfer.errors import InputError
from slimfer.export.estimate import LATENCY, SIZE, Estimate, Shapes, Values, fit_pace
from slimfer.export.probe import Measured, measure, probe, write_file
from slimfer.export.trials import Row, Trials
from slimfer.files import atomic_write, read_json, write_json
from slimfer.model.complexity import complexity
from slimfer.model.groups import channel_map
from slimfer.model.spec import NetSpec
from slimfer.train.checkpoint import Checkpoint
from slimfer.train.loop import Watcher

Steps = tuple[dict[str, Any], ...]
# The `[[steps]]` of a recipe -> the planned chain, and the tables that stand in its file.
Resolve = Callable[[Steps], tuple[tuple[PlannedStep, ...], dict[str, Any]]]
# How much the losses of cuts count, and limits (bytes, ms, multiply-adds) -> a plan whose file is within them.
Propose = Callable[[float, Values], Plan | None]

BESIDE = ("pareto", "controls")  # settings that decide nothing about what is found
# Nats for each halving of a width or of bits, over what was measured: where a sample sees no loss, or by chance a gain,
# what saves more still goes first, and nothing goes without need.
PRIOR = 1e-3
CORRECTIONS = 6  # probes of one proposal, at most
UNIFORM = (0.75, 0.5, 0.25)  # shares of channels of the files that latency is fitted to, besides the whole network


@dataclass(frozen=True)
class Tools:
    """What a search works with besides its settings.

    Attributes:
        dataset: `train` and `validation`.
        folder: for everything that is kept.
        resolve: makes chains of `[[steps]]`.
        device: `cpu` or `cuda`.
        watch: gives the watcher of a training, by name.
        tell: is given each row of the table of trials as soon as it is known.
        count: is told how many of the layer-wise trials are done, and of how many.
        sampled: is told the same of the samples of a study (`slimfer.export.sample`).
    """

    dataset: Dataset
    folder: Path
    resolve: Resolve
    device: str = "cpu"
    watch: Callable[[str], Watcher | None] = lambda name: None
    tell: Callable[[Row], None] = lambda row: None
    count: Callable[[int, int], None] = lambda done, total: None
    sampled: Callable[[int, int], None] = lambda done, total: None


class Seeker:
    """One search.

    Attributes:
        table: of trials.
        sizes: channels of each group of the dense network; after `outline`.
        calibration: the training pictures of the layer-wise trials; after `outline`.
    """

    def __init__(self, dense: Checkpoint, config: CompressConfig, goal: SearchConfig, tools: Tools) -> None:
        """Take the network to compress; nothing is computed yet.

        Args:
            dense: a trained float network.
            config: the settings of all steps; `slim.limits` for widths.
            goal: limits, and how to search.
            tools: see `Tools`.

        Raises:
            InputError: if the network is quantized, or the folder holds another search.
        """
        if dense.quant:
            raise InputError("the network is quantized already; search from the float network that it came from")
        self.dense, self.config, self.goal, self.tools = dense, config, goal, tools
        self.bounds = np.array(
            [limit or np.inf for limit in (goal.max_size, goal.max_latency, goal.max_mac)], dtype=np.float64
        )
        self._claim()
        self._ledger: dict[str, Any] = self._read("ledger.json", {})
        accuracy = self.once("accuracy", lambda: write_file(dense, tools.dataset["validation"], {})[1])
        self.table = Trials(self.bounds, accuracy, tools.tell, max_drop=goal.max_drop)
        self._sensitivity: list[Row] = []  # none before `prepare`
        self._estimate: Estimate
        self._fitting: dict[str, Plan] = {}  # plans of trials within the limits, by name

    # --- what parts of the network are worth -------------------------------------------------------------------------
    def prepare(self, parts: Sensitivity | None = None) -> None:
        """Measure sensitivities, and what the whole network needs with 8 bits; later steps need both.

        Args:
            parts: of `outline`, if that was called.
        """
        parts = parts or self.outline()
        done: list[Row] = self._read("sensitivity.json", [])
        known = [Trial(row["kind"], row["name"], row["value"]) for row in done]
        self.tools.count(len(done), len(parts.trials))
        for row in parts.run(known):
            done.append(row)
            write_json(self.tools.folder / "sensitivity.json", done)
            self.tools.count(len(done), len(parts.trials))
        self._sensitivity = done
        self._estimate = replace(self._estimate, knobs=self.knobs(self.goal.cut_loss))
        self._calibrate(self.whole())

    def outline(self) -> Sensitivity:
        """Find the parts that can be cut and rounded, and return them; what they are worth is not known yet."""
        goal, dataset = self.goal, self.tools.dataset
        seed = self.config.train.seed
        chosen = stratified(dataset["validation"].labels, goal.images or len(dataset["validation"]), seed)
        drawn = np.random.default_rng(seed).permutation(len(dataset["train"]))[: goal.calibration]
        settings = AnalyzeConfig(ratios=goal.ratios, bits=goal.bits, images=goal.images, calibration=goal.calibration)
        self.calibration = dataset["train"].take(np.sort(drawn))
        sample = dataset["validation"].take(chosen)
        parts = Sensitivity(self.dense, self.calibration, sample, settings, device=self.tools.device)
        self.sizes = {group.name: len(group.atoms) for group in parts.groups}
        net = self.dense.build()
        spec = self.dense.spec
        cost = complexity(net, spec.channels, spec.image)
        shapes = Shapes.of(channel_map(net, spec.channels, spec.image), parts.groups, cost)
        ends = dict.fromkeys((parts.layers[0], parts.layers[-1]), self.config.quantize.ends)
        self._open = tuple(name for name in parts.layers if name not in ends)
        self._estimate = Estimate(shapes, self.knobs(goal.cut_loss), ends)
        return parts

    def knobs(self, cut_loss: float) -> tuple[Knob, ...]:
        """Return what can be turned; the losses of cuts count by `cut_loss`."""
        limits, bits = self.config.slim.limits, tuple(sorted(set(self.goal.bits), reverse=True))
        knobs = []
        for name, size in self.sizes.items():
            widths = tuple(sorted({size, *(limits.keep(size, wanted) for wanted in range(size))}, reverse=True))
            losses = tuple(cut_loss * loss for loss in self._curve("cut", name, widths))
            knobs.append(Knob("cut", name, widths, losses))
        knobs += [Knob("bits", name, bits, self._curve("bits", name, bits)) for name in self._open]
        return tuple(knobs)

    def loss(self, plan: Plan) -> float:
        """Return the predicted loss of any plan, nats; its widths need not be rounded."""
        cuts = (self._curve("cut", name, (self.sizes[name], width))[1] for name, width in plan.keep.items())
        highest = max(self.goal.bits)
        rounded = (self._curve("bits", name, (highest, bits))[1] for name, bits in plan.bits.items())
        return self.goal.cut_loss * sum(cuts) + sum(rounded)

    def whole(self) -> Plan:
        """Return the plan that cuts nothing and rounds as little as may be."""
        return Plan(self.sizes, dict.fromkeys(self._open, max(self.goal.bits)))

    def uniform(self, share: float, bits: int) -> Plan:
        """Return the plan that cuts all groups alike, to `share` of their channels, with the same bits everywhere."""
        keep = {name: max(1, round(share * size)) for name, size in self.sizes.items()}
        return Plan(keep, dict.fromkeys(self._open, bits))

    def _curve(self, kind: str, name: str, values: tuple[int, ...]) -> tuple[float, ...]:
        """Return the loss of a group's widths or a layer's bits; of the first value it is 0."""
        rows = (row for row in self._sensitivity if (row["kind"], row["name"]) == (kind, name))
        found = {row["kept"] if kind == "cut" else int(row["value"]): row["nll_increase"] for row in rows}
        first = found.get(values[0], 0.0)
        measured = loss_curve({value: loss - first for value, loss in found.items()}, values)
        return tuple(loss + PRIOR * log2(values[0] / value) for loss, value in zip(measured, values, strict=True))

    # --- plans within the limits -------------------------------------------------------------------------------------
    def propose(self, cut_loss: float, bounds: Sequence[float] | Values | None = None) -> Plan | None:
        """Return the best plan whose file, written without training, is within the limits; None if there is none.

        Half of the margin is left for what training changes.

        Args:
            cut_loss: how much the losses of cuts count against those of rounding.
            bounds: bytes, milliseconds, multiply-adds; those of the goal by default.
        """
        limits = self.bounds if bounds is None else np.asarray(bounds, dtype=np.float64)
        whole = self.whole()  # which the model may be wrong about: its file says nothing of cuts and trainings
        if self.fits(whole, limits):
            return whole
        costs = self.costs(cut_loss)
        accepted: list[Plan] = []
        seen: list[Plan] = []
        for _ in range(CORRECTIONS):
            plan = search(costs.knobs, costs, limits * (1 - self.goal.margin))
            if plan is None:
                plan = smallest(costs.knobs)
            if plan in seen:
                break
            seen.append(plan)
            true, model = self.needs(plan), costs.of_plan(plan)
            if self.fits(plan, limits):
                accepted.append(plan)
            costs = replace(costs, rest=costs.rest + true[SIZE] - model[SIZE])
            if costs.pace is not None:
                costs = replace(costs, slower=costs.slower * true[LATENCY] / model[LATENCY])
        self._estimate = replace(costs, knobs=self._estimate.knobs)
        return min(accepted, key=lambda plan: plan.loss, default=None)

    def fits(self, plan: Plan, limits: Values) -> bool:
        """Return whether the file of a plan, written without training, leaves half of the margin of each limit."""
        return bool((self.needs(plan) <= limits * (1 - self.goal.margin / 2)).all())

    def needs(self, plan: Plan) -> Values:
        """Return bytes, milliseconds and multiply-adds of the file of a plan, written without training."""
        return _costs(self.probe(plan))

    def costs(self, cut_loss: float) -> Estimate:
        """Return the model of the costs as it is by now; its knobs have the losses that `cut_loss` gives."""
        return replace(self._estimate, knobs=self.knobs(cut_loss))

    def probe(self, plan: Plan) -> Measured:
        """Return what the file of a plan needs, written without training."""

        def now() -> Row:
            steps, tables = self.tools.resolve(self.steps(plan))
            return asdict(probe(self.dense, self.tools.dataset, steps, tables, rounds=self.goal.rounds))

        return Measured(**self.once(f"probe {plan_digest(plan)}", now))

    def steps(self, plan: Plan, epochs: int | None = None) -> Steps:
        """Return the chain that carries out a plan, as `[[steps]]` of a recipe.

        Args:
            plan: what to do.
            epochs: of each training; as [finetune] and [qat] say by default.
        """
        cut = {name: width for name, width in plan.keep.items() if width < self.sizes[name]}
        few = {name: bits for name, bits in plan.bits.items() if bits < 8}
        chain: list[dict[str, Any]] = []
        if cut:
            chain += [{"do": "cut", "keep": cut}, {"do": "finetune", **({"epochs": epochs} if epochs else {})}]
        chain.append({"do": "quantize", "bits": 8, "per_layer": few})
        if few:
            chain.append({"do": "qat", **({"train": {"epochs": epochs}} if epochs else {})})
        return tuple(chain)

    def expected_bytes(self, plan: Plan) -> float:
        """Return the size of a plan's file by the model."""
        return float(self._estimate.of_plan(plan)[SIZE])

    def _calibrate(self, whole: Plan) -> None:
        """Set what the model of the costs cannot know, by the file of the whole network; time, by several widths."""
        costs = self._estimate
        if np.isfinite(self.bounds[LATENCY]):
            plans = [whole, *(self.uniform(share, max(self.goal.bits)) for share in UNIFORM)]
            kept = np.concatenate([costs.values(plan)[0] for plan in plans])
            times = np.array([self.needs(plan)[LATENCY] for plan in plans])
            costs = replace(costs, pace=fit_pace(costs.features(kept), times))
        self._estimate = replace(costs, rest=float(self.needs(whole)[SIZE] - costs.of_plan(whole)[SIZE]))

    # --- trials ------------------------------------------------------------------------------------------------------
    def run(self, others: Mapping[str, Propose] | None = None) -> Plan:
        """Try several plans and return the best.

        Args:
            others: more ways to come to a plan, by the names of their trials.

        Raises:
            VerificationError: if no file is within the limits; the sentence names what binds, and how near one comes.
        """
        parts = self.outline()
        whole = self.whole()
        needed = self.attempt("whole", self.steps(whole))
        self.table.add("dense", "dense", self.describe(whole), needed)
        if self.table.exceeded(needed):
            self._check_smallest()
        self.prepare(parts)
        for number, cut_loss in enumerate(self.goal.weighings(), 1):
            self._try(f"trial-{number}", cut_loss, self.propose)
        for name, propose in (others or {}).items():
            self._try(name, self.goal.cut_loss, propose)
        fitting = [row for row in self.table.rows if row["name"] in self._fitting]
        if not fitting:
            raise self.table.failure()
        return self._fitting[self.table.choose(fitting)["name"]]

    def _try(self, name: str, cut_loss: float, propose: Propose) -> None:
        """Train one plan for a short while; another one if training made its file larger than the limits."""
        bounds = self.bounds
        for again in ("", "-again"):
            plan = propose(cut_loss, bounds)
            if plan is None:
                return self.table.skip(name + again, "dropped: no plan found within the limits", cut_loss=cut_loss)
            for earlier, known in self._fitting.items():
                if (known.keep, known.bits) == (plan.keep, plan.bits):
                    return self.table.skip(name + again, f"dropped: the same plan as {earlier}", cut_loss=cut_loss)
            measured = self.attempt(name + again, self.steps(plan, self.goal.trial_epochs))
            self.table.add("trial", name + again, self.describe(plan), measured, cut_loss=cut_loss)
            if not self.table.exceeded(measured):
                self._fitting[name + again] = plan
                return None
            bounds = self.bounds - np.maximum(0, _costs(measured) - self.needs(plan))
        return None

    def attempt(self, name: str, steps: Steps, *, start: NetSpec | None = None) -> Measured:
        """Run a chain in a folder of its own and measure its file, `model.onnx` there, the better one of integers."""
        folder = self.tools.folder / name
        planned, tables = self.tools.resolve(steps)

        def now() -> Row:
            stages: list[Stage] = run_steps(
                start or self.dense,
                self.tools.dataset,
                planned,
                folder,
                device=self.tools.device,
                watch=lambda step: self.tools.watch(f"{name} {step}"),
            )
            last, model, accuracy = self._better(stages, tables)
            atomic_write(folder / "model.onnx", model)
            return asdict(measure(model, last.checkpoint, rounds=self.goal.rounds, accuracy=accuracy))

        return Measured(**self.once(f"attempt {name} {_digest([step.settings() for step in planned])}", now))

    def without_loss(self, stages: Sequence[Stage]) -> list[Stage]:
        """Return a chain that ends in integers without its training as integers, if that lost accuracy."""
        if stages[-1].kind != "qat":  # there is nothing to compare, so nothing is read
            return list(stages)
        better = self._better(stages, {})[0].name
        if better == stages[-1].name:
            return list(stages)
        self.table.skip(stages[-1].name, f"dropped: reads worse than {better} before it")
        return list(stages[:-1])

    def _better(self, stages: Sequence[Stage], tables: dict[str, Any]) -> tuple[Stage, bytes, float]:
        """Return the stage of integers that reads best, of equals the first, its file, and its accuracy.

        Training as integers, above all a short one, may lose more than it gains.
        """
        ends = [stage for stage in stages if stage.kind in ("quantize", "qat")]
        files = [(end, *write_file(end.checkpoint, self.tools.dataset["validation"], tables)) for end in ends]
        return max(files, key=lambda file: file[2])

    def describe(self, plan: Plan) -> str:
        """Return a plan in words: the share of channels that stays, and the mean bits of a weight."""
        share = sum(plan.keep.values()) / max(1, sum(self.sizes.values()))
        kept, bits = self._estimate.values(plan)
        weights = self._estimate.shapes.pairs(kept) * self._estimate.shapes.weights
        return f"keep {100 * share:.0f} % of the channels, {np.average(bits, weights=weights):.1f} bits"

    def _check_smallest(self) -> None:
        """Refuse a budget that not even the smallest network meets, before anything is tried or trained."""
        plan = smallest(self._estimate.knobs)
        measured = self.probe(plan)
        if self.table.exceeded(measured):
            self.table.add("smallest", "smallest", self.describe(plan), measured)
            raise self.table.failure()

    # --- what is kept ------------------------------------------------------------------------------------------------
    def once(self, key: str, compute: Callable[[], Any]) -> Any:
        """Return what was computed under this key, now or before the process was killed."""
        if key not in self._ledger:
            self._ledger[key] = json.loads(json.dumps(compute()))
            write_json(self.tools.folder / "ledger.json", self._ledger)
        return self._ledger[key]

    def _read(self, name: str, empty: Any) -> Any:
        path = self.tools.folder / name
        return read_json(path) if path.exists() else empty

    def _claim(self) -> None:
        """Write what is searched, or check that the folder holds the same search."""
        # What may be lost decides nothing about the best network within other limits.
        beside = (*BESIDE, "max_drop") if self.goal.bounded else BESIDE
        settings = {name: value for name, value in asdict(self.goal).items() if name not in beside}
        if not self.goal.samples:  # so that a search from before there were studies goes on
            del settings["samples"]
        own = {"limits": asdict(self.config.slim.limits), "ends": self.config.quantize.ends}
        seed = self.config.train.seed
        identity = json.loads(json.dumps({"start": self.dense.digest(), "search": settings, "seed": seed, **own}))
        path = self.tools.folder / "search.json"
        if not path.exists():
            write_json(path, identity)
        elif read_json(path) != identity:
            raise InputError(f"{self.tools.folder} holds another search; use another --out, or --force to start again")


def plan_digest(plan: Plan) -> str:
    """Return what a plan is called in the ledger."""
    return _digest([plan.keep, plan.bits])


def _digest(value: Any) -> str:
    return sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def _costs(measured: Measured) -> Values:
    """Return what a file needs in the order of the limits."""
    return np.array([measured.bytes, measured.ms, measured.macs], dtype=np.float64)
