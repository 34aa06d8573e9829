"""How far apart the exponents of a kernel in float32 may lie."""

__all__ = ["LARGEST_RANGE", "SMALLEST_POWER"]

SMALLEST_POWER = -87.0
"""Its exponential is the smallest normal number of float32: with smaller ones, products take ten times as long."""

LARGEST_RANGE = 40.0
"""Weights of the columns may move e^40 apart before the kernel is made anew: what has been flushed in it (below e^-87)
could by then have reached 1e-20 of a row or sum. One Sinkhorn step moves them by at most ln(N K)."""
