"""A small network trained with the slimming penalty, shared by the tests of this room."""

import pytest
import torch

from slimfer.compress.slim import INITIAL_GAMMA, SlimmingPenalty
from slimfer.data.frames import Dataset
from slimfer.data.synthetic import synthetic
from slimfer.model.spec import NetSpec
from slimfer.train.checkpoint import Checkpoint
from slimfer.train.config import AugmentConfig, TrainConfig
from slimfer.train.loop import fit, initial

# The synthetic faces vary enough by themselves.
QUICK = TrainConfig(
    epochs=10, batch_size=64, average=0.98, augment=AugmentConfig(rotate=0, shift=0.04, scale=0, light=0, erase=0)
)


@pytest.fixture(scope="session")
def faces() -> Dataset:
    return synthetic(n_train=2560, n_validation=700, n_test=70, seed=3)


@pytest.fixture(scope="session")
def sparse(faces: Dataset) -> Checkpoint:
    """ResNet-18 of width 0.125 after a few epochs with the penalty: reads most faces, has idle channels."""
    torch.set_num_threads(1)
    start = initial(NetSpec("resnet18", args={"width": 0.125}), faces["train"].classes, seed=0, gamma=INITIAL_GAMMA)
    return fit(start, faces["train"], faces["validation"], QUICK, hooks=[SlimmingPenalty(3e-3)])
