"""The part of `slimfer compress` that looks for the best network within a budget, and shows every trial as it ends."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Group, Parameter

from slimfer.cli.common import Answer, Common, table, torch_device
from slimfer.cli.flags import default_of, override
from slimfer.cli.progress import Pace, Watch, showing
from slimfer.cli.record import describe_data, document
from slimfer.compress.goal import SearchConfig
from slimfer.compress.plan import PlannedStep
from slimfer.errors import InputError, VerificationError
from slimfer.files import atomic_folder, write_text
from slimfer.recipes import Recipe
from slimfer.report.trials import cells, line, trial_table
from slimfer.runs import RunFolder

if TYPE_CHECKING:
    from slimfer.compress.pipeline import Stage
    from slimfer.compress.search import Plan
    from slimfer.data.frames import Dataset
    from slimfer.export.seek import Seeker
    from slimfer.model.spec import NetSpec
    from slimfer.train.checkpoint import Checkpoint

_GOAL = SearchConfig()
BUDGETS = "--max-size, --max-latency, --max-mac or --max-drop"


@Parameter(name="*", group=Group("Search", sort_key=45))
@dataclass(frozen=True)
class SearchFlags:
    """How a network within a budget is searched.

    Attributes:
        trials: plans that are trained for a short while and compared; with --max-drop alone, sizes trained in full
            between the last that loses little enough and the first that loses too much.
        samples: networks that are really cut and rounded, untrained, to find what single parts do not tell, for one
            more trial and for --pareto; 0 = none. Needs Optuna: pip install 'slimfer[search]'.
        trial_epochs: epochs of each training in a trial; the best one is then trained as [finetune] and [qat] say.
        cut_loss: share of a cut's loss that is left after fine-tuning; smaller cuts more and rounds less.
        pareto: also train the best networks of 1, 1/2, 1/4, ... of the 8-bit size: RUN/pareto, a table and a chart.
        controls: also train what the search has to beat at the same bytes: uniform widths, the same from scratch.
    """

    trials: Annotated[int | None, default_of(_GOAL, "trials")] = None
    samples: Annotated[int | None, default_of(_GOAL, "samples")] = None
    trial_epochs: Annotated[int | None, default_of(_GOAL, "trial_epochs")] = None
    cut_loss: Annotated[float | None, default_of(_GOAL, "cut_loss")] = None
    pareto: bool = False
    controls: bool = False

    def over(self, goal: SearchConfig) -> SearchConfig:
        """Return the search with the flags that were given over its settings.

        Raises:
            InputError: if samples are wanted without a limit of cost, or without Optuna.
        """
        from slimfer.compress.study import load

        extras = {name: True for name in ("pareto", "controls") if getattr(self, name)}
        numbers = {name: getattr(self, name) for name in ("trials", "samples", "trial_epochs", "cut_loss")}
        asked = override(goal, **numbers, **extras)
        if asked.samples and not asked.bounded:
            raise InputError("samples need a limit of cost: --max-size, --max-latency or --max-mac")
        if asked.samples:
            load()
        return asked

    def refuse_without_budget(self) -> None:
        """Refuse flags that only a search reads.

        Raises:
            InputError: if one was given.
        """
        given = [
            name.replace("_", "-") for name, value in vars(self).items() if value is not None and value is not False
        ]
        if given:
            raise InputError(f"--{given[0]} needs a budget to search for: {BUDGETS}")


@dataclass(frozen=True)
class Found:
    """What a search found.

    Attributes:
        recipe: an ordinary recipe with the chain that leads there.
        start: the dense network, where the last part of that chain begins.
        before: the stages until then, if the dense network was trained here.
        plan: widths and bits.
        seeker: the search.
        trained: folder with the last part of the chain, if the search has trained it in full.
    """

    recipe: Recipe
    start: "Checkpoint"
    before: "tuple[Stage, ...]"
    plan: "Plan"
    seeker: "Seeker"
    trained: Path | None = None

    def adopt(self, folder: Path) -> None:
        """Make what the search has trained in full the stages of the run, unless they are there already."""
        if self.trained is None or folder.exists():
            return
        with atomic_folder(folder) as temporary:
            shutil.copytree(self.trained, temporary, dirs_exist_ok=True, ignore=shutil.ignore_patterns("model.onnx"))

    def shortened(self, stages: "Sequence[Stage]") -> "tuple[Found, list[Stage]]":
        """Return it and its stages without a last training as integers that lost accuracy."""
        kept = self.seeker.without_loss(stages)
        steps = self.recipe.steps[: len(self.recipe.steps) - len(stages) + len(kept)]
        return replace(self, recipe=replace(self.recipe, steps=steps)), kept

    def beside(self, run: RunFolder, parts: Mapping[str, Any]) -> dict[str, Any]:
        """Train the front and the controls that were asked for; return the search's own parts of results.json.

        Args:
            run: the run.
            parts: of results.json, as `deliver` returns them.
        """
        from slimfer.export.beside import controls, front, point, sizes
        from slimfer.export.probe import Measured
        from slimfer.export.sample import Sampled

        goal, seeker, last = self.seeker.goal, self.seeker, parts["stages"][-1]
        final = Measured(
            bytes=parts["artifact"]["bytes"],
            ms=last["latency_ms"]["median"],
            macs=last["macs"],
            params=last["params"],
            accuracy=last["scores"]["accuracy"],
        )
        cut_loss = next(row for row in seeker.table.rows if row["kept"])["parameter"]["cut_loss"]
        seeker.table.add("final", "final", seeker.describe(self.plan), final, kept=True, cut_loss=cut_loss)
        found = point("searched", seeker.describe(self.plan), final)
        points = [found | {"file": parts["artifact"]["path"]}]
        if goal.pareto:
            propose = Sampled(seeker, sizes(seeker)[1:]) if goal.samples else seeker.propose
            points += front(seeker, cut_loss, run.path / "pareto", propose)
        if goal.controls:
            points += controls(seeker, self.plan, final)
        if goal.pareto:
            _write_front(run.path / "pareto", points, parts["stages"][0])
        return {"trials": seeker.table.rows, **({"trade_offs": points} if len(points) > 1 else {})}

    def shown(self, answer: Answer) -> Answer:
        """Return the answer with the table of trials before everything else."""
        trials = trial_table(self.seeker.table.rows)
        return replace(answer, view=(table(trials.header, trials.rows, numeric=trials.numeric), "", *answer.view))

    def explained(self, failure: VerificationError, broken: Sequence[str]) -> VerificationError:
        """Return the failure of checks; for limits that are `broken`, with the room left and what is near."""
        trials = self.seeker.table
        told = [str(failure), trials.room(), trials.nearest()] if broken else [str(failure)]
        return VerificationError("; ".join(part for part in told if part))


def search_steps(recipe: Recipe) -> "tuple[PlannedStep, ...]":
    """Return steps of all kinds that a search may take, for the tables that decide what it does."""
    return tuple(PlannedStep(kind, recipe.chain()) for kind in ("train", "slim", "cut", "finetune", "quantize", "qat"))


def seek(
    run: RunFolder,
    recipe: Recipe,
    start: "Checkpoint | NetSpec",
    dataset: "Dataset",
    *,
    tables_of: Callable[[Recipe, tuple[PlannedStep, ...]], dict[str, Any]],
    common: Common,
    tell: Callable[[str], None],
) -> Found | Answer:
    """Search the best network within the recipe's budget; train the dense one first, if it is not trained.

    Args:
        run: the run.
        recipe: with a budget.
        start: the dense network, or the spec of one to train.
        dataset: `train` and `validation`.
        tables_of: gives the tables of a recipe that decide what the steps do.
        common: the flags.
        tell: is given lines for people.

    Returns:
        What was found, or the answer that nothing fits.
    """
    from slimfer.compress.pipeline import run_steps
    from slimfer.export.least import smallest
    from slimfer.export.sample import Sampled
    from slimfer.export.seek import Seeker, Tools
    from slimfer.model.spec import NetSpec

    device, folder = torch_device(common), run.path / "search"
    before: tuple[Stage, ...] = ()
    first: tuple[dict[str, Any], ...] = ()

    def resolve(steps: Sequence[dict[str, Any]]) -> "tuple[tuple[PlannedStep, ...], dict[str, Any]]":
        """Plan a chain; in its recipe the training of the dense network comes first, where it belongs to it."""
        prefix = () if steps[0]["do"] == "train" else first
        whole = replace(recipe, steps=(*prefix, *steps))
        planned = whole.plan(trained=True)
        return planned[len(prefix) :], tables_of(whole, planned)

    with showing(common) as show:
        if isinstance(start, NetSpec):
            first = ({"do": "train"},)
            planned = replace(recipe, steps=first).plan(trained=False)
            before = tuple(
                run_steps(
                    start, dataset, planned, folder / "dense", device=device, watch=lambda name: Watch(show, run, name)
                )
            )
            start = before[-1].checkpoint
        table_begun = False

        def show_row(row: dict[str, Any]) -> None:
            nonlocal table_begun
            for text in ([] if table_begun else [line()]) + [line(cells(row))]:
                run.log(text)
                show.epoch(text)
            table_begun = True

        def counter(title: str, what: str) -> Callable[[int, int], None]:
            """Return what shows how many things of one kind are done; counting may begin anew."""
            pace: list[Pace] = []

            def count(done: int, total: int) -> None:
                if not pace or done < pace[0].done:
                    tell(title)
                    pace[:] = [Pace(show, total, what, done=done)]
                elif pace[0].done < done:
                    pace[0].step()

            return count

        parts = counter(
            "measuring what each part of the network loses when it is cut or rounded", "trials of single parts"
        )
        sampled = counter("cutting and rounding many parts at once, to find what single ones do not tell", "samples")
        tools = Tools(dataset, folder, resolve, device, lambda name: Watch(show, run, name), show_row, parts, sampled)
        seeker = Seeker(start, recipe.chain(), recipe.search, tools)
        trained: Path | None = None
        try:
            if recipe.search.bounded:
                plan = seeker.run({"sampled": Sampled(seeker, [seeker.bounds])} if recipe.search.samples else {})
            else:
                least = smallest(seeker)
                plan, trained = least.plan, folder / least.name
        except VerificationError as failure:
            return _nothing(run, recipe, seeker, dataset, failure)
    found = replace(recipe, steps=(*first, *seeker.steps(plan)), search=_GOAL)
    return Found(found, start, before, plan, seeker, trained)


def _write_front(folder: Path, points: Sequence[Mapping[str, Any]], control: Mapping[str, Any]) -> None:
    """Write the front's table and charts beside its files."""
    from slimfer.report.front import front_csv, front_latency
    from slimfer.report.plots import trade_offs
    from slimfer.report.results import Stage

    write_text(folder / "front.csv", front_csv(points))
    write_text(folder / "size.svg", trade_offs(points, Stage("dense", "dense", scores=control["scores"])))
    write_text(folder / "latency.svg", front_latency(points, control["scores"]["accuracy"]))


def _nothing(
    run: RunFolder, recipe: Recipe, seeker: "Seeker", dataset: "Dataset", failure: VerificationError
) -> Answer:
    """Return the answer that nothing fits, with all that was tried; it is written, too."""
    results = document(
        run,
        "study",
        [{"name": "dense", "title": "Dense", "runtime": "onnxruntime"}],
        labels=list(seeker.dense.labels),
        model=seeker.dense.spec.builder,
        data=describe_data(recipe.data.source, dataset),
        trade_offs=[],
        trials=seeker.table.rows,
    )
    run.write_results(results)
    shown = trial_table(seeker.table.rows)
    told = (table(shown.header, shown.rows, numeric=shown.numeric), f"run folder: {run.path}")
    return Answer(results, told, failure=failure)
