"""What a search is asked for, and the cut that its result names, as plain values (no torch here: `--help` reads it)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from slimfer.errors import InputError

CutCriterion = Literal["gamma", "l1", "l2", "fpgm", "taylor", "random"]

NO_DROP = 100.0  # points of accuracy: no network loses more


@dataclass(frozen=True)
class CutConfig:
    """A cut of named groups of channels to given widths, as a search finds them.

    Attributes:
        keep: group -> channels that stay; groups are called after the first layer that makes them (`slimfer analyze`
            lists them), and those that are not named stay whole.
        criterion: which channels of a group go first: `taylor` (effect on the loss), `gamma` (BN scales; norms of
            filters where there are none), `l1`, `l2`, `fpgm` or `random`.
        images: training pictures that `taylor` looks at.
        recalibrate: batches of training pictures for new BN statistics after the cut; 0 = keep the old ones.
    """

    keep: Mapping[str, int] = field(default_factory=dict)
    criterion: CutCriterion = "taylor"
    images: int = 1024
    recalibrate: int = 40

    def __post_init__(self) -> None:
        """Refuse values outside their range."""
        if self.criterion not in get_args(CutCriterion):
            told = ", ".join(get_args(CutCriterion))
            raise InputError(f"criterion must be one of {told}, not {self.criterion}")
        for name, width in self.keep.items():
            if width < 1:
                raise InputError(f"keep of {name} must be at least 1 channel, not {width}")
        if self.images < 1:
            raise InputError(f"images must be at least 1, not {self.images}")
        if self.recalibrate < 0:
            raise InputError(f"recalibrate must be at least 0, not {self.recalibrate}")


@dataclass(frozen=True)
class SearchConfig:
    """The search for the network that loses least within a budget. Widths respect [slim.limits].

    Attributes:
        max_size: bytes of the file; 0 = no limit.
        max_latency: milliseconds for one picture on one thread, median; 0 = no limit.
        max_mac: multiply-adds for one picture; 0 = no limit.
        max_drop: percentage points of accuracy that may be lost against the dense network; 100 = no limit. Without
            another limit the smallest file that loses no more is searched.
        bits: that the weights of a layer may have; the first and the last layer keep those of [quantize] `ends`.
        ratios: shares of its channels that each group loses in the measurement of what cuts cost.
        images: validation pictures that measurement reads; 0 = all.
        calibration: training pictures for it.
        cut_loss: share of the loss of a cut that is left after fine-tuning, against that of rounding; above 0.
        trials: plans that are fine-tuned and compared, at most: the first as `cut_loss` says, the next with 4 times and
            with a quarter of it (bits first, cuts first), and so on. With `max_drop` alone: sizes between the last that
            lost no more and the first that lost too much.
        samples: networks that are really cut and rounded, but not trained, in a study that looks for what the losses of
            single parts cannot tell; its best plan is one more trial. 0 = no study.
        trial_epochs: of fine-tuning, and of training with integers, in each trial.
        margin: share of a limit that plans leave free, because the last bytes are known only after training.
        rounds: turns of a file when it is timed.
        pareto: also train the best networks of 1, 1/2, 1/4, ... of the size with 8 bits.
        controls: also train what the search has to beat at the same bytes.
    """

    max_size: int = 0
    max_latency: float = 0.0
    max_mac: int = 0
    max_drop: float = NO_DROP
    bits: tuple[int, ...] = (8, 6, 4, 3, 2)
    ratios: tuple[float, ...] = (0.25, 0.5, 0.75, 0.9)
    images: int = 1024
    calibration: int = 512
    cut_loss: float = 0.25
    trials: int = 3
    samples: int = 0
    trial_epochs: int = 1
    margin: float = 0.01
    rounds: int = 20
    pareto: bool = False
    controls: bool = False

    def __post_init__(self) -> None:
        """Refuse values outside their range."""
        for name, low, high in (
            ("max_size", 0, 10**12),
            ("max_latency", 0, 10**7),
            ("max_mac", 0, 10**15),
            ("max_drop", -100, 100),
            ("cut_loss", 1e-3, 1e3),
            ("trials", 1, 9),
            ("samples", 0, 100_000),
            ("trial_epochs", 1, 10_000),
            ("margin", 0, 0.5),
            ("rounds", 1, 1000),
        ):
            if not low <= getattr(self, name) <= high:
                raise InputError(f"{name} must be between {low} and {high}, not {getattr(self, name)}")
        if not self.bits or not all(2 <= bits <= 8 for bits in self.bits):
            raise InputError(f"bits must be between 2 and 8, not {list(self.bits)}")
        if not self.ratios or not all(0 < ratio < 1 for ratio in self.ratios):
            raise InputError(f"ratios must be above 0 and below 1, not {list(self.ratios)}")

    @property
    def wanted(self) -> bool:
        """Return whether there is a limit to search for."""
        return self.bounded or self.max_drop != NO_DROP

    @property
    def bounded(self) -> bool:
        """Return whether costs are limited; otherwise it is the size that is searched."""
        return bool(self.max_size or self.max_latency or self.max_mac)

    def weighings(self) -> tuple[float, ...]:
        """Return `cut_loss` as it is for each trial: as given, four times, a quarter, sixteen times, ..."""
        powers = [0, *(sign * step for step in range(1, self.trials) for sign in (1, -1))]
        return tuple(self.cut_loss * 4.0**power for power in powers[: self.trials])
