"""What is in a dataset, with every problem found: unreadable and constant pictures, duplicates, contradicting labels.

Duplicates are pictures whose pixels are equal after they were brought to the wanted size; one that is in two splits
makes a score on the second one too good.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from slimfer.data.frames import Dataset, Frames
from slimfer.data.loader import SYNTHETIC, layout_of, read
from slimfer.data.reading import Request, Witness

Group = tuple[str, ...]


@dataclass(frozen=True)
class Inspection:
    """What `inspect` found; names are those of the pictures, with their split.

    Attributes:
        source: as it was asked for.
        layout: a key of `slimfer.data.loader.DATASETS`, or `synthetic`.
        classes: class names in their order.
        splits: number of pictures by split and class.
        sizes: number of pictures by stored size, `WIDTHxHEIGHT`, most frequent first.
        image: height and width in pixels that pictures were brought to.
        channels: 1 (gray) or 3 (RGB).
        votes: whether there are soft labels.
        unreadable: rows and pictures that cannot be used, each with the reason.
        empty: splits without pictures, and classes without pictures in a split, as `split` or `split/class`.
        constant: pictures of a single value.
        duplicates: groups of equal pictures within one split.
        shared: groups of equal pictures that are in more than one split.
        conflicts: groups of equal pictures with different labels, as `name (class)`.
    """

    source: str
    layout: str
    classes: tuple[str, ...]
    splits: Mapping[str, Mapping[str, int]]
    sizes: Mapping[str, int]
    image: int
    channels: int
    votes: bool
    unreadable: tuple[str, ...]
    empty: tuple[str, ...]
    constant: tuple[str, ...]
    duplicates: tuple[Group, ...]
    shared: tuple[Group, ...]
    conflicts: tuple[Group, ...]

    @property
    def problems(self) -> Mapping[str, int]:
        """Return how many of each kind of problem there are, leaving out kinds without any."""
        kinds = ("unreadable", "empty", "constant", "duplicates", "shared", "conflicts")
        return {kind: len(getattr(self, kind)) for kind in kinds if getattr(self, kind)}

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values, with the counts of `problems`."""
        return {**asdict(self), "problems": dict(self.problems)}


def inspect(source: str | Path, *, image: int = 48, channels: int = 1, votes: Path | None = None) -> Inspection:
    """Read a dataset in any layout and report what is in it; see `slimfer.data.loader.load` for the arguments.

    Raises:
        InputError: if there is no dataset, or its structure is broken (a missing column, an unsafe zip, a cut file).
    """
    findings = _Findings()
    dataset = read(source, Request(image, channels, votes, findings))
    groups = _equal_pictures(dataset)
    return Inspection(
        source=str(source),
        layout=SYNTHETIC if str(source) == SYNTHETIC else layout_of(Path(source)),
        classes=next(iter(dataset.values())).classes,
        splits={split: _counts(frames) for split, frames in dataset.items()},
        sizes=dict(findings.sizes.most_common()) or {f"{image}x{image}": sum(map(len, dataset.values()))},
        image=image,
        channels=channels,
        votes=any(frames.votes is not None for frames in dataset.values()),
        unreadable=tuple(findings.problems),
        empty=_empty(dataset),
        constant=_constant(dataset),
        duplicates=tuple(_names(dataset, g) for g in groups if len({split for split, _ in g}) == 1),
        shared=tuple(_names(dataset, g) for g in groups if len({split for split, _ in g}) > 1),
        conflicts=tuple(_names(dataset, g, labels=True) for g in groups if len(_labels(dataset, g)) > 1),
    )


class _Findings(Witness):
    """Writes down what it is told, and lets the reader go on."""

    thorough = True

    def __init__(self) -> None:
        self.problems: list[str] = []
        self.sizes: Counter[str] = Counter()

    def problem(self, where: str, what: str) -> None:
        """Take note of a row or picture that cannot be used."""
        self.problems.append(f"{where}: {what}")

    def size(self, width: int, height: int) -> None:
        """Count a stored size."""
        self.sizes[f"{width}x{height}"] += 1


# A picture is its split and its place there.
_Place = tuple[str, int]


def _equal_pictures(dataset: Dataset) -> list[list[_Place]]:
    """Return groups of two and more pictures with the same pixels, in the order of their first."""
    groups: defaultdict[bytes, list[_Place]] = defaultdict(list)
    for split, frames in dataset.items():
        for i, picture in enumerate(frames.images):
            groups[picture.tobytes()].append((split, i))
    return [group for group in groups.values() if len(group) > 1]


def _counts(frames: Frames) -> dict[str, int]:
    counts = np.bincount(frames.labels, minlength=len(frames.classes))
    return dict(zip(frames.classes, counts.tolist(), strict=True))


def _empty(dataset: Dataset) -> tuple[str, ...]:
    empty: list[str] = []
    for split, frames in dataset.items():
        counts = _counts(frames)
        empty += [f"{split}/{name}" for name, count in counts.items() if not count] if len(frames) else [split]
    return tuple(empty)


def _constant(dataset: Dataset) -> tuple[str, ...]:
    return tuple(
        _name(dataset, (split, int(i)))
        for split, frames in dataset.items()
        for i in np.flatnonzero((frames.images == frames.images[:, :, :1, :1]).all((1, 2, 3)))
    )


def _labels(dataset: Dataset, group: Sequence[_Place]) -> set[str]:
    return {_label(dataset, place) for place in group}


def _label(dataset: Dataset, place: _Place) -> str:
    split, i = place
    return dataset[split].classes[dataset[split].labels[i]]


def _names(dataset: Dataset, group: Sequence[_Place], *, labels: bool = False) -> Group:
    names = tuple(_name(dataset, place) for place in group)
    if not labels:
        return names
    return tuple(f"{name} ({_label(dataset, place)})" for name, place in zip(names, group, strict=True))


def _name(dataset: Dataset, place: _Place) -> str:
    split, i = place
    names = dataset[split].names
    name = names[i] if names else str(i)
    return name if name.startswith(f"{split}/") else f"{split}: {name}"
