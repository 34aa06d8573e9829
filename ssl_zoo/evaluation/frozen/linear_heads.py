"""Linear classifiers that learn from the same batches at different learning rates."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F

from ssl_zoo.functional.distributed import all_reduce_sum_


__all__ = ["LinearHeads"]


class LinearHeads:
    """Linear classifiers that see the same batches at different learning rates, each as if it were alone.

    Softmax cross-entropy, or for multi-hot labels the sum over classes of the sigmoid's, averaged over the rows of a
    batch. SGD with momentum, as `torch.optim.SGD`. Weights and biases start at 0: the problem is convex.

    Args:
        learning_rates: One head each, for batches of 256 rows.
        num_features: Width of the features.
        num_classes: Number of classes.
        momentum: Of SGD.
        weight_decay: Of SGD, weights only.
        multi_hot: Labels are `(batch, classes)` of 1, 0, -1 (does not count) instead of `(batch,)`.
        across_processes: Each process steps with a batch of its own; the gradient is that of all of them as one batch.
            Every process must step as often.
        device: Where to compute.
        dtype: Of weights and features.
    """

    def __init__(
        self,
        learning_rates: Sequence[float],
        num_features: int,
        num_classes: int,
        *,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        multi_hot: bool = False,
        across_processes: bool = False,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self._rates = torch.tensor(learning_rates, dtype=torch.float64, device=device)[:, None, None]
        self._momentum, self._weight_decay = momentum, weight_decay
        self._multi_hot, self._across_processes = multi_hot, across_processes
        heads = len(learning_rates)
        self._tensors = {
            "weights": torch.zeros(heads, num_features, num_classes, device=device, dtype=dtype),
            "biases": torch.zeros(heads, 1, num_classes, device=device, dtype=dtype),
        }
        self._tensors |= {f"{name}_momentum": torch.zeros_like(value) for name, value in self._tensors.items()}

    @property
    def weights(self) -> torch.Tensor:
        """Weights `(heads, features, classes)`."""
        return self._tensors["weights"]

    @property
    def biases(self) -> torch.Tensor:
        """Biases `(heads, 1, classes)`."""
        return self._tensors["biases"]

    @torch.no_grad()
    def scores(self, features: torch.Tensor) -> torch.Tensor:
        """Features `(batch, features)` -> logits `(heads, batch, classes)`."""
        # One product per head, so that a head gets the bits that it would get alone.
        inputs = features.to(self.weights.dtype).expand(len(self.weights), -1, -1)
        return torch.baddbmm(self.biases, inputs, self.weights)

    @torch.no_grad()
    def step(self, features: torch.Tensor, labels: torch.Tensor, learning_rate_scale: float = 1.0) -> torch.Tensor:
        """Learn from one batch.

        Args:
            features (`torch.Tensor` of shape `(batch, features)`): On the device.
            labels (`torch.Tensor` of shape `(batch,)` or `(batch, classes)`): -1 does not count.
            learning_rate_scale: The schedule's place, multiplies all rates.

        Returns:
            `torch.Tensor` of shape `(heads,)`: mean loss of each head before the step, over the rows of the gradient.
        """
        features = features.to(self.weights.dtype)
        losses, errors, num_rows = self._errors(self.scores(features), labels)
        gradients = {
            "weights": features.T.expand(len(errors), -1, -1) @ errors,
            "biases": errors.sum(dim=1, keepdim=True),
        }
        if self._across_processes:
            for tensor in (losses, num_rows, *gradients.values()):
                all_reduce_sum_(tensor)
        size = int(num_rows)
        if size == 0:
            return losses
        rates = (self._rates * (size / 256 * learning_rate_scale)).to(features.dtype)
        for name, gradient in gradients.items():
            value, velocity = self._tensors[name], self._tensors[f"{name}_momentum"]
            gradient /= size
            if name == "weights" and self._weight_decay:
                gradient.add_(value, alpha=self._weight_decay)
            velocity.mul_(self._momentum).add_(gradient)
            value.sub_(rates * velocity)
        return losses / size

    def _errors(self, logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Summed loss `(heads,)`, its derivative by the logits, and the number of rows that count."""
        known = labels >= 0
        if self._multi_hot:
            targets = labels.clamp_min(0).to(logits.dtype)
            losses = F.binary_cross_entropy_with_logits(logits, targets.expand_as(logits), reduction="none")
            losses = torch.where(known, losses, 0.0).sum(dim=(1, 2))
            return losses, torch.where(known, logits.sigmoid() - targets, 0.0), known.any(dim=1).sum()
        targets = F.one_hot(labels.clamp_min(0), logits.shape[2]).to(logits.dtype) * known[:, None]
        log_shares = logits.log_softmax(dim=2)
        return -(log_shares * targets).sum(dim=(1, 2)), log_shares.exp() * known[:, None] - targets, known.sum()

    def state_dict(self) -> dict[str, Any]:
        """Weights and momenta, for a checkpoint."""
        return {name: tensor.clone() for name, tensor in self._tensors.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to where `state_dict` was taken."""
        for name, tensor in self._tensors.items():
            if state[name].shape != tensor.shape:
                raise ValueError(
                    f"`{name}` of the state must have shape {tuple(tensor.shape)} to fit these heads, "
                    f"got {tuple(state[name].shape)}"
                )
            tensor.copy_(state[name])
