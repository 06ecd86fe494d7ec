"""`slimfer data inspect`, `slimfer data convert` and `slimfer data synth`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter
from cyclopts.validators import Number

from slimfer.cli.common import Answer, Common, table
from slimfer.cli.flags import Votes
from slimfer.report.numbers import whole

if TYPE_CHECKING:
    from slimfer.data.frames import Dataset
    from slimfer.data.inspect import Inspection

Side = Annotated[int, Parameter(help="Height and width in pixels that pictures are brought to.")]
Channels = Annotated[Literal[1, 3], Parameter(help="1 (gray) or 3 (RGB).")]
To = Annotated[
    Literal["packed", "folder", "csv", "zip"] | None,
    Parameter(help="Layout to write; without it the ending of DST decides (.csv, .zip)."),
]
Replace = Annotated[bool, Parameter(help="Replace the dataset at DST; nothing but a dataset is ever replaced.")]
Count = Annotated[int, Parameter(validator=Number(gte=0))]

# Items of each kind shown to people; `--json` has them all.
SHOWN = 5

EXPLAINED = {
    "unreadable": "rows and pictures that cannot be used",
    "empty": "splits and classes without pictures",
    "constant": "pictures of a single value",
    "duplicates": "groups of equal pictures within a split",
    "shared": "groups of equal pictures in more than one split",
    "conflicts": "groups of equal pictures with different labels",
}


def inspect(
    source: str,
    /,
    *,
    image: Side = 48,
    channels: Channels = 1,
    votes: Votes = None,
    strict: bool = False,
    common: Common = Common(),
) -> Answer:
    """Show what is in a dataset: splits, classes, sizes, and every problem found.

    Args:
        source: a folder, .zip, .csv or packed file, or `synthetic`.
        image: see flags.
        channels: see flags.
        votes: see flags.
        strict: exit with code 1 if there are problems.
        common: see `Common`.
    """
    from slimfer.data.inspect import inspect as inspect_data

    found = inspect_data(source, image=image, channels=channels, votes=votes)
    code = 1 if strict and found.problems else 0
    hint = f"slimfer data convert {source} PACKED" if found.layout not in ("packed", "synthetic") else ""
    return Answer(found.to_dict(), (_headline(found), "", _counts(found), *_problems(found)), hint, code)


def convert(
    source: str,
    target: Path,
    /,
    *,
    to: To = None,
    image: Side = 48,
    channels: Channels = 1,
    votes: Votes = None,
    force: Replace = False,
    common: Common = Common(),
) -> Answer:
    """Write a dataset in another layout; packed, unless told otherwise, which opens at once.

    Args:
        source: a folder, .zip, .csv or packed file, or `synthetic`.
        target: folder, .csv or .zip to write.
        to: see flags.
        image: see flags.
        channels: see flags.
        votes: see flags.
        force: see flags.
        common: see `Common`.
    """
    from slimfer.data.convert import check_target, layout_for, write
    from slimfer.data.loader import SYNTHETIC, load

    layout = layout_for(target, to)
    check_target(target, source=None if source == SYNTHETIC else Path(source), force=force)
    dataset = load(source, image=image, channels=channels, votes=votes)
    write(target, dataset, layout)
    return _written(target, layout, dataset)


def synth(
    target: Path,
    /,
    *,
    train: Count = 6000,
    validation: Count = 1000,
    test: Count = 1000,
    to: To = None,
    image: Side = 48,
    channels: Channels = 1,
    force: Replace = False,
    common: Common = Common(),
) -> Answer:
    """Draw synthetic faces with seven expressions, as a folder of split/class/picture unless told otherwise.

    Args:
        target: folder, .csv or .zip to write.
        train: faces to learn from.
        validation: faces to choose on.
        test: faces to judge on.
        to: see flags.
        image: see flags.
        channels: see flags.
        force: see flags.
        common: see `Common`.
    """
    from slimfer.data.convert import check_target, layout_for, write
    from slimfer.data.synthetic import synthetic

    layout = layout_for(target, to, default="folder")
    check_target(target, force=force)
    dataset = synthetic(train, validation, test, seed=common.seed or 0, image=image, channels=channels)
    write(target, dataset, layout)
    return _written(target, layout, dataset)


# --- what people see --------------------------------------------------------------------------------------------------
def _headline(found: "Inspection") -> str:
    pictures = sum(sum(counts.values()) for counts in found.splits.values())
    sizes = ", ".join(f"{size} ({whole(count)})" for size, count in list(found.sizes.items())[:SHOWN])
    more = f" and {len(found.sizes) - SHOWN} more" if len(found.sizes) > SHOWN else ""
    votes = ", with votes" if found.votes else ""
    return f"{found.source}: {found.layout}, {whole(pictures)} pictures{votes}; stored sizes: {sizes}{more}"


def _counts(found: "Inspection") -> Any:
    rows = [(name, *(whole(counts[name]) for counts in found.splits.values())) for name in found.classes]
    rows.append(("all", *(whole(sum(counts.values())) for counts in found.splits.values())))
    return table(("class", *found.splits), rows)


def _problems(found: "Inspection") -> list[str]:
    if not found.problems:
        return ["", "no problems found"]
    lines = []
    for kind, count in found.problems.items():
        lines += ["", f"{EXPLAINED[kind]}: {whole(count)}"]
        for item in getattr(found, kind)[:SHOWN]:
            lines.append(f"  {item if isinstance(item, str) else ' = '.join(item)}")
        if count > SHOWN:
            lines.append(f"  and {whole(count - SHOWN)} more (--json shows all)")
    return lines


def _written(target: Path, layout: str, dataset: "Dataset") -> Answer:
    counts = {split: len(frames) for split, frames in dataset.items()}
    document = {"path": str(target), "layout": layout, "splits": counts}
    parts = ", ".join(f"{whole(count)} {split}" for split, count in counts.items())
    return Answer(document, (f"{target}: {layout}, {parts}",), f"slimfer data inspect {target}")
