"""Tolerances for numbers that would be equal without rounding.

Bits are compared only where equal memory went through the same kernels on one machine: weights and features that were
saved, loaded, moved or gathered, ids, a run that was resumed. All else may round differently on another machine.
Memory-mapped weights lie at other alignments than a new model's, one row takes another kernel than many rows, two
threads add up in another order than one. `make test-kernels` finds tests that ignore this.
"""

# float32 features, logits and losses of one network whose weights lie elsewhere or whose batch has another size.
# Measured over 55 of timm's families: 9e-7 of the largest value at most. A weight that is wrong by 1e-3 shows.
SAME_NETWORK = {"rtol": 1e-5, "atol": 1e-5}
