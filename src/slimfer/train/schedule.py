"""What varies over training is a pure function of progress, which runs from 0 (first step) to 1 (end)."""

import math

from slimfer.train.config import TrainConfig


def lr_at(progress: float, config: TrainConfig) -> float:
    """Return the learning rate at `progress` in [0, 1).

    With `cycles` above 1, each cycle is such a run of its own: `progress` below is that within the cycle.

    | progress          | rate                                                             |
    |-------------------|------------------------------------------------------------------|
    | below `warmup`    | rises linearly from 0 to `lr`                                    |
    | above, `cosine`   | `lr * (1 + cos(pi * q)) / 2`, q = share of the rest that is done |
    | above, `step`     | `lr * step_factor ** (number of `step_at` passed)`               |
    """
    progress = progress * config.cycles % 1.0
    if progress < config.warmup:
        return config.lr * progress / config.warmup
    if config.schedule == "step":
        return config.lr * config.step_factor ** sum(progress >= at for at in config.step_at)
    done = (progress - config.warmup) / (1.0 - config.warmup)
    return config.lr * 0.5 * (1.0 + math.cos(math.pi * min(done, 1.0)))
