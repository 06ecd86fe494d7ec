"""A network that trains in a second, and searches of it."""

from dataclasses import replace
from pathlib import Path

import torch

from helpers import patterns, spec_of
from slimfer.compress.config import CompressConfig, Limits, QatConfig, QuantizeConfig, SlimConfig
from slimfer.compress.goal import CutConfig, SearchConfig
from slimfer.export.seek import Seeker, Tools
from slimfer.recipes import Recipe
from slimfer.train.checkpoint import Checkpoint
from slimfer.train.config import AugmentConfig, TrainConfig
from slimfer.train.loop import fit, initial

QUICK = TrainConfig(
    epochs=1, batch_size=32, lr=0.05, average=0.5, save_seconds=0,
    augment=AugmentConfig(rotate=0, shift=0, scale=0, light=0, erase=0),
)  # fmt: skip
CONFIG = CompressConfig(
    slim=SlimConfig(limits=Limits()),
    cut=CutConfig(images=64, recalibrate=1),
    finetune=replace(QUICK, epochs=2),
    quantize=QuantizeConfig(images=64),
    qat=QatConfig(train=QUICK),
)
GOAL = SearchConfig(ratios=(0.5, 0.75), bits=(8, 4, 2), images=0, calibration=64, trials=2, rounds=1)
DATA = {"train": patterns(160, seed=1), "validation": patterns(96, seed=2)}


def trained() -> Checkpoint:
    torch.set_num_threads(1)
    start = initial(spec_of("residual", "plain", width=20, side=16, image=16), DATA["train"].classes, seed=0)
    return fit(start, DATA["train"], DATA["validation"], replace(QUICK, epochs=6))


def seeker(
    dense: Checkpoint, folder: Path, goal: SearchConfig, config: CompressConfig = CONFIG, **tools: object
) -> Seeker:
    recipe = Recipe(**{**vars(config), "search": goal})

    def resolve(steps):
        whole = replace(recipe, steps=steps)
        return whole.plan(trained=True), whole.tables("steps")

    return Seeker(dense, config, goal, Tools(DATA, folder, resolve, **tools))  # type: ignore[arg-type]
