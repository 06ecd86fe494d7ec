"""What a compression is made of, as plain values that are recorded with it (no torch here: `--help` reads it)."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from slimfer.compress.goal import CutConfig
from slimfer.errors import InputError
from slimfer.train.config import TrainConfig

Criterion = Literal["l1", "l2", "fpgm", "taylor", "random"]
Schedule = Literal["oneshot", "cubic"]
Ranges = Literal["minmax", "percentile", "mse"]
WeightRule = Literal["ste", "lsq", "dorefa"]
ActivationRule = Literal["ste", "lsq", "pact"]


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
class PruneConfig:
    """Filter pruning by other scores than BN scales.

    Attributes:
        criterion: `l1` or `l2` (norm of each filter), `fpgm` (distance to the layer's other filters), `taylor` (effect
            on the loss, to first order) or `random`.
        ratio: share of all channels to cut, in [0, 1).
        params: number of parameters to come as close to as possible; 0 = go by the ratio.
        passes: rounds of cutting and fine-tuning that `slimfer prune` makes to get there.
        finetune: whether `slimfer prune` fine-tunes after each cut, as [finetune] says; with several passes it does.
        images: training pictures that `taylor` looks at.
        recalibrate: batches of training pictures for new BN statistics after the cut; 0 = keep the old ones.
        limits: see `Limits`.
    """

    criterion: Criterion = "l1"
    ratio: float = 0.7
    params: int = 0
    passes: int = 1
    finetune: bool = False
    images: int = 1024
    recalibrate: int = 40
    limits: Limits = field(default_factory=lambda: Limits(round_to=8))

    def __post_init__(self) -> None:
        """Refuse values outside their range, and passes without training in between."""
        _check_choice("criterion", self.criterion, Criterion)
        if not 0 <= self.ratio < 1:
            raise InputError(f"ratio must be at least 0 and below 1, not {self.ratio}")
        if self.params < 0:
            raise InputError(f"params must be at least 0, not {self.params}")
        if not 1 <= self.passes <= 20:
            raise InputError(f"passes must be between 1 and 20, not {self.passes}")
        if self.passes > 1 and not self.finetune:
            raise InputError(f"{self.passes} passes of pruning need fine-tuning between them, not finetune = false")
        if self.images < 1:
            raise InputError(f"images must be at least 1, not {self.images}")
        if self.recalibrate < 0:
            raise InputError(f"recalibrate must be at least 0, not {self.recalibrate}")

    def each_pass(self, params: int = 0) -> "tuple[PruneConfig, ...]":
        """Return the settings of each pass: every one keeps the same share of what the one before it left.

        Args:
            params: of the network before the first pass; only needed if several are to reach a number of parameters.
        """
        if self.passes == 1:
            return (self,)
        share, ratio = self.params / max(params, 1), 1 - (1 - self.ratio) ** (1 / self.passes)
        targets = [round(params * share ** (number / self.passes)) for number in range(1, self.passes + 1)]
        return tuple(replace(self, passes=1, ratio=ratio, params=target) for target in targets)


@dataclass(frozen=True)
class MaskConfig:
    """Single weights set to zero and kept there: unstructured, or N of every M.

    Attributes:
        sparsity: share of each layer's weights to set to zero, in [0, 1); by magnitude, the smallest go.
        keep: with `group`: of every `group` weights along the input, this many stay; 0 = unstructured.
        group: see `keep`.
        layers: glob patterns of layer names; a layer that matches none keeps all its weights. One that begins with `!`
            takes the layers that match it out again.
        per_layer: glob pattern -> sparsity of the layers that match it, over `sparsity` (the first match counts).
        biases: whether biases are masked too.
        schedule: in training under the mask, `oneshot` keeps what is zero at its start; `cubic` lets the sparsity grow
            from there (Zhu and Gupta 2017, arXiv 1710.01878), so that a chain needs no step `mask` before it.
        ramp: share of that training over which a `cubic` sparsity grows, above 0 and at most 0.9.
        updates: times that it grows.
    """

    sparsity: float = 0.3
    keep: int = 0
    group: int = 0
    layers: tuple[str, ...] = ("*",)
    per_layer: Mapping[str, float] = field(default_factory=dict)
    biases: bool = False
    schedule: Schedule = "oneshot"
    ramp: float = 0.5
    updates: int = 20

    def __post_init__(self) -> None:
        """Refuse values outside their range, and what N:M masks cannot have."""
        for name, value in (("sparsity", self.sparsity), *((f"sparsity of {k}", v) for k, v in self.per_layer.items())):
            if not 0 <= value < 1:
                raise InputError(f"{name} must be at least 0 and below 1, not {value}")
        if (self.keep or self.group) and not 0 < self.keep < self.group <= 64:
            raise InputError(f"N:M masks keep 1 to M-1 of M <= 64 weights, not {self.keep} of {self.group}")
        _check_choice("schedule", self.schedule, Schedule)
        others = {"biases": self.biases, "per_layer": self.per_layer, "schedule cubic": self.schedule == "cubic"}
        for name, given in others.items():
            if self.keep and given:
                raise InputError(f"{name} does not go with N:M masks (here {self.keep} of {self.group})")
        if not 0 < self.ramp <= 0.9:
            raise InputError(f"ramp must be above 0 and at most 0.9, not {self.ramp}")
        if not 1 <= self.updates <= 1000:
            raise InputError(f"updates must be between 1 and 1000, not {self.updates}")


@dataclass(frozen=True)
class DsdConfig:
    """Dense-sparse-dense training after a first, dense one (Han et al. 2017); [mask] says what is zero in between.

    Attributes:
        rounds: of sparse and dense phases; 2 is DSDSD.
        control: the same phases at the same rates without any mask: what the method has to beat.
        sparse: the training of each sparse phase.
        dense: the training of each dense phase, at a lower rate.
    """

    rounds: int = 1
    control: bool = False
    sparse: TrainConfig = field(default_factory=lambda: TrainConfig(epochs=10, lr=0.02))
    dense: TrainConfig = field(default_factory=lambda: TrainConfig(epochs=10, lr=0.01))

    def __post_init__(self) -> None:
        """Refuse values outside their range."""
        if not 1 <= self.rounds <= 20:
            raise InputError(f"rounds must be between 1 and 20, not {self.rounds}")


@dataclass(frozen=True)
class DistillConfig:
    """What teachers give a network during training.

    Attributes:
        weight: share of the teachers' term in the loss (lambda), in [0, 1]; 0 = no teacher.
        temperature: softens both sides' probabilities, above 0.
        square: whether the teachers' term is multiplied by T^2, so that its gradient does not shrink with T (Hinton et
            al. 2015); the code of MicroExpNet has no such factor.
        teachers: runs, checkpoints or artifacts whose softened probabilities are averaged; empty = the network that a
            chain started from, before the first cut.
        mirror: whether teachers also see each picture mirrored, and both answers are averaged.
        features: weight of the relations between penultimate features (Park et al. 2019) that is added to the loss; 0 =
            none, 25 = the usual one. Artifacts show no features, and a cache keeps none.
        cache: folder for the teachers' answers, so that another run with the same seed, pictures and augmentation
            reads instead of computing them; empty = computed live.
    """

    weight: float = 0.7
    temperature: float = 2.0
    square: bool = True
    teachers: tuple[str, ...] = ()
    mirror: bool = False
    features: float = 0.0
    cache: str = ""

    def __post_init__(self) -> None:
        """Refuse values outside their range."""
        if not 0 <= self.weight <= 1:
            raise InputError(f"distill weight must be between 0 and 1, not {self.weight}")
        if not 0 < self.temperature <= 100:
            raise InputError(f"temperature must be above 0 and at most 100, not {self.temperature}")
        if not 0 <= self.features <= 10_000:
            raise InputError(f"weight of features must be between 0 and 10000, not {self.features}")
        if self.features and self.cache:
            raise InputError("a cache keeps the teachers' answers, not their features: use features = 0, or no cache")


@dataclass(frozen=True)
class SweepConfig:
    """What `slimfer distill` trains besides one taught student; chains of steps have no use for it.

    Attributes:
        temperatures: one student for each, instead of the one of [distill].
        weights: one student for each, instead of the one of [distill]; with both, for each pair.
        control: whether the same student is also trained without a teacher; a sweep always has this control.
    """

    temperatures: tuple[float, ...] = ()
    weights: tuple[float, ...] = ()
    control: bool = False


@dataclass(frozen=True)
class QuantizeConfig:
    """Static quantization to integers.

    Attributes:
        bits: of the weights, 2-8; 32 leaves the network in float.
        activations: bits of the activations, 8 or 4.
        per_layer: glob pattern -> bits of the weights of the layers that match it (the first match counts); these go
            over `bits` and over `ends`.
        ends: bits of the weights of the first and the last layer, and of the activations that they read.
        images: training pictures for calibration.
        ranges: how a range is chosen from what was seen: `minmax`, `percentile` or `mse` (least squares).
        equalize: cross-layer equalization before anything else.
        correct_bias: whether to take the shift of each channel's mean off its bias.
        correct_gain: whether to take the shrinkage of each channel's signal off its scale.
    """

    bits: int = 8
    activations: int = 8
    per_layer: Mapping[str, int] = field(default_factory=dict)
    ends: int = 8
    images: int = 1024
    ranges: Ranges = "minmax"
    equalize: bool = False
    correct_bias: bool = True
    correct_gain: bool = True

    def __post_init__(self) -> None:
        """Refuse values outside their range."""
        for name, bits in (("ends", self.ends), *((f"bits of {k}", v) for k, v in self.per_layer.items())):
            if not 2 <= bits <= 8:
                raise InputError(f"{name} must be between 2 and 8, not {bits}")
        if not (2 <= self.bits <= 8 or self.bits == 32):
            raise InputError(f"bits must be between 2 and 8, or 32 for float, not {self.bits}")
        if self.activations not in (4, 8):
            raise InputError(f"activations must be 8 or 4, not {self.activations}")
        _check_choice("ranges", self.ranges, Ranges)


@dataclass(frozen=True)
class QatConfig:
    """Quantization-aware training: the quantized network goes on learning.

    Attributes:
        weights: how weights are quantized while they learn: `ste` (scales follow the largest weight; straight-through
            gradient), `lsq` (learned scales; Esser et al. 2020) or `dorefa` (tanh before rounding; Zhou et al. 2016).
        activations: `ste` (ranges stay as calibrated), `lsq` (learned scales) or `pact` (learned clipping; Choi et al.
            2018).
        train: the training.
    """

    weights: WeightRule = "lsq"
    activations: ActivationRule = "lsq"
    train: TrainConfig = field(default_factory=lambda: TrainConfig(epochs=6, lr=0.01))

    def __post_init__(self) -> None:
        """Refuse unknown rules."""
        _check_choice("weights", self.weights, WeightRule)
        _check_choice("activations", self.activations, ActivationRule)


@dataclass(frozen=True)
class CompressConfig:
    """The settings of every kind of step that a chain may have (see `slimfer.compress.pipeline.STEPS`).

    Attributes:
        train: the first training (not used when a trained network is given).
        slim: the cut by BN scales, and the penalty before it.
        prune: a cut by another criterion.
        cut: a cut of named groups of channels to given widths.
        mask: single weights set to zero.
        finetune: the training after each cut.
        dsd: dense-sparse-dense training.
        distill: the teachers' part in every training after the first; in the first, if it names teachers.
        sweep: what `slimfer distill` trains besides.
        quantize: the integers.
        qat: training with integers.
    """

    train: TrainConfig = field(default_factory=TrainConfig)
    slim: SlimConfig = field(default_factory=SlimConfig)
    prune: PruneConfig = field(default_factory=PruneConfig)
    cut: CutConfig = field(default_factory=CutConfig)
    mask: MaskConfig = field(default_factory=MaskConfig)
    finetune: TrainConfig = field(default_factory=lambda: TrainConfig(epochs=30, lr=0.05))
    dsd: DsdConfig = field(default_factory=DsdConfig)
    distill: DistillConfig = field(default_factory=DistillConfig)
    sweep: SweepConfig = field(default_factory=SweepConfig)
    quantize: QuantizeConfig = field(default_factory=QuantizeConfig)
    qat: QatConfig = field(default_factory=QatConfig)


@dataclass(frozen=True)
class AnalyzeConfig:
    """Layer-wise analysis: which trials, and what they are judged on.

    Attributes:
        ratios: shares of its channels that each group loses, each in (0, 1); empty = none of these trials.
        bits: bits that each layer's weights get, each 2-8; empty = none of these trials.
        images: validation pictures that every trial reads, drawn so that each class has its share; 0 = all.
        calibration: training pictures for BN statistics and for the corrections of rounded layers.
        recalibrate: measure the BN statistics behind a cut anew.
        rounds: runs of the exported network whose layers are timed; 0 = no timing.
        tolerance: cross-entropy, in nats, that the suggested bits may add in sum.
    """

    ratios: tuple[float, ...] = (0.25, 0.5, 0.75, 0.9)
    bits: tuple[int, ...] = (8, 6, 4, 3, 2)
    images: int = 1024
    calibration: int = 512
    recalibrate: bool = True
    rounds: int = 100
    tolerance: float = 0.02

    def __post_init__(self) -> None:
        """Refuse values outside their range."""
        for ratio in self.ratios:
            if not 0 < ratio < 1:
                raise InputError(f"ratios must be above 0 and below 1, not {ratio}")
        for bits in self.bits:
            if not 2 <= bits <= 8:
                raise InputError(f"bits must be between 2 and 8, not {bits}")
        if self.images and self.images < 16:
            raise InputError(f"images must be at least 16, or 0 for all, not {self.images}")
        if self.calibration < 16:
            raise InputError(f"calibration must be at least 16 pictures, not {self.calibration}")
        if not 0 <= self.rounds <= 10_000:
            raise InputError(f"rounds must be between 0 and 10000, not {self.rounds}")
        if not 0 <= self.tolerance <= 100:
            raise InputError(f"tolerance must be between 0 and 100 nats, not {self.tolerance}")


def _check_choice(name: str, value: str, choices: object) -> None:
    if value not in get_args(choices):
        raise InputError(f"{name} must be one of {', '.join(get_args(choices))}, not {value}")
