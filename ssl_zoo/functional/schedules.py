"""Schedules as functions of the progress of a run: no state, so a resumed run needs none restored."""

import math


__all__ = ["cosine", "warmup_cosine"]


def cosine(start: float, end: float, progress: float) -> float:
    """Half a cosine from `start` to `end`: flat at both ends, halfway at `progress` 0.5.

    Args:
        start: Value at `progress` 0, returned exactly.
        end: Value at `progress` 1, returned exactly. May be larger than `start`.
        progress: Share of the run that is done. Values outside [0, 1] count as 0 or 1.

    Returns:
        The value at `progress`, between `start` and `end`.
    """
    weight = 0.5 * (1.0 + math.cos(math.pi * min(max(progress, 0.0), 1.0)))
    return weight * start + (1.0 - weight) * end


def warmup_cosine(
    step: float, *, total_steps: float, warmup_steps: float = 0, start_factor: float = 0.0, end_factor: float = 0.0
) -> float:
    """Factor on the peak learning rate: linear from `start_factor` to 1, then half a cosine to `end_factor`.

    Args:
        step: Optimiser steps done so far (0 for the first step).
        total_steps: Optimiser steps of the whole run, warm-up included; > 0.
        warmup_steps: Optimiser steps until the peak, in [0, total_steps]; 0 starts at the peak.
        start_factor: Factor at step 0 of a warm-up (MIRA starts at 0.3 / peak learning rate, not at 0).
        end_factor: Factor at `total_steps` and after it.

    Returns:
        The factor at `step`.

    Raises:
        ValueError: If `total_steps` is not positive or `warmup_steps` lies outside [0, total_steps].
    """
    if total_steps <= 0:
        raise ValueError(f"`total_steps` must be > 0, got {total_steps}")
    if not 0 <= warmup_steps <= total_steps:
        raise ValueError(f"`warmup_steps` must lie in [0, total_steps={total_steps}], got {warmup_steps}")
    if step < warmup_steps:
        return start_factor + (1.0 - start_factor) * step / warmup_steps
    return cosine(1.0, end_factor, (step - warmup_steps) / max(total_steps - warmup_steps, 1e-12))
