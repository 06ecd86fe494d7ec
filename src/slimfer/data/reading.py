"""What every reader is asked, and whom it tells about rows and pictures that it cannot use."""

from dataclasses import dataclass, field
from pathlib import Path

from slimfer.errors import InputError


class Witness:
    """Told what a reader meets. This one stands behind `load`: the first problem ends the reading.

    `slimfer.data.inspect` has another, which writes all problems down, and so the reader leaves out what it cannot use.

    Attributes:
        thorough: whether the reader should also make checks that cost a look at every byte.
    """

    thorough = False

    def problem(self, where: str, what: str) -> None:
        """Take note of a row or picture that cannot be used.

        Raises:
            InputError: always, here.
        """
        raise InputError(f"{where}: {what}")

    def size(self, width: int, height: int) -> None:
        """Take note of the stored size of one picture, in pixels."""


@dataclass(frozen=True)
class Request:
    """What is wanted from a dataset.

    Attributes:
        image: height and width in pixels that pictures are brought to.
        channels: 1 (gray) or 3 (RGB).
        votes: file of FER+ votes to use as soft labels.
        witness: told about problems.
    """

    image: int = 48
    channels: int = 1
    votes: Path | None = None
    witness: Witness = field(default_factory=Witness)

    def __post_init__(self) -> None:
        """Refuse sizes that no network reads."""
        if not 8 <= self.image <= 1024:
            raise InputError(f"image must be between 8 and 1024 pixels, not {self.image}")
        if self.channels not in (1, 3):
            raise InputError(f"channels must be 1 or 3, not {self.channels}")
