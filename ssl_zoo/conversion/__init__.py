"""Turns the checkpoints that the methods' authors published into models of this package, all tensors accounted for."""
