"""Run a torch network over a split; the scores come from `slimfer.metrics`, as for an .onnx file."""

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from slimfer.data.frames import Frames
from slimfer.model.mode import evaluating
from slimfer.preprocess import normalize


def predict_logits(
    net: nn.Module, frames: Frames, *, batch_size: int = 256, bf16: bool = False
) -> npt.NDArray[np.float32]:
    """Return (N, K) logits of a single pass over `frames`; the network's mode and device are kept.

    Args:
        net: takes normalized pixels (N, C, H, W).
        frames: the pictures.
        batch_size: pictures at a time (does not change the result beyond rounding).
        bf16: whether to run under bf16 autocast, as training does.
    """
    device = next((parameter.device for parameter in net.parameters()), torch.device("cpu"))
    rows = []
    with evaluating(net), torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=bf16):
        for start in range(0, len(frames), batch_size):
            x = torch.from_numpy(normalize(np.ascontiguousarray(frames.images[start : start + batch_size])))
            x = x.to(device).contiguous(memory_format=torch.channels_last)
            rows.append(net(x).float().cpu().numpy())
    return np.concatenate(rows) if rows else np.zeros((0, len(frames.classes)), np.float32)


def softmax(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return probabilities over the last axis."""
    shifted = np.exp(logits - logits.max(-1, keepdims=True))
    return shifted / shifted.sum(-1, keepdims=True)
