"""results.json of a run, and the table that people see at its end."""

import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.table import Table

from slimfer.cli.common import Answer, table
from slimfer.report.results import FORMAT, parse_results
from slimfer.report.tables import stage_table, summary
from slimfer.runs import RunFolder

if TYPE_CHECKING:
    from slimfer.data.frames import Dataset


def document(run: RunFolder, kind: str, stages: Sequence[dict[str, Any]], **parts: Any) -> dict[str, Any]:
    """Return the values of results.json: what every kind has, `stages`, and the `parts` of this kind."""
    record = run.record
    return {
        "format": FORMAT,
        "kind": kind,
        "seed": record["seed"],
        "machine": record["machine"],
        "versions": record["versions"],
        "wall_seconds": run.wall_seconds,
        "command": shlex.join(["slimfer", *record["argv"]]),
        "stages": list(stages),
        **parts,
    }


def finish(run: RunFolder, results: dict[str, Any], hint: str) -> Answer:
    """Write results.json and return the answer that shows it."""
    run.write_results(results)
    return Answer(results, (*view(results), f"run folder: {run.path}"), hint)


def view(results: dict[str, Any]) -> tuple[Table | str, ...]:
    """Return the table of stages and the sentence that sums it up."""
    parsed = parse_results(results)
    cells = stage_table(parsed)
    return table(cells.header, cells.rows, numeric=cells.numeric), summary(parsed)


def describe_data(source: str, dataset: "Dataset", split: str = "validation") -> dict[str, Any]:
    """Return the `data` part: where the pictures came from and how many each split has."""
    return {"source": source, "split": split, **{name: len(frames) for name, frames in dataset.items()}}
