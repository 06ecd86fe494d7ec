"""The three splits, the names that others give them, and a sample of one."""

import numpy as np
import numpy.typing as npt

from slimfer.errors import InputError

SPLITS: tuple[str, ...] = ("train", "validation", "test")

# Lower-case; the last three are what FER2013 writes in its column Usage.
ALIASES: dict[str, str] = {
    **{name: name for name in SPLITS},
    "val": "validation",
    "valid": "validation",
    "dev": "validation",
    "training": "train",
    "publictest": "validation",
    "privatetest": "test",
}

# How FER2013 names them.
USAGES: dict[str, str] = {"train": "Training", "validation": "PublicTest", "test": "PrivateTest"}


def split_of(name: str) -> str | None:
    """Return the split that `name` stands for, in any case, or None."""
    return ALIASES.get(name.strip().lower())


def stratified(labels: npt.NDArray[np.int64], count: int, seed: int = 0) -> npt.NDArray[np.int64]:
    """Return `count` places of `labels`, ascending, drawn so that each class has its share; all if there are fewer.

    Each class gets the whole part of its share, and the largest fractions one more, so every class is within one
    picture of its share.

    Raises:
        InputError: if `count` is below 1.
    """
    if count < 1:
        raise InputError(f"a sample needs at least 1 picture, not {count}")
    if count >= len(labels):
        return np.arange(len(labels), dtype=np.int64)
    rng = np.random.default_rng(seed)
    classes, sizes = np.unique(labels, return_counts=True)
    shares = sizes * count / len(labels)
    takes = shares.astype(np.int64)
    takes[np.argsort(takes - shares, kind="stable")[: count - takes.sum()]] += 1
    drawn = [rng.permutation(np.flatnonzero(labels == c))[:take] for c, take in zip(classes, takes, strict=True)]
    return np.sort(np.concatenate(drawn))
