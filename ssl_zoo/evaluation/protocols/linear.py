"""Linear probe on frozen features: a grid of learning rates, the best chosen on validation rows."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ssl_zoo.evaluation.results import Result
from ssl_zoo.protocol import Metric, Protocol
from ssl_zoo.settings.declare import plain, require, setting


if TYPE_CHECKING:
    from ssl_zoo.evaluation.evaluation import Evaluation


__all__ = ["METRICS", "PROTOCOL", "LinearProbe", "measure"]

METRICS = (
    Metric("linear_top1", "linear top-1", unit="%", hub_type="accuracy", parameters=("paper",)),
    Metric("linear_top5", "linear top-5", unit="%", parameters=("paper",)),
)


@dataclass(frozen=True)
class LinearProbe:
    """SGD on features that are brought to one scale; weights start at 0.

    Methods leave features of very different sizes (an average of ReLUs, a unit vector, the output of a batch norm):
    one grid of rates fits all of them only when they are standardised.
    """

    learning_rates: tuple[float, ...] = setting(
        tuple(10 ** (-5 + step / 3) for step in range(13)), "grid, for batches of 256 rows; scaled by batch_size / 256"
    )
    epochs: int = setting(100, "passes over the training rows; the rate falls to 0 along half a cosine")
    batch_size: int = setting(1024, "rows per step; the steps of an epoch differ by one row at most")
    momentum: float = setting(0.9, "momentum of SGD")
    weight_decay: float = setting(0.0, "weight decay, of the weights only")
    standardize: bool = setting(True, "bring every feature to mean 0 and variance 1 over the training rows")
    validation_share: float = setting(0.1, "share of each class to choose by, where no validation split is given")
    seed: int = setting(0, "seed of the order of the rows and of the validation rows")

    def __post_init__(self) -> None:
        """Refuse values that no probe can use."""
        rates = self.learning_rates
        increasing = bool(rates) and min(rates) > 0 and list(rates) == sorted(set(rates)) and math.isfinite(max(rates))
        require(increasing, "learning_rates", "finite, > 0, increasing and at least one", rates)
        for name in ("epochs", "batch_size"):
            require(getattr(self, name) >= 1, name, ">= 1", getattr(self, name))
        require(0 <= self.momentum < 1, "momentum", "in [0, 1)", self.momentum)
        require(self.weight_decay >= 0, "weight_decay", ">= 0", self.weight_decay)


def measure(evaluation: "Evaluation", settings: LinearProbe) -> list[Result]:
    """Top-1 and top-5, on the main process."""
    from ssl_zoo.evaluation.evaluation import on_main_process
    from ssl_zoo.evaluation.frozen.linear import linear_probe

    tables = evaluation.tables()
    with on_main_process() as is_main:
        if not is_main:
            return []
        result = linear_probe(
            *tables,
            settings=settings,
            device=evaluation.reading.device,
            description=f"Linear probe of {evaluation.subject.name.replace('_', ' ')}",
        )
    values = {"linear_top1": result.test_top1, "linear_top5": result.test_top5}
    return [
        evaluation.result(
            name, value, {"name": "linear", **plain(settings)}, num_answers=result.num_test, details=result.details()
        )
        for name, value in values.items()
        if value is not None
    ]


PROTOCOL = Protocol(settings=LinearProbe(), metrics=METRICS, measure=measure)
