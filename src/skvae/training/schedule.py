"""The learning rate over the course of training."""

from __future__ import annotations

import math


def learning_rate_factor(step: int, n_steps: int, warm_up_steps: int, floor: float = 0.01) -> float:
    """Linear warm-up, then half a cosine down to `floor` (Loshchilov & Hutter 2017).

    Parameters
    ----------
    step : int
        Steps done so far.
    n_steps : int
        Steps planned in all.
    """
    if step < warm_up_steps:
        return (step + 1) / warm_up_steps
    progress = min(1.0, (step - warm_up_steps) / max(1, n_steps - warm_up_steps))
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress))
