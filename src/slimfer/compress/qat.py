"""Quantization-aware training."""

from slimfer.compress.config import QatConfig
from slimfer.train.checkpoint import Checkpoint


def prepare_qat(checkpoint: Checkpoint, config: QatConfig) -> Checkpoint:
    """Return a quantized checkpoint whose quantizers learn as `config` says."""
    raise NotImplementedError


def finish_qat(checkpoint: Checkpoint) -> Checkpoint:
    """Return the checkpoint with plain frozen numbers, ready for export."""
    raise NotImplementedError
