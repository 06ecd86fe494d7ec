"""What a training run is made of, as plain values that are recorded with it (no torch here: `--help` reads it)."""

import math
from dataclasses import dataclass, field
from typing import Literal

from slimfer.errors import InputError


@dataclass(frozen=True)
class AugmentConfig:
    """How training pictures are varied; every value 0 (and `flip` false) leaves them as they are.

    Attributes:
        flip: mirror half of the pictures.
        rotate: largest rotation, degrees.
        shift: largest shift, as a fraction of the side.
        scale: largest change of size, as a fraction.
        light: largest change of contrast and of brightness, as a fraction.
        erase: probability that a rectangle of 2-20 % of the picture becomes noise-free gray (Zhong et al. 2017).
        mixup: parameter alpha of the Beta distribution of mixup (Zhang et al. 2018, arXiv 1710.09412).
    """

    flip: bool = True
    rotate: float = 12.0
    shift: float = 0.08
    scale: float = 0.12
    light: float = 0.25
    erase: float = 0.3
    mixup: float = 0.0

    def __post_init__(self) -> None:
        """Refuse values outside their range, naming value and range."""
        for name, high in (("rotate", 180.0), ("shift", 1.0), ("scale", 0.9), ("light", 1.0), ("erase", 1.0)):
            _check_range(name, getattr(self, name), 0.0, high)
        if self.mixup:
            _check_range("mixup (other than 0)", self.mixup, 0.01, 4.0)


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides the result of one training run, besides data, network and hooks.

    Attributes:
        epochs: passes over the training split.
        batch_size: pictures per step; the last incomplete batch of an epoch is dropped.
        optimizer: `sgd` (Nesterov momentum) or `adamw`.
        lr: highest learning rate.
        momentum: of SGD.
        weight_decay: applied to weights of convolutions and linear layers, not to BN and biases.
        schedule: `cosine` to 0, or `step` (times `step_factor` after each of `step_at`).
        cycles: warm restarts (Loshchilov and Hutter 2017, arXiv 1608.03983): the run is cut into this many equal parts,
            and each goes through the whole schedule, warm-up included.
        warmup: fraction of a cycle over which the rate rises linearly from 0.
        step_at: points of a cycle, as fractions, for `step`.
        step_factor: factor for `step`.
        label_smoothing: weight of the uniform distribution in the target, in [0, 1).
        class_weights: `none`, or `balanced` (inverse class frequency, mean 1 over the pictures).
        average: decay per step of the moving average of weights that is evaluated and kept; 0 = off.
        early_stop: epochs without a better validation accuracy before stopping; 0 = never.
        precision: `auto` (bf16 where the processor has it), `bf16` or `fp32`.
        frozen: glob patterns of layers that do not learn: no gradient, and their BN statistics stay.
        seed: of initial weights, order of pictures and augmentation.
        save_seconds: time between saves within an epoch (one is also made after each epoch).
        augment: see `AugmentConfig`.
    """

    epochs: int = 40
    batch_size: int = 128
    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    schedule: Literal["cosine", "step"] = "cosine"
    cycles: int = 1
    warmup: float = 0.05
    step_at: tuple[float, ...] = (0.5, 0.75)
    step_factor: float = 0.1
    label_smoothing: float = 0.1
    class_weights: Literal["none", "balanced"] = "none"
    average: float = 0.999
    early_stop: int = 0
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    frozen: tuple[str, ...] = ()
    seed: int = 0
    save_seconds: float = 60.0
    augment: AugmentConfig = field(default_factory=AugmentConfig)

    def __post_init__(self) -> None:
        """Refuse values outside their range, naming value and range."""
        for name, low, high in (
            ("epochs", 1, 100_000),
            ("batch_size", 2, 65_536),
            ("cycles", 1, 1_000),
            ("lr", 1e-9, 100.0),
            ("momentum", 0.0, 0.9999),
            ("weight_decay", 0.0, 1.0),
            ("warmup", 0.0, 0.9),
            ("label_smoothing", 0.0, 0.9999),
            ("average", 0.0, 0.999999),
            ("step_factor", 0.0, 1.0),
            ("early_stop", 0, 100_000),
            ("seed", 0, 2**31 - 1),
            ("save_seconds", 0.0, math.inf),
        ):
            _check_range(name, getattr(self, name), low, high)
        for at in self.step_at:
            _check_range("each of step_at", at, 0.0, 1.0)
        for name, choices in (
            ("optimizer", ("sgd", "adamw")),
            ("schedule", ("cosine", "step")),
            ("class_weights", ("none", "balanced")),
            ("precision", ("auto", "bf16", "fp32")),
        ):
            if getattr(self, name) not in choices:
                raise InputError(f"{name} must be one of {', '.join(choices)}, not {getattr(self, name)}")


def _check_range(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:  # refuses NaN too
        raise InputError(f"{name} must be between {low} and {high}, not {value}")
