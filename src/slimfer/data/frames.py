"""What every reader returns: pictures of one split as one uint8 array, with labels."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from slimfer.errors import InputError


@dataclass(frozen=True)
class Frames:
    """The pictures of one split.

    Attributes:
        images: (N, C, H, W) uint8, C = 1 (gray) or 3 (RGB); may be memory-mapped and read-only.
        labels: (N,) int64 indices into `classes`.
        classes: the class names, in the order of the network's outputs.
        votes: (N, K) float32 soft labels whose rows sum to 1, or None.
        names: where each picture came from (file or row), for messages and reports; may be empty.
    """

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
    classes: tuple[str, ...]
    votes: npt.NDArray[np.float32] | None = None
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check that the arrays belong together."""
        if self.images.ndim != 4 or self.images.dtype != np.uint8 or self.images.shape[1] not in (1, 3):
            raise InputError(f"images must be (N, 1 or 3, H, W) uint8, not {self.images.shape} {self.images.dtype}")
        if len(self.labels) != len(self.images):
            raise InputError(f"{len(self.images)} images but {len(self.labels)} labels")
        if len(self.labels) and not 0 <= int(self.labels.min()) <= int(self.labels.max()) < len(self.classes):
            raise InputError(f"labels must be between 0 and {len(self.classes) - 1}")
        if self.votes is not None and self.votes.shape != (len(self.labels), len(self.classes)):
            raise InputError(f"votes must be ({len(self.labels)}, {len(self.classes)}), not {self.votes.shape}")
        if self.names and len(self.names) != len(self.labels):
            raise InputError(f"{len(self.labels)} labels but {len(self.names)} names")

    def __len__(self) -> int:
        """Return the number of pictures."""
        return len(self.labels)

    @property
    def channels(self) -> int:
        """Return 1 (gray) or 3 (RGB)."""
        return int(self.images.shape[1])

    @property
    def side(self) -> int:
        """Return the height and width in pixels."""
        return int(self.images.shape[2])

    def take(self, index: npt.NDArray[np.int64]) -> "Frames":
        """Return the pictures at `index`, in that order."""
        return replace(
            self,
            images=self.images[index],
            labels=self.labels[index],
            votes=None if self.votes is None else self.votes[index],
            names=tuple(self.names[i] for i in index) if self.names else (),
        )

    def targets(self) -> npt.NDArray[np.float32]:
        """Return (N, K) float32 target probabilities: the votes, or one-hot labels."""
        if self.votes is not None:
            return self.votes
        return np.eye(len(self.classes), dtype=np.float32)[self.labels]


# A dataset is its splits by name: "train", "validation", "test" (any subset).
Dataset = Mapping[str, Frames]
