"""The three splits, and the names that others give them."""

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
