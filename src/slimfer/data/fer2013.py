"""FER2013 as csv (Goodfellow et al. 2013, arXiv 1307.0414) and FER+ votes (Barsoum et al. 2016, arXiv 1608.01041).

The official file has the columns `emotion` (0-6, the order of `EMOTIONS`), `pixels` (48 x 48 gray values separated by
spaces) and `Usage` (Training, PublicTest, PrivateTest). Others give it as three files, one per split, where the file's
name decides and a column Usage is not looked at.
"""

import csv
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from slimfer.data.frames import Dataset, Frames
from slimfer.data.reading import Request
from slimfer.data.splits import ALIASES, SPLITS, USAGES, split_of
from slimfer.errors import InputError
from slimfer.files import atomic_open
from slimfer.images import to_pixels
from slimfer.labels import EMOTIONS, canonical

SIDE = 48
COUNT = SIDE * SIDE

# The columns of fer2013new.csv that are among the seven, in the order of EMOTIONS.
VOTE_COLUMNS = ("anger", "disgust", "fear", "happiness", "sadness", "surprise", "neutral")

_DIGITS = b"0123456789 \t"
_CODES = {str(code): code for code in range(len(EMOTIONS))}


def is_csv(path: Path) -> bool:
    """Return whether `path` is one csv file."""
    return path.is_file() and path.suffix.lower() == ".csv"


def is_csv_folder(path: Path) -> bool:
    """Return whether `path` is a folder with a csv file per split."""
    return path.is_dir() and bool(_split_files(path))


def read_csv(path: Path, request: Request) -> Dataset:
    """Read the official csv, with FER+ votes on top when `request.votes` names them.

    Votes become soft labels: those for the seven emotions, divided by their sum. Votes for contempt, for "unknown" and
    for "NF" (not a face) say nothing about the seven and are left out; where none remain the one-hot label stands: no
    picture is lost. `labels` stay FER2013's own, so that scores compare with everyone's.

    Raises:
        InputError: naming file and row, if a column is missing, a value is wrong, or votes and pictures do not go
            together row by row.
    """
    table = _read_table(path, request, with_usage=True)
    votes = None if request.votes is None else _votes_of(table, request.votes)
    return {split: table.frames(request, path, split, votes) for split in SPLITS if split in table.splits}


def read_csv_folder(path: Path, request: Request) -> Dataset:
    """Read train.csv, validation.csv (val, valid, dev) and test.csv, as many as there are.

    Raises:
        InputError: naming file and row, if a column is missing, a value is wrong or a split has two files.
    """
    if request.votes is not None:
        raise InputError(f"{request.votes}: votes go with the official csv, row by row, and {path} is a folder")
    files = _split_files(path)
    dataset = {}
    for split in SPLITS:
        if len(found := files.get(split, [])) > 1:
            raise InputError(f"{path}: both {found[0].name} and {found[1].name} are the split {split}")
        if found:
            dataset[split] = _read_table(found[0], request, with_usage=False).frames(request, found[0], None, None)
    return dataset


def write_csv(path: Path, dataset: Dataset) -> None:
    """Write the official csv, atomically.

    Raises:
        InputError: if the pictures are not 48 x 48 gray, a class is not among the seven, or there are votes, which this
            layout cannot hold.
    """
    for split, frames in dataset.items():
        if (frames.channels, frames.side) != (1, SIDE):
            raise InputError(
                f"{split}: the csv holds 48 x 48 gray, not {frames.side} x {frames.side} x {frames.channels}"
            )
        if frames.votes is not None:
            raise InputError(f"{split}: the csv cannot hold votes; convert to packed")
        if strange := [name for name in frames.classes if name not in EMOTIONS]:
            raise InputError(f"{split}: the csv knows the seven emotions only, not {strange[0]!r}")
    digits = [str(value) for value in range(256)]
    with atomic_open(path) as stream:
        stream.write(b"emotion,pixels,Usage\n")
        for split, frames in dataset.items():
            codes = [EMOTIONS.index(name) for name in frames.classes]
            for image, label in zip(frames.images, frames.labels, strict=True):
                pixels = " ".join(map(digits.__getitem__, image.ravel().tolist()))
                stream.write(f"{codes[label]},{pixels},{USAGES[split]}\n".encode())


# --- tables -----------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class _Table:
    """The usable rows of one csv file; `index` counts data rows from 0, `rows` are line numbers in the file."""

    pixels: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
    splits: Sequence[str]
    rows: Sequence[int]
    index: Sequence[int]
    total: int

    def frames(self, request: Request, path: Path, split: str | None, votes: npt.NDArray[np.float32] | None) -> Frames:
        """Return the rows of one split, or of all if `split` is None."""
        chosen = np.flatnonzero([split is None or name == split for name in self.splits])
        return Frames(
            _bring_to(self.pixels[chosen], request.image, request.channels),
            self.labels[chosen],
            EMOTIONS,
            votes=None if votes is None else votes[chosen],
            names=tuple(f"{path.name} row {self.rows[i]}" for i in chosen.tolist()),
        )


def _read_table(path: Path, request: Request, *, with_usage: bool) -> _Table:
    columns = ("emotion", "pixels", "usage") if with_usage else ("emotion", "pixels")
    pixels, labels, splits, rows, index = [], [], [], [], []
    total = 0
    for row, (emotion, text, *usage) in _rows(path, columns):
        total += 1
        try:
            label, values, split = _label(emotion), _pixels(text), _usage(*usage)
        except InputError as error:
            request.witness.problem(f"{path} row {row}", str(error))
            continue
        pixels.append(values)
        labels.append(label)
        splits.append(split)
        rows.append(row)
        index.append(total - 1)
    stacked = np.stack(pixels) if pixels else np.empty((0, COUNT), np.uint8)
    return _Table(stacked.reshape(-1, SIDE, SIDE), np.array(labels, np.int64), splits, rows, index, total)


def _rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
    """Yield the line number and the wanted columns of every data row; the header is line 1."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream)
            header = [name.strip().lower() for name in next(reader, [])]
            for column in columns:
                if column not in header:
                    raise InputError(f"{path}: no column {column!r} in the first row, which has {_listed(header)}")
            places = [header.index(column) for column in columns]
            for fields in reader:
                if not fields:
                    continue
                if len(fields) != len(header):
                    raise InputError(f"{path} row {reader.line_num}: {len(fields)} columns, not {len(header)}")
                yield reader.line_num, [fields[place] for place in places]
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (csv.Error, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not readable as csv ({error})") from None


def _label(text: str) -> int:
    code = _CODES.get(text.strip())
    if code is not None:
        return code
    if (name := canonical(text)) in EMOTIONS:
        return EMOTIONS.index(name)
    raise InputError(f"unknown emotion {_short(text)}; the codes are 0-{len(EMOTIONS) - 1}")


def _pixels(text: str) -> npt.NDArray[np.uint8]:
    """Parse the values of one picture: (2304,) uint8."""
    # Nothing but digits and spaces: then numpy's parser, which is fast and forgiving, has nothing to forgive.
    if not text.encode().translate(None, _DIGITS):
        values = np.fromstring(text, np.int64, sep=" ") if text.strip() else np.empty(0, np.int64)
        if len(values) == COUNT and values.max() <= 255:
            return values.astype(np.uint8)
    raise InputError(_what_is_wrong(text.split()))


def _what_is_wrong(tokens: Sequence[str]) -> str:
    for place, token in enumerate(tokens, start=1):
        if not (token.lstrip("-").isascii() and token.lstrip("-").isdigit()):
            return f"pixel {place} is {_short(token)}, not a whole number"
        if token.startswith("-") or len(token.lstrip("0")) > 3 or int(token) > 255:
            return f"pixel {place} is {_short(token, quote=False)}, outside 0-255"
    if len(tokens) != COUNT:
        return f"{len(tokens)} pixels, not {COUNT} ({SIDE} x {SIDE})"
    return "pixels are not separated by spaces"


def _usage(text: str | None = None) -> str:
    """Return the split; without a column Usage it does not matter."""
    if text is None:
        return SPLITS[0]
    split = split_of(text)
    if split is None:
        raise InputError(f"unknown Usage {_short(text)}; there are {_listed(USAGES.values())}")
    return split


def _bring_to(pixels: npt.NDArray[np.uint8], side: int, channels: int) -> npt.NDArray[np.uint8]:
    """(N, 48, 48) -> (N, channels, side, side)."""
    if side == SIDE:
        return np.repeat(pixels[:, None], channels, axis=1)
    result = np.empty((len(pixels), channels, side, side), np.uint8)
    for i, picture in enumerate(pixels):
        result[i] = to_pixels(Image.fromarray(picture), side, channels)
    return result


def _split_files(folder: Path) -> dict[str, list[Path]]:
    files: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        if is_csv(path) and path.stem.lower() in ALIASES:
            files.setdefault(ALIASES[path.stem.lower()], []).append(path)
    return files


# --- FER+ -------------------------------------------------------------------------------------------------------------
def _votes_of(table: _Table, path: Path) -> npt.NDArray[np.float32]:
    """Return (N, 7) float32 soft labels for the rows of `table`, each summing to 1."""
    counts, usages = _read_votes(path)
    if len(counts) != table.total:
        raise InputError(f"{path} has {len(counts)} rows of votes, and there are {table.total} pictures")
    for split, i in zip(table.splits, table.index, strict=True):
        if usages[i] != split:
            raise InputError(f"{path} row {i + 2}: Usage is {USAGES[usages[i]]}, but the picture is {USAGES[split]}")
    chosen = counts[np.array(table.index, np.int64)]
    sums = chosen.sum(1, keepdims=True)
    one_hot = np.eye(len(EMOTIONS), dtype=np.float32)[table.labels]
    return np.where(sums > 0, chosen / np.maximum(sums, 1), one_hot).astype(np.float32)


def _read_votes(path: Path) -> tuple[npt.NDArray[np.float32], list[str]]:
    counts, usages = [], []
    for row, (usage, *votes) in _rows(path, ("usage", *VOTE_COLUMNS)):
        for name, vote in zip(VOTE_COLUMNS, votes, strict=True):
            if not (vote.isascii() and vote.strip().isdigit() and len(vote) < 9):
                raise InputError(f"{path} row {row}: {name} has {_short(vote)} votes, not a whole number")
        try:
            usages.append(_usage(usage))
        except InputError as error:
            raise InputError(f"{path} row {row}: {error}") from None
        counts.append([int(vote) for vote in votes])
    return np.array(counts, np.float32).reshape(-1, len(EMOTIONS)), usages


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names) or "nothing"


def _short(text: str, *, quote: bool = True) -> str:
    cut = text if len(text) <= 20 else text[:20] + "..."
    return repr(cut) if quote else cut
