"""`slimfer compress`."""

import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from slimfer.cli.budget import Budget
from slimfer.cli.chain import Chain, parse_steps
from slimfer.cli.common import Answer, Common, note, torch_device
from slimfer.cli.flags import (
    Data,
    FinetuneFlags,
    Force,
    NoPictures,
    Out,
    RecipeFile,
    Resume,
    SlimFlags,
    StepFlags,
    TrainFlags,
    Votes,
    base_recipe,
    default_of,
    over_data,
    override,
    with_width,
)
from slimfer.cli.progress import Watch, showing
from slimfer.cli.record import describe_data, document, finish
from slimfer.cli.search import Found, SearchFlags, search_steps, seek
from slimfer.cli.start import fresh_spec, name_start, open_start
from slimfer.compress.config import QuantizeConfig
from slimfer.compress.goal import SearchConfig
from slimfer.compress.plan import KINDS, PlannedStep
from slimfer.errors import InputError, VerificationError
from slimfer.files import write_text
from slimfer.recipes import Recipe
from slimfer.report.results import parse_results
from slimfer.runs import RunFolder, open_run
from slimfer.toml import to_toml

if TYPE_CHECKING:
    from slimfer.data.frames import Dataset
    from slimfer.model.spec import NetSpec
    from slimfer.train.checkpoint import Checkpoint


def compress(
    model: str | None = None,
    /,
    *,
    out: Out,
    data: Data = None,
    recipe: RecipeFile = None,
    votes: Votes = None,
    width: float | None = None,
    image: Annotated[int | None, Parameter(show_default="48")] = None,
    channels: Annotated[int | None, Parameter(show_default="1")] = None,
    resume: Resume = False,
    force: Force = False,
    no_pictures: NoPictures = False,
    chain: Chain = None,
    teacher: Annotated[tuple[str, ...], Parameter(negative="")] = (),
    bits: Annotated[int | None, default_of(QuantizeConfig(), "bits")] = None,
    budget: Budget = Budget(),
    searching: SearchFlags = SearchFlags(),
    slimming: SlimFlags = SlimFlags(),
    training: TrainFlags = TrainFlags(),
    finetuning: FinetuneFlags = FinetuneFlags(),
    steps: StepFlags = StepFlags(),
    common: Common = Common(),
) -> Answer:
    """Do the whole job: train, slim, fine-tune, quantize (or any chain, or whatever fits a budget), verify, report.

    With --max-size, --max-latency or --max-mac, and neither --ratio nor --steps, it searches instead: how many channels
    each part of the network keeps, and how many bits each layer's weights get, so that least is lost within the budget.
    With --max-drop alone it searches the smallest file that loses no more.

    Ends in RUN/model.onnx, RUN/results.json and RUN/report.html; exit code 3 if a verification failed or a budget was
    not met.

    Args:
        model: a network's name (`slimfer models`), package.module:function, or a trained run or checkpoint.
        out: see flags.
        data: see flags.
        recipe: see flags.
        votes: see flags.
        width: width multiplier of the network.
        image: height and width in pixels.
        channels: 1 (gray) or 3 (RGB).
        resume: see flags.
        force: see flags.
        no_pictures: see flags.
        chain: see flags.
        teacher: run, checkpoint or artifact that teaches every training; may be given several times. Without one, the
            first trained network of the chain teaches the ones after it.
        bits: of the weights, 2-8; 32 leaves the network in float.
        budget: see `Budget`.
        searching: see `SearchFlags`.
        slimming: see `SlimFlags`.
        training: see `TrainFlags`.
        finetuning: see `FinetuneFlags`.
        steps: see `StepFlags`.
        common: see `Common`.
    """
    base = base_recipe(recipe, out, resume=resume)
    origin = name_start(override(base.model, image=image, channels=channels), model)
    limits = budget.over(base.search)
    seeking = limits.wanted and slimming.ratio is None and chain is None and not base.steps
    if not seeking:
        searching.refuse_without_budget()
    elif bits is not None or slimming.passes is not None:
        flag = "--bits" if bits is not None else "--passes"
        raise InputError(
            f"{flag} does not go with a search, which chooses widths and bits itself; add --ratio or --steps"
        )
    resolved = replace(
        base,
        search=searching.over(limits) if seeking else SearchConfig(),
        data=over_data(base.data, data, votes),
        model=replace(origin, args=with_width(origin.args, width)),
        train=steps.over(training.over(base.train), common.seed),
        slim=slimming.over(base.slim),
        finetune=steps.over(finetuning.over(base.finetune), common.seed),
        distill=override(base.distill, teachers=teacher or None),
        quantize=override(base.quantize, bits=bits),
        steps=base.steps if chain is None else parse_steps(chain),
    )
    resolved = replace(
        resolved,
        qat=replace(base.qat, train=steps.over(base.qat.train, common.seed)),
        dsd=replace(
            base.dsd,
            sparse=steps.over(base.dsd.sparse, common.seed),
            dense=steps.over(base.dsd.dense, common.seed),
        ),
    )
    seed, parent = resolved.train.seed, origin.checkpoint or None
    with open_run(out, verb="compress", argv=sys.argv[1:], seed=seed, resume=resume, force=force, parent=parent) as run:
        checkpoint, dataset = open_start(resolved)
        network = checkpoint or fresh_spec(resolved.model, len(dataset["train"].classes))
        # Who goes on with a run seldom repeats its flags, and this one is about privacy.
        pictures = not no_pictures and "--no-pictures" not in run.record["argv"]
        return _compress(run, resolved, network, dataset, Budget.of(limits), common, pictures=pictures)


def _compress(
    run: RunFolder,
    recipe: Recipe,
    start: "Checkpoint | NetSpec",
    dataset: "Dataset",
    budget: Budget,
    common: Common,
    *,
    pictures: bool,
) -> Answer:
    from slimfer.compress.pipeline import run_steps
    from slimfer.export.deliver import deliver
    from slimfer.export.parity import require
    from slimfer.model.spec import NetSpec
    from slimfer.report.card import model_card
    from slimfer.report.page import write_report

    device = torch_device(common)

    def tell(line: str) -> None:
        run.log(line)
        if not common.quiet:
            note(line)

    found: Found | None = None
    if recipe.search.wanted:
        run.write_recipe(tables_of(recipe, search_steps(recipe)) | recipe.tables("search"))
        sought = seek(run, recipe, start, dataset, tables_of=tables_of, common=common, tell=tell)
        if isinstance(sought, Answer):
            return sought
        found, recipe = sought, sought.recipe
    trained = not isinstance(start, NetSpec)
    planned = recipe.plan(trained=trained)
    tables = tables_of(recipe, planned)
    if found is None:
        run.write_recipe(tables)
    else:
        write_text(run.path / "found.toml", to_toml(tables))
        found.adopt(run.path / "stages")
        start, planned = found.start, planned[len(found.before) :]
    with showing(common) as show:
        stages = run_steps(
            start,
            dataset,
            planned,
            run.path / "stages",
            device=device,
            watch=lambda name: Watch(show, run, name),
        )
    if found is not None:
        found, stages = found.shortened(stages)
        recipe = found.recipe
        tables = tables_of(recipe, recipe.plan(trained=trained))
        write_text(run.path / "found.toml", to_toml(tables))
        if found.before:
            stages[:1] = found.before
    last, spec = stages[-1].checkpoint, stages[-1].checkpoint.spec
    last.save(run.path / "weights" / "best.safetensors")
    parts, checks = deliver(stages, dataset["validation"], run.path, recipe=tables, pictures=pictures, note=tell)
    limits = budget.checks(parts["stages"])
    checks += limits
    parts["checks"] = [asdict(check) for check in checks]
    if found is not None:
        parts |= found.beside(run, parts)
    results = document(
        run,
        "compress",
        **parts,
        model=spec.builder,
        labels=list(last.labels),
        data=describe_data(recipe.data.source, dataset),
        recipe=tables,
    )
    answer = finish(run, results, f"slimfer predict FACE.jpg --model {run.path / 'model.onnx'}")
    write_text(run.path / "README.md", model_card(parse_results(results), channels=spec.channels, image=spec.image))
    answer = replace(answer, view=(*answer.view, f"report: {write_report(run.path, pictures=pictures)}"))
    if found is not None:
        answer = found.shown(answer)
    try:
        require(checks)
    except VerificationError as failure:
        broken = [limit.name for limit in limits if not limit.passed]
        # What failed is not what comes next.
        return replace(answer, hint="", failure=failure if found is None else found.explained(failure, broken))
    return answer


def tables_of(recipe: Recipe, planned: Sequence[PlannedStep]) -> dict[str, Any]:
    """Return the tables that decide what the steps do, for `recipe.toml` and the artifact, and the seed."""
    used = {name for step in planned for name in KINDS[step.kind]}
    chain = recipe.tables(*(["steps"] if recipe.steps else []))
    return {"train": {"seed": recipe.train.seed}} | recipe.tables("data", "model", *sorted(used)) | chain
