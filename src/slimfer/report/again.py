"""The command that makes a run again, and where its network came from."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from slimfer.artifact import open_artifact
from slimfer.errors import InputError
from slimfer.report.numbers import MISSING, count, counted, percent
from slimfer.report.results import Results
from slimfer.report.tables import Table

OUT = ("--out", "-o")
NOT_AGAIN = ("--resume", "--force")  # the first goes on with a run, the second removes one


def commands(results: Results) -> list[dict[str, str]]:
    """Return titled commands to paste: they write into new folders, since that of the run is taken.

    A search has two: all of it again, and only the training of the network that it found.
    """
    told = results.data.get("command", "")
    if not told:
        return []
    command, out = _elsewhere(told)
    found = [{"title": "The whole run", "command": command}]
    if results.data.get("trials") and out:
        recipe = shlex.join(["slimfer", results.kind, "--recipe", f"{out}/found.toml", "--out", f"{out}-found"])
        found.append({"title": "Only the network that the search found", "command": recipe})
    return found


def _elsewhere(command: str) -> tuple[str, str]:
    """Return a command with a folder that is still free, and the folder that it had (empty if none)."""
    try:
        words = [word for word in shlex.split(command) if word not in NOT_AGAIN]
    except ValueError:  # not a line that a shell would take
        return command, ""
    for place, word in enumerate(words):
        flag, equals, value = word.partition("=")
        if flag in OUT and equals:
            out = value.rstrip("/")
            words[place] = f"{flag}={out}-again"
        elif word in OUT and place + 1 < len(words):
            out = words[place + 1].rstrip("/")
            words[place + 1] = f"{out}-again"
        else:
            continue
        return shlex.join(words), out
    return shlex.join(words), ""


def lineage(run: Path, results: Results) -> Sequence[Mapping[str, Any]]:
    """Return one entry per step since the first training; of an artifact that is missing or another one, none.

    An artifact carries its lineage itself, so results.json holds it only where there is none.

    Args:
        run: the folder.
        results: of the run.
    """
    if results.data.get("lineage"):
        return tuple(results.data["lineage"])
    part = results.data.get("artifact") or {}
    try:
        artifact = open_artifact(run / part["path"])
    except (KeyError, InputError):
        return ()
    return artifact.lineage if artifact.sha256 == part.get("sha256") else ()


def lineage_table(entries: Sequence[Mapping[str, Any]]) -> Table | None:
    """Return what each step did and how well the network read after it; None without steps."""
    if not entries:
        return None
    rows = tuple(
        (f"{i}. {entry.get('step', MISSING)}", _did(entry), _read(entry)) for i, entry in enumerate(entries, 1)
    )
    return Table(("step", "what it did", "validation accuracy %"), rows, (False, False, True))


def _did(entry: Mapping[str, Any]) -> str:
    """Return the figures of a step that matter most."""
    config = entry.get("config") or {}
    told = []
    if "epochs" in config:
        told.append(
            f"{counted(config['epochs'], 'epoch')}, {config.get('optimizer')}, learning rate {config.get('lr')}"
        )
    if "epoch" in entry:
        told.append(f"weights of epoch {entry['epoch']}")
    if "cut" in entry:
        told.append(f"{percent(entry['cut'])} % of the channels cut")
    if "params" in entry:
        told.append(f"{' → '.join(count(number) for number in entry['params'])} parameters")
    if "zeros" in entry:
        told.append(f"{' of '.join(count(number) for number in entry['zeros'])} weights set to zero")
    if "bits" in entry:
        others = sorted(set((entry.get("per_layer") or {}).values()))
        rest = f" ({', '.join(map(str, others))} in some layers)" if others else ""
        told.append(f"weights {entry['bits']} bits{rest}, activations {entry.get('activations')} bits")
    return "; ".join(told) or MISSING


def _read(entry: Mapping[str, Any]) -> str:
    return percent(entry.get("val_accuracy"))
