"""What a compression is made of, as plain values that are recorded with it (no torch here: `--help` reads it)."""

from dataclasses import dataclass, field, replace
from typing import Literal

from slimfer.errors import InputError
from slimfer.train.config import TrainConfig


@dataclass(frozen=True)
class Limits:
    """What a choice of channels must respect.

    Attributes:
        min_channels: channels that stay in every layer, whatever the ratio.
        max_layer_ratio: largest share of one layer that may go in one pass (Liu et al. 2017 use 0.5 in multi-pass).
        round_to: round the width of every layer to a multiple of this (8 suits the integer kernels); 1 = off.
    """

    min_channels: int = 1
    max_layer_ratio: float = 1.0
    round_to: int = 1

    def __post_init__(self) -> None:
        """Refuse values outside their range."""
        if self.min_channels < 1:
            raise InputError(f"min_channels must be at least 1, not {self.min_channels}")
        if not 0 < self.max_layer_ratio <= 1:
            raise InputError(f"max_layer_ratio must be above 0 and at most 1, not {self.max_layer_ratio}")
        if self.round_to < 1:
            raise InputError(f"round_to must be at least 1, not {self.round_to}")

    def keep(self, size: int, wanted: int) -> int:
        """Return how many of `size` channels stay when the threshold would keep `wanted`."""
        low = max(self.min_channels, size - int(size * self.max_layer_ratio + 1e-9))
        step = self.round_to
        kept = max(step * round(wanted / step), step * -(-low // step))
        return min(size, kept)


@dataclass(frozen=True)
class SlimConfig:
    """Network slimming: how channels are made sparse, chosen and cut.

    Attributes:
        ratio: share of all BN channels to cut, over all passes together, in [0, 1).
        penalty: lambda of the L1 penalty on BN scales during training.
        passes: rounds of cutting and fine-tuning; with more than one, all but the last fine-tune with the penalty.
        reduce: score of a channel that several layers share (a residual stream): `max`, `mean` or `sum` of |gamma|.
        fold: fold what removed channels carried into the next layers.
        recalibrate: batches of training pictures for new BN statistics after the cut; 0 = keep the old ones.
        limits: see `Limits`.
    """

    ratio: float = 0.7
    penalty: float = 2e-4
    passes: int = 1
    reduce: Literal["max", "mean", "sum"] = "max"
    fold: bool = True
    recalibrate: int = 40
    limits: Limits = field(default_factory=lambda: Limits(round_to=8))

    def __post_init__(self) -> None:
        """Refuse values outside their range."""
        if not 0 <= self.ratio < 1:
            raise InputError(f"ratio must be at least 0 and below 1, not {self.ratio}")
        if not 0 <= self.penalty < 1:
            raise InputError(f"penalty must be at least 0 and below 1, not {self.penalty}")
        if not 1 <= self.passes <= 20:
            raise InputError(f"passes must be between 1 and 20, not {self.passes}")

    def one_pass(self) -> "SlimConfig":
        """Return the settings of each single pass: N of them together keep `1 - ratio` of the channels."""
        return replace(self, passes=1, ratio=1 - (1 - self.ratio) ** (1 / self.passes))


@dataclass(frozen=True)
class DistillConfig:
    """What the network before the cut teaches the one after it during fine-tuning.

    Attributes:
        weight: share of the teacher's term in the loss, in [0, 1]; 0 = no teacher.
        temperature: softens both sides' probabilities, above 0.
    """

    weight: float = 0.7
    temperature: float = 2.0

    def __post_init__(self) -> None:
        """Refuse values outside their range."""
        if not 0 <= self.weight <= 1:
            raise InputError(f"distill weight must be between 0 and 1, not {self.weight}")
        if not 0 < self.temperature <= 100:
            raise InputError(f"temperature must be above 0 and at most 100, not {self.temperature}")


@dataclass(frozen=True)
class QuantizeConfig:
    """Static quantization to integers.

    Attributes:
        bits: of the weights; 32 leaves the network in float.
        images: training pictures for calibration.
    """

    bits: int = 8
    images: int = 1024


@dataclass(frozen=True)
class CompressConfig:
    """The whole chain: train with the penalty, slim, fine-tune, quantize.

    Attributes:
        train: the first training (not used when a trained network is given).
        slim: the cut.
        finetune: the training after each cut.
        distill: the teacher's part in fine-tuning.
        quantize: the integers.
    """

    train: TrainConfig = field(default_factory=TrainConfig)
    slim: SlimConfig = field(default_factory=SlimConfig)
    finetune: TrainConfig = field(default_factory=lambda: TrainConfig(epochs=30, lr=0.05))
    distill: DistillConfig = field(default_factory=DistillConfig)
    quantize: QuantizeConfig = field(default_factory=QuantizeConfig)
