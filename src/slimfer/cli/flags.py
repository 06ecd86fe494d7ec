"""Flags that several verbs share, and how they go over a recipe: flag, then recipe, then default."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from cyclopts import Group, Parameter

from slimfer.compress.config import CompressConfig, SlimConfig
from slimfer.errors import InputError
from slimfer.recipes import DataRecipe, Recipe, read_recipe
from slimfer.train.config import TrainConfig

Config = TypeVar("Config")

Data = Annotated[str | None, Parameter(help="Dataset: a folder, .zip, .csv or packed file, or `synthetic`.")]
Votes = Annotated[Path | None, Parameter(help="FER+ votes (fer2013new.csv) beside fer2013.csv, as soft labels.")]
Out = Annotated[Path, Parameter(alias="-o", help="Run folder; must be new or empty unless --resume or --force.")]
RecipeFile = Annotated[Path | None, Parameter(help="TOML recipe; flags go over its values.")]
Resume = Annotated[bool, Parameter(help="Go on with the run in --out, exactly where it stopped.")]
NoPictures = Annotated[bool, Parameter(help="Neither keep nor show the pictures of mistakes and of labels in doubt.")]
Force = Annotated[bool, Parameter(help="Remove the earlier run in --out and start afresh.")]


def default_of(config: Any, name: str) -> Parameter:
    """Return how the help shows a flag that is None when it is not given: with the config's default."""
    return Parameter(show_default=str(getattr(config, name)))


TRAINING = Group("Training", sort_key=50)

_CHAIN = CompressConfig()
_TRAIN, _SLIM = _CHAIN.train, _CHAIN.slim


@Parameter(name="*", group=TRAINING)
@dataclass(frozen=True)
class TrainFlags:
    """Flags over the recipe's [train] table alone.

    Attributes:
        epochs: passes over the training split.
        lr: highest learning rate.
    """

    epochs: Annotated[int | None, default_of(_TRAIN, "epochs")] = None
    lr: Annotated[float | None, default_of(_TRAIN, "lr")] = None

    def over(self, config: TrainConfig) -> TrainConfig:
        """Return `config` with the flags that were given over it."""
        return override(config, epochs=self.epochs, lr=self.lr)


@Parameter(name="*", group=TRAINING)
@dataclass(frozen=True)
class FinetuneFlags:
    """Flags over the recipe's [finetune] table alone.

    Attributes:
        finetune_epochs: passes over the training split after each cut.
        finetune_lr: highest learning rate after each cut.
    """

    finetune_epochs: Annotated[int | None, default_of(_CHAIN.finetune, "epochs")] = None
    finetune_lr: Annotated[float | None, default_of(_CHAIN.finetune, "lr")] = None

    def over(self, config: TrainConfig) -> TrainConfig:
        """Return `config` with the flags that were given over it."""
        return override(config, epochs=self.finetune_epochs, lr=self.finetune_lr)


@Parameter(name="*", group=TRAINING)
@dataclass(frozen=True)
class StepFlags:
    """Flags over every training of a run, the first one and the fine-tuning.

    Attributes:
        batch_size: pictures per step.
        optimizer: sgd (Nesterov momentum) or adamw.
        weight_decay: of convolutions and linear layers.
        label_smoothing: weight of the uniform distribution in the target.
        class_weights: balanced weighs classes by inverse frequency.
        early_stop: epochs without improvement before stopping; 0 is never.
        mixup: alpha of mixup; 0 is off.
        precision: arithmetic of the training; auto is bf16 where the processor has it.
    """

    batch_size: Annotated[int | None, default_of(_TRAIN, "batch_size")] = None
    optimizer: Annotated[Literal["sgd", "adamw"] | None, default_of(_TRAIN, "optimizer")] = None
    weight_decay: Annotated[float | None, default_of(_TRAIN, "weight_decay")] = None
    label_smoothing: Annotated[float | None, default_of(_TRAIN, "label_smoothing")] = None
    class_weights: Annotated[Literal["none", "balanced"] | None, default_of(_TRAIN, "class_weights")] = None
    early_stop: Annotated[int | None, default_of(_TRAIN, "early_stop")] = None
    mixup: Annotated[float | None, default_of(_TRAIN.augment, "mixup")] = None
    precision: Annotated[Literal["auto", "bf16", "fp32"] | None, default_of(_TRAIN, "precision")] = None

    def over(self, config: TrainConfig, seed: int | None) -> TrainConfig:
        """Return `config` with the flags that were given, and the seed if it was, over it."""
        values = asdict(self)
        augment = override(config.augment, mixup=values.pop("mixup"))
        return override(config, **values, seed=seed, augment=augment)


@Parameter(name="*", group=Group("Slimming", sort_key=60))
@dataclass(frozen=True)
class SlimFlags:
    """Flags over the recipe's [slim] table.

    Attributes:
        ratio: share of all channels to cut.
        passes: rounds of cutting and fine-tuning.
        round_to: round the width of every layer to a multiple of this; 1 is off.
        min_channels: channels that stay in every layer.
        max_layer_ratio: largest share of one layer that a pass may cut.
        penalty: lambda of the L1 penalty on BN scales in training.
    """

    ratio: Annotated[float | None, default_of(_SLIM, "ratio")] = None
    passes: Annotated[int | None, default_of(_SLIM, "passes")] = None
    round_to: Annotated[int | None, default_of(_SLIM.limits, "round_to")] = None
    min_channels: Annotated[int | None, default_of(_SLIM.limits, "min_channels")] = None
    max_layer_ratio: Annotated[float | None, default_of(_SLIM.limits, "max_layer_ratio")] = None
    penalty: Annotated[float | None, default_of(_SLIM, "penalty")] = None

    def over(self, config: SlimConfig) -> SlimConfig:
        """Return `config` with the flags that were given over it."""
        limits = override(
            config.limits,
            round_to=self.round_to,
            min_channels=self.min_channels,
            max_layer_ratio=self.max_layer_ratio,
        )
        return override(config, ratio=self.ratio, passes=self.passes, penalty=self.penalty, limits=limits)


def override(config: Config, **values: Any) -> Config:
    """Return the dataclass `config` with those of `values` that are not None."""
    given = {name: value for name, value in values.items() if value is not None}
    return replace(config, **given)  # type: ignore[type-var]


def numbers(flag: str, text: str | None) -> tuple[float, ...] | None:
    """Return the numbers of `1,2,4,8`.

    Raises:
        InputError: if the text is no list of numbers.
    """
    if text is None:
        return None
    try:
        return tuple(float(number) for number in text.split(","))
    except ValueError:
        raise InputError(f"{flag} takes numbers with commas between them, such as 1,2,4; not {text!r}") from None


def base_recipe(recipe: Path | None, out: Path, *, resume: bool, defaults: Recipe | None = None) -> Recipe:
    """Return what the flags go over: the recipe, else that of the run which is resumed, else the defaults."""
    written = out / "recipe.toml"
    if recipe is None and resume and written.is_file():
        recipe = written
    return read_recipe(recipe, defaults) if recipe else (defaults or Recipe())


def with_width(args: Mapping[str, Any], width: float | None) -> dict[str, Any]:
    """Return the builder's arguments with the width multiplier, when one was given."""
    return dict(args) if width is None else {**args, "width": width}


def over_data(recipe: DataRecipe, data: str | None, votes: Path | None) -> DataRecipe:
    """Return the [data] table with the flags that were given over it."""
    return override(recipe, source=data, votes=None if votes is None else str(votes))
