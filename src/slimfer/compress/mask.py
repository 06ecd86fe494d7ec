"""Single weights set to zero and kept there."""

from slimfer.compress.config import MaskConfig
from slimfer.train.checkpoint import Checkpoint
from slimfer.train.loop import Hook


def mask(checkpoint: Checkpoint, config: MaskConfig) -> Checkpoint:
    """Set the smallest weights of each layer to zero."""
    raise NotImplementedError


class Mask(Hook):
    """Keeps the weights at zero that were zero in the checkpoint that training started from."""

    def __init__(self, checkpoint: Checkpoint, config: MaskConfig) -> None:
        """Take the zeros of `checkpoint` in the layers that `config` names."""
        raise NotImplementedError
