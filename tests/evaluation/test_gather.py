import numpy as np
import torch

from ssl_zoo.evaluation.metrics.classification import average_precisions, mean_per_class_accuracy, top_k_accuracy
from ssl_zoo.evaluation.metrics.clustering import clustering_agreement
from ssl_zoo.evaluation.metrics.modules import gather_once
from tests.two_processes import run_in_two_processes


def shares(rank, world_size, batch_size):
    """Batches of one process: every sample on one process only, uneven last batches, ids out of order."""
    rng = np.random.default_rng(0)
    labels = rng.integers(7, size=101)
    scores = (rng.normal(size=(101, 7)) + 2 * np.eye(7)[labels]).astype(np.float32)
    ids = torch.randperm(101, generator=torch.Generator().manual_seed(0))[rank::world_size]
    return [(part, torch.tensor(scores)[part], torch.tensor(labels)[part]) for part in ids.split(batch_size)]


def measure(parts):
    ids, scores, labels = (column.numpy() for column in gather_once(parts, device="cpu", num_samples=101))
    predicted = scores.argmax(axis=1)
    return ids.tolist(), {
        **top_k_accuracy(labels, scores),
        **clustering_agreement(labels, predicted),
        "mean_per_class_accuracy": mean_per_class_accuracy(labels, predicted),
        "average_precisions": average_precisions(labels[:, None] == np.arange(7), scores).tolist(),
    }


def measure_a_share(rank):
    return measure(shares(rank, 2, 16))


def refusal(parts):
    try:
        gather_once(parts, device="cpu", num_samples=101)
    except ValueError as error:
        return str(error)


def gather_the_same_share(rank):
    return refusal(shares(0, 2, 16))


def gather_too_few(rank):
    return refusal(shares(rank, 2, 16)[: 4 - rank])


def test_two_processes_count_every_sample_once():
    alone = measure(shares(0, 1, 1000))
    assert alone[0] == list(range(101))
    assert run_in_two_processes(measure_a_share) == [alone, alone]


def test_two_processes_notice_what_is_twice_or_missing():
    for message in run_in_two_processes(gather_the_same_share):
        assert message.startswith("sample ")
        assert "more than once, as were 50 others" in message
    for message in run_in_two_processes(gather_too_few):
        assert "samples were gathered, but there are 101" in message
