"""The protocols by the names of the command line."""

from collections.abc import Callable

from ssl_zoo.evaluation.protocols.classifiers import knn, linear, logistic
from ssl_zoo.evaluation.protocols.evaluation import Evaluation
from ssl_zoo.evaluation.protocols.tuning import linear_paper, tuned
from ssl_zoo.evaluation.protocols.unsupervised import clusters, spectrum
from ssl_zoo.evaluation.results import Result


__all__ = ["PROTOCOLS"]

PROTOCOLS: dict[str, Callable[[Evaluation], list[Result]]] = {
    "knn": knn,
    "linear": linear,
    "linear_paper": linear_paper,
    "logistic": logistic,
    "semi1": tuned("semi1"),
    "semi10": tuned("semi10"),
    "finetune": tuned("finetune"),
    "clusters": clusters,
    "spectrum": spectrum,
}
"""Name on the command line -> what measures; results are complete on the main process."""
