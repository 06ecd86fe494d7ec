"""`slimfer distill`."""

import sys
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Group, Parameter

from slimfer.cli.common import Answer, Common, torch_device
from slimfer.cli.flags import (
    Data,
    Force,
    Out,
    RecipeFile,
    Resume,
    StepFlags,
    TrainFlags,
    Votes,
    base_recipe,
    default_of,
    numbers,
    over_data,
    override,
    with_width,
)
from slimfer.cli.progress import Watch, showing
from slimfer.cli.record import describe_data, document, finish
from slimfer.cli.start import PLAIN, first_network, name_start, open_start
from slimfer.compress.config import DistillConfig
from slimfer.recipes import Recipe
from slimfer.runs import RunFolder, open_run, read_curve

if TYPE_CHECKING:
    from slimfer.compress.sweep import Student
    from slimfer.data.frames import Dataset
    from slimfer.train.checkpoint import Checkpoint

_DEFAULT = DistillConfig()


@Parameter(name="*", group=Group("Distillation", sort_key=40))
@dataclass(frozen=True)
class DistillFlags:
    """Flags over the recipe's [distill] and [sweep] tables.

    Attributes:
        teacher: run, checkpoint or artifact that teaches; given several times, their answers are averaged.
        temperature: softens the probabilities of both sides.
        weight: share of the teachers' term in the loss, 0-1.
        square: multiply the teachers' term by the square of the temperature (MicroExpNet's code does not).
        mirror: teachers also see each picture mirrored.
        features: weight of the relations between penultimate features; 0 is off.
        cache: folder for the teachers' answers, to be read by later runs with the same seed, data and augmentation.
        control: also train the same student without a teacher, and report it beside.
        sweep_temperatures: one student for each of these temperatures, e.g. 1,2,4,8.
        sweep_weights: one student for each of these weights, e.g. 0.3,0.5,0.7,0.9.
    """

    teacher: Annotated[tuple[str, ...], Parameter(negative="")] = ()
    temperature: Annotated[float | None, default_of(_DEFAULT, "temperature")] = None
    weight: Annotated[float | None, default_of(_DEFAULT, "weight")] = None
    square: Annotated[bool | None, Parameter(negative="--no-square", show_default="True")] = None
    mirror: Annotated[bool | None, Parameter(negative="--no-mirror", show_default="False")] = None
    features: Annotated[float | None, default_of(_DEFAULT, "features")] = None
    cache: str | None = None
    control: bool | None = None
    sweep_temperatures: str | None = None
    sweep_weights: str | None = None

    def over(self, recipe: Recipe) -> Recipe:
        """Return the recipe with the flags that were given over its tables."""
        distill = override(
            recipe.distill,
            teachers=self.teacher or None,
            temperature=self.temperature,
            weight=self.weight,
            square=self.square,
            mirror=self.mirror,
            features=self.features,
            cache=self.cache,
        )
        sweep = override(
            recipe.sweep,
            control=self.control,
            temperatures=numbers("--sweep-temperatures", self.sweep_temperatures),
            weights=numbers("--sweep-weights", self.sweep_weights),
        )
        return replace(recipe, distill=distill, sweep=sweep)


def distill(
    student: str | None = None,
    /,
    *,
    out: Out,
    data: Data = None,
    recipe: RecipeFile = None,
    votes: Votes = None,
    width: float | None = None,
    image: Annotated[int | None, Parameter(show_default="48")] = None,
    channels: Annotated[int | None, Parameter(show_default="1")] = None,
    penalty: Annotated[float | None, Parameter(show_default="0")] = None,
    resume: Resume = False,
    force: Force = False,
    distilling: DistillFlags = DistillFlags(),
    training: TrainFlags = TrainFlags(),
    steps: StepFlags = StepFlags(),
    common: Common = Common(),
) -> Answer:
    """Train a student with teachers, beside the same without any if wanted; or sweep temperatures and weights.

    Args:
        student: a network's name (`slimfer models`), package.module:function, or a checkpoint or run to go on from.
        out: see flags.
        data: see flags.
        recipe: see flags.
        votes: see flags.
        width: width multiplier of the network.
        image: height and width in pixels.
        channels: 1 (gray) or 3 (RGB).
        penalty: lambda of the L1 penalty on BN scales, so that the student can be slimmed.
        resume: see flags.
        force: see flags.
        distilling: see `DistillFlags`.
        training: see `TrainFlags`.
        steps: see `StepFlags`.
        common: see `Common`.
    """
    base = base_recipe(recipe, out, resume=resume, defaults=PLAIN)
    origin = name_start(override(base.model, image=image, channels=channels), student)
    resolved = replace(
        distilling.over(base),
        data=over_data(base.data, data, votes),
        model=replace(origin, args=with_width(origin.args, width)),
        train=steps.over(training.over(base.train), common.seed),
        slim=override(base.slim, penalty=penalty),
    )
    seed, parent = resolved.train.seed, origin.checkpoint or None
    with open_run(out, verb="distill", argv=sys.argv[1:], seed=seed, resume=resume, force=force, parent=parent) as run:
        return _distill(run, resolved, common)


def _distill(run: RunFolder, recipe: Recipe, common: Common) -> Answer:
    from slimfer.compress.slim import SlimmingPenalty
    from slimfer.compress.sweep import plan_students, train_students

    students = plan_students(recipe.distill, recipe.sweep, run.path / "sweep")
    checkpoint, dataset = open_start(recipe)
    start = first_network(recipe, checkpoint, dataset)
    device, penalty = torch_device(common), recipe.slim.penalty
    tables = recipe.tables("data", "model", "train", "distill", "sweep") | {"slim": {"penalty": penalty}}
    run.write_recipe(tables)
    with showing(common) as show:
        trained = train_students(
            start,
            dataset,
            recipe.train,
            students,
            hooks=[SlimmingPenalty(penalty)] if penalty else [],
            device=device,
            watch=lambda name: Watch(show, run, name),
        )
    return _report(run, tables, dataset, list(zip(students, trained, strict=True)), device, common)


def _report(
    run: RunFolder,
    tables: dict[str, Any],
    dataset: "Dataset",
    trained: "list[tuple[Student, Checkpoint]]",
    device: str,
    common: Common,
) -> Answer:
    """Judge all, keep the best taught one, write results.json; the control is the first stage and the best the last."""
    from slimfer.cli.classifier import judge, judged_parts, open_classifier
    from slimfer.metrics import score
    from slimfer.report.page import write_report

    validation = dataset["validation"]
    judged = [(judge(one.name, net, validation, device), one, net) for one, net in trained]
    judged.sort(key=lambda row: (row[1].config is not None, row[0].row["scores"]["accuracy"]))
    best = judged[-1][2]
    best.save(run.path / "weights" / "best.safetensors")
    teachers = []
    for path in tables["distill"]["teachers"]:
        classifier = open_classifier(path, common)
        probabilities = classifier.probabilities(validation)
        teachers.append(classifier.stage(scores=score(probabilities, validation.labels, validation.classes)))
    results = document(
        run,
        "distill",
        **judged_parts([one for one, _, _ in judged], validation, run.path),
        model=best.spec.builder,
        labels=list(best.labels),
        data=describe_data(tables["data"]["source"], dataset),
        recipe=tables,
        teachers=teachers,
        sweep=[
            {
                "temperature": one.config.temperature,
                "weight": one.config.weight,
                "accuracy": net.row["scores"]["accuracy"],
            }
            for net, one, _ in judged
            if one.config
        ],
        # Of a large sweep only the ends; those of the others are in their folders.
        curves=[{"stage": one.name, "rows": read_curve(one.folder)} for _, one, _ in (*judged[:1], *judged[1:][-1:])],
    )
    hint = f"slimfer quantize {run.path} --data {tables['data']['source']} --out {run.path}-int8"
    answer = finish(run, results, hint)
    told = [f"teacher {row['name']}: {100 * row['scores']['accuracy']:.2f} %" for row in teachers]
    return replace(answer, view=(*answer.view, *told, f"report: {write_report(run.path)}"))
