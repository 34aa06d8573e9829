"""Weighted k-NN on frozen features, DINO's form (https://huggingface.co/papers/2104.14294)."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ssl_zoo.evaluation.results import Result
from ssl_zoo.protocol import Metric, Protocol
from ssl_zoo.settings.declare import setting


if TYPE_CHECKING:
    from ssl_zoo.evaluation.evaluation import Evaluation


__all__ = ["PROTOCOL", "KnnSettings", "measure"]


@dataclass(frozen=True)
class KnnSettings:
    """How neighbours vote."""

    k: tuple[int, ...] = setting((1, 10, 20, 100, 200), "numbers of neighbours, measured in one pass")
    temperature: float = setting(0.07, "temperature of the neighbours' weights exp(similarity / temperature)")


def measure(evaluation: "Evaluation", settings: KnnSettings) -> list[Result]:
    """The accuracy for each k; the processes share the test rows."""
    from ssl_zoo.evaluation.frozen.knn import WeightedKnn, count_correct
    from ssl_zoo.functional.distributed import rank, world_size

    bank, test = evaluation.labelled(evaluation.train), evaluation.labelled(evaluation.test)
    device = evaluation.reading.device
    classifier = WeightedKnn(bank.features, bank.labels, temperature=settings.temperature, device=device)
    share = slice(rank() * len(test.labels) // world_size(), (rank() + 1) * len(test.labels) // world_size())
    *correct, total = count_correct(classifier, [(test.features[share], test.labels[share])], k=settings.k)
    return [
        evaluation.result(
            "knn_top1", right / total, {"name": "knn", "k": k, "temperature": settings.temperature}, num_answers=total
        )
        for k, right in zip(settings.k, correct, strict=True)
    ]


PROTOCOL = Protocol(
    settings=KnnSettings(),
    metrics=(Metric("knn_top1", "k-NN top-1", unit="%", hub_type="accuracy", parameters=("k",)),),
    measure=measure,
)
