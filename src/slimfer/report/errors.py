"""The part of the page about errors: which classes paid for the change, the surest mistakes, labels in doubt."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from slimfer.report.numbers import MISSING, percent, signed, whole
from slimfer.report.results import Results
from slimfer.report.tables import Table
from slimfer.report.thumbnails import Thumbnails

LONGEST_NAME = 80  # characters; a path can have thousands
MOST = 120  # rows of one list on the page, however many results.json has


def errors(results: Results, thumbnails: Thumbnails) -> dict[str, Any]:
    """Return what the template shows of `slimfer.answers.examine`; None for what the results do not hold."""
    data = results.data
    issues = data.get("label_issues")
    change = results.change
    return {
        "change": None if change is None else change_table(change),
        "change_told": "" if change is None else change_told(change),
        "mistakes": _mistakes(data.get("mistakes") or (), thumbnails, several=change is not None),
        "label_issues": None if issues is None else _label_issues(issues["rows"], thumbnails),
        "label_issues_told": "" if issues is None else _issues_told(issues, results),
        "pictures_told": thumbnails.told,
        "calibration": None if results.calibration is None else calibration_table(results.calibration),
    }


# --- change ----------------------------------------------------------------------------------------------------------
def change_table(change: Mapping[str, Any]) -> Table:
    """Return per class how many pictures only one of two networks reads correctly, and what that does to the recall."""
    rows = [(name, row["support"], row) for name, row in change["per_class"].items()]
    cells = [(name, whole(support), *paired_cells(row)) for name, support, row in (*rows, ("all", change["n"], change))]
    header = ("class", "pictures", "lost", "gained", "change", "95 % interval")
    return Table(header, tuple(cells), (False, *(True,) * 5))


def paired_told(change: Mapping[str, Any]) -> str:
    """Return the change of the accuracy with its interval: `−0.03 points (95 % interval −0.76 to 0.70)`."""
    return f"{signed(100 * change['difference'])} points (95 % interval {_interval(change)})"


def change_told(change: Mapping[str, Any]) -> str:
    """Return who paid, in sentences."""
    told = (
        f"Of {whole(change['n'])} pictures {whole(change['lost'])} that were read correctly no longer are, and"
        f" {whole(change['gained'])} now are: {paired_told(change)}."
    )
    paid = [name for name, row in change["per_class"].items() if row["ci95"][1] < 0]
    won = [name for name, row in change["per_class"].items() if row["ci95"][0] > 0]
    if not paid and not won:
        return f"{told} No class's 95 % interval leaves out zero."
    halves = [f"{', '.join(paid)} paid" if paid else "no class paid", f"{', '.join(won)} gained" if won else ""]
    return f"{told} With 95 % confidence each, {' and '.join(half for half in halves if half)}."


def paired_cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    """Return lost and gained pictures, the change in points and its interval as cells."""
    return whole(row["lost"]), whole(row["gained"]), signed(100 * row["difference"]), _interval(row)


def _interval(row: Mapping[str, Any]) -> str:
    low, high = row["ci95"]
    return f"{signed(100 * low)} to {signed(100 * high)}"


# --- pictures --------------------------------------------------------------------------------------------------------
def _mistakes(rows: Sequence[Mapping[str, Any]], thumbnails: Thumbnails, *, several: bool) -> dict[str, Any] | None:
    if not rows:
        return None
    shown = rows[:MOST]
    header = ("picture", "label", "read as", "confidence %", *(["before"] if several else []), "where from")
    cells = tuple(
        (
            f"#{row['index']}",
            row["label"],
            row["predicted"],
            percent(row["confidence"]),
            *([row["before"]] if several else []),
            short(row["name"]),
        )
        for row in shown
    )
    cards = [_card(row, row["predicted"], f"{_sure(row['confidence'])} sure", "read as", thumbnails) for row in shown]
    return _gallery(cards, Table(header, cells, tuple(name.endswith("%") for name in header)), shown)


def _label_issues(rows: Sequence[Mapping[str, Any]], thumbnails: Thumbnails) -> dict[str, Any] | None:
    if not rows:
        return None
    shown = rows[:MOST]
    header = ("picture", "label", "suggested", "probability %", "of the label %", "where from")
    cells = tuple(
        (
            f"#{row['index']}",
            row["label"],
            row["suggested"],
            percent(row["probability"]),
            percent(row["self_confidence"]),
            short(row["name"]),
        )
        for row in shown
    )
    cards = [
        _card(
            row,
            row["suggested"],
            f"{_sure(row['probability'])} against {_sure(row['self_confidence'])}",
            "rather",
            thumbnails,
        )
        for row in shown
    ]
    return _gallery(cards, Table(header, cells, tuple(name.endswith("%") for name in header)), shown)


def _gallery(cards: Iterable[Any], table: Table, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the rows as a table, those with pictures as cards, and the labels to choose cards by."""
    found = [card for card in cards if card]
    return {"cards": found, "table": table, "labels": list(dict.fromkeys(row["label"] for row in rows))}


def _card(
    row: Mapping[str, Any], answer: str, note: str, between: str, thumbnails: Thumbnails
) -> dict[str, str] | None:
    """Return what stands with one picture, None without a picture."""
    source = thumbnails.uris.get(row["index"])
    if source is None:
        return None
    return {
        "source": source,
        "alternative": f"picture {row['index']}",
        "label": row["label"],
        "between": between,
        "answer": answer,
        "note": f"{note}, #{row['index']}",
        "name": short(row["name"]),
    }


def _issues_told(issues: Mapping[str, Any], results: Results) -> str:
    count, n = issues["count"], (results.last.scores or {}).get("n", 0)
    if not count:
        return "No label is in doubt."
    share = f" ({percent(count / n)} %)" if n else ""
    listed = min(len(issues["rows"]), MOST)
    shown = f" The {listed} most doubtful are listed." if listed < count else ""
    return (
        f"{whole(count)} labels{share} are in doubt: the network is surer of another expression than it usually is"
        f" where that one is right, and less sure of the given one than usual.{shown} A network is wrong as well: look"
        " at the picture before you change its label. Learn labels only from pictures that it was not trained on."
    )


# --- calibration -----------------------------------------------------------------------------------------------------
def calibration_table(calibration: Mapping[str, float]) -> Table:
    """Return the temperature, what it does to the calibration error, and the threshold."""
    threshold = calibration["threshold"]
    rows = (
        ("temperature of the logits", f"{calibration['temperature']:.3f}"),
        ("calibration error without it", f"{percent(calibration['ece_before'])} %"),
        ("calibration error with it", f"{percent(calibration['ece_after'])} %"),
        ("confidence below which an answer is uncertain", f"{percent(threshold)} %" if threshold else "none set"),
    )
    return Table(("what ships", "value"), rows, (False, True))


# --- small things ----------------------------------------------------------------------------------------------------
def short(name: str | None) -> str:
    """Return where a picture came from; of a long path the end."""
    if name is None:
        return MISSING
    name = name.encode(errors="backslashreplace").decode()  # file names need not be UTF-8
    return name if len(name) <= LONGEST_NAME else "…" + name[-LONGEST_NAME:]


def _sure(probability: float) -> str:
    return f"{100 * probability:.0f} %"
