"""From pixels to what a network reads: the one definition that training, export and runtime share.

`x = (pixel - 128) / 64`. Zero point 128 and scale 1/64 make the normalization the integer graph's own input
dequantization, which costs nothing at run time; both are exact in float32 and in bfloat16, so no route can differ.
"""

import numpy as np
import numpy.typing as npt

ZERO_POINT = 128
SCALE = 1.0 / 64.0


def normalize(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Map uint8 pixels of any shape to float32 in [-2, 1.984375]."""
    return (pixels.astype(np.float32) - np.float32(ZERO_POINT)) * np.float32(SCALE)
