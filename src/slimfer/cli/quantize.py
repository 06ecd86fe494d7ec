"""`slimfer quantize`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated

from cyclopts import Group, Parameter

from slimfer.cli.common import Answer, Common
from slimfer.cli.flags import (
    TRAINING,
    Data,
    Force,
    Out,
    RecipeFile,
    Resume,
    StepFlags,
    Votes,
    base_recipe,
    default_of,
    over_data,
    override,
)
from slimfer.cli.start import name_start
from slimfer.cli.steps import finish_step, open_step, run_planned
from slimfer.compress.config import ActivationRule, QatConfig, QuantizeConfig, Ranges, WeightRule
from slimfer.errors import InputError

_PTQ, _QAT = QuantizeConfig(), QatConfig()


@Parameter(name="*", group=Group("Integers", sort_key=60))
@dataclass(frozen=True)
class IntegerFlags:
    """Flags over the recipe's [quantize] table.

    Attributes:
        bits: of the weights, 2-8.
        activations: bits of the activations, 8 or 4.
        ends: bits of the first and the last layer's weights, and of what the last one reads.
        per_layer: bits of the weights of the layers that match a glob pattern; may be given several times.
        images: training pictures to calibrate on.
        ranges: how a range is chosen from what was seen.
        equalize: even out the channels between layers first (cross-layer equalization).
    """

    bits: Annotated[int | None, default_of(_PTQ, "bits")] = None
    activations: Annotated[int | None, default_of(_PTQ, "activations")] = None
    ends: Annotated[int | None, default_of(_PTQ, "ends")] = None
    per_layer: Annotated[tuple[str, ...], Parameter(metavar="NAME=BITS", negative="", show_default="none")] = ()
    images: Annotated[int | None, default_of(_PTQ, "images")] = None
    ranges: Annotated[Ranges | None, default_of(_PTQ, "ranges")] = None
    equalize: bool = False

    def over(self, config: QuantizeConfig) -> QuantizeConfig:
        """Return `config` with the flags that were given over it.

        Raises:
            InputError: if one is out of range.
        """
        values = vars(self) | {
            "per_layer": parse_per_layer(self.per_layer) or None,
            "equalize": self.equalize or None,
        }
        return override(config, **values)


@Parameter(name="*", group=TRAINING)
@dataclass(frozen=True)
class QatFlags:
    """Flags over the recipe's [qat] table.

    Attributes:
        qat: train on with integers after calibration (quantization-aware training), taught by the float network.
        qat_weights: how weights learn while they are rounded.
        qat_activations: how ranges of activations learn.
        qat_epochs: passes over the training split.
        qat_lr: highest learning rate.
    """

    qat: bool = False
    qat_weights: Annotated[WeightRule | None, default_of(_QAT, "weights")] = None
    qat_activations: Annotated[ActivationRule | None, default_of(_QAT, "activations")] = None
    qat_epochs: Annotated[int | None, default_of(_QAT.train, "epochs")] = None
    qat_lr: Annotated[float | None, default_of(_QAT.train, "lr")] = None

    def over(self, config: QatConfig, steps: StepFlags, seed: int | None) -> QatConfig:
        """Return `config` with the flags that were given, and those of every training, over it."""
        train = steps.over(override(config.train, epochs=self.qat_epochs, lr=self.qat_lr), seed)
        return override(config, weights=self.qat_weights, activations=self.qat_activations, train=train)

    def asked(self, steps: Sequence[Mapping[str, object]]) -> bool:
        """Return whether to train, by flag or because the recipe's `steps` have it.

        Raises:
            InputError: if it is not asked for, but one of its settings is given.
        """
        if self.qat or any(step.get("do") == "qat" for step in steps):
            return True
        if given := [name for name, value in vars(self).items() if value is not None and name != "qat"]:
            raise InputError(f"--{given[0].replace('_', '-')} is for training with integers; add --qat")
        return False


def quantize(
    model: str | None = None,
    /,
    *,
    out: Out,
    data: Data = None,
    recipe: RecipeFile = None,
    votes: Votes = None,
    resume: Resume = False,
    force: Force = False,
    integers: IntegerFlags = IntegerFlags(),
    training: QatFlags = QatFlags(),
    steps: StepFlags = StepFlags(),
    common: Common = Common(),
) -> Answer:
    """Turn a trained network into integers: calibrate on training pictures, freeze scales; train on if asked.

    Args:
        model: a run folder or a checkpoint.
        out: see flags.
        data: see flags.
        recipe: see flags.
        votes: see flags.
        resume: see flags.
        force: see flags.
        integers: see `IntegerFlags`.
        training: see `QatFlags`.
        steps: see `StepFlags`.
        common: see `Common`.
    """
    base = base_recipe(recipe, out, resume=resume)
    kinds = ("quantize", "qat") if training.asked(base.steps) else ("quantize",)
    seed = base.train.seed if common.seed is None else common.seed
    resolved = replace(
        base,
        data=over_data(base.data, data, votes),
        model=name_start(base.model, model),
        train=replace(base.train, seed=seed),
        quantize=integers.over(base.quantize),
        qat=training.over(base.qat, steps, common.seed),
        steps=tuple({"do": kind} for kind in kinds),
    )
    tables = ("quantize", "qat", "distill", "steps") if "qat" in kinds else ("quantize",)
    with open_step(resolved, tables, out, common, seed=seed, resume=resume, force=force) as step:
        stages = run_planned(step, resolved.plan(trained=True), common)
        hint = f"slimfer export {out} --out model.onnx"
        return finish_step(step, stages, hint)


def parse_per_layer(texts: Sequence[str]) -> dict[str, int]:
    """Return pattern -> bits of texts `NAME=BITS`.

    Raises:
        InputError: if a text is none.
    """
    bits = {}
    for text in texts:
        name, _, number = text.rpartition("=")
        if not name or not number.isdecimal():
            raise InputError(f"--per-layer is NAME=BITS, such as 'layer1.*=4', not {text!r}")
        bits[name] = int(number)
    return bits
