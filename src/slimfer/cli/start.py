"""What a run starts from: MODEL on the command line, or the recipe's [model] table."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from slimfer.cli.resolve import ArtifactFile, Network, load_checkpoint, resolve
from slimfer.errors import InputError
from slimfer.recipes import ModelRecipe, Recipe

if TYPE_CHECKING:
    from slimfer.data.frames import Dataset
    from slimfer.model.spec import NetSpec
    from slimfer.train.checkpoint import Checkpoint

# Plain training has no slimming penalty unless a flag or the recipe says so.
PLAIN = replace(Recipe(), slim=replace(Recipe().slim, penalty=0.0))


def name_start(recipe: ModelRecipe, text: str | None) -> ModelRecipe:
    """Return the table with `text` as what to start from, when it was given.

    Raises:
        InputError: if neither the command line nor the recipe names a start, or `text` names nothing trainable.
    """
    if text is None:
        if not recipe.builder and not recipe.checkpoint:
            raise InputError("no network given: name one (slimfer models lists them), or a recipe with a [model] table")
        return recipe
    model = resolve(text)
    if isinstance(model, ArtifactFile):
        raise InputError(f"{model.path} is a finished artifact; give the checkpoint or the run that it came from")
    if isinstance(model, Network):
        return replace(recipe, builder=model.name, checkpoint="")
    return replace(recipe, builder="", checkpoint=text)


def open_start(recipe: Recipe) -> "tuple[Checkpoint | None, Dataset]":
    """Return the trained network to start from, if the recipe names one, and the data in the form that it needs.

    Raises:
        InputError: if there is no such data or network, or a split for training is missing.
    """
    from slimfer.data.loader import load

    if not recipe.data.source:
        raise InputError("no data given: --data FOLDER, or --data synthetic for drawn faces")
    checkpoint = load_checkpoint(recipe.model.checkpoint) if recipe.model.checkpoint else None
    form = checkpoint.spec if checkpoint else recipe.model
    votes = Path(recipe.data.votes) if recipe.data.votes else None
    dataset = load(recipe.data.source, image=form.image, channels=form.channels, votes=votes)
    for split in ("train", "validation"):
        if split not in dataset:
            raise InputError(f"{recipe.data.source} has no {split} split (it has {', '.join(dataset) or 'nothing'})")
    return checkpoint, dataset


def fresh_spec(recipe: ModelRecipe, classes: int) -> "NetSpec":
    """Return the spec of an untrained network."""
    from slimfer.model.spec import NetSpec

    return NetSpec(recipe.builder, classes, recipe.channels, recipe.image, recipe.args)


def first_network(recipe: Recipe, checkpoint: "Checkpoint | None", dataset: "Dataset") -> "Checkpoint":
    """Return the trained network to start from, or else a fresh one whose BN scales suit the recipe's penalty."""
    from slimfer.compress.slim import INITIAL_GAMMA
    from slimfer.train.loop import initial

    if checkpoint is not None:
        return checkpoint
    classes = dataset["train"].classes
    gamma = INITIAL_GAMMA if recipe.slim.penalty else 1.0
    return initial(fresh_spec(recipe.model, len(classes)), classes, seed=recipe.train.seed, gamma=gamma)
