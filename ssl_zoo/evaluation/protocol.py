"""Evaluation protocols: from an encoder and two splits to a number, the same for any number of processes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from ssl_zoo.data.errors import DataError
from ssl_zoo.data.source import ImageSource
from ssl_zoo.data.views import ImageTransform
from ssl_zoo.evaluation.features import Encoder, evaluation_batches, extract_features, gather_table
from ssl_zoo.evaluation.knn import WeightedKnn
from ssl_zoo.functional.distributed import all_reduce_sum_


__all__ = ["Assigner", "PseudoLabels", "Reading", "assign_pseudo_labels", "knn_accuracy"]

Assigner = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
"""Images `(batch, 3, height, width)` on the device -> pseudo-labels and confidence, each of shape `(batch,)`."""


@dataclass(frozen=True)
class Reading:
    """How images are read and where they are computed on; none of it changes a result.

    Attributes:
        batch_size: Images per forward pass.
        num_workers: Loader processes of each process.
        max_corrupt_share: Corrupt rows are skipped and named in the log up to this share.
        device: Where the model is.
    """

    batch_size: int = 256
    num_workers: int = 2
    max_corrupt_share: float = 0.01
    device: torch.device | str = "cpu"


@dataclass(frozen=True)
class PseudoLabels:
    """What a model with prototypes makes of a split, ordered by sample id.

    Attributes:
        sample_ids (`torch.Tensor` of shape `(rows,)`): Global row numbers, int64.
        pseudo_labels (`torch.Tensor` of shape `(rows,)`): Number of the prototype, int64.
        confidence (`torch.Tensor` of shape `(rows,)`): Its probability, float32.
        labels (`torch.Tensor` of shape `(rows,)`): Class, int64; -1 where there is none.
    """

    sample_ids: torch.Tensor
    pseudo_labels: torch.Tensor
    confidence: torch.Tensor
    labels: torch.Tensor


@torch.no_grad()
def knn_accuracy(
    encode: Encoder,
    bank: ImageSource,
    test: ImageSource,
    view: ImageTransform,
    *,
    k: Sequence[int] = (20,),
    temperature: float = 0.07,
    reading: Reading | None = None,
    description: str = "k-NN",
) -> dict[int, float]:
    """Weighted k-NN accuracy of an encoder: the neighbours come from `bank`, the questions from `test`.

    The test images are classified as they are read, so memory grows with the bank only. Correct answers are counted
    in whole numbers over all processes. Images without a label are left out.

    Args:
        encode (`Encoder`): The model, in evaluation mode.
        bank (`ImageSource`): Labelled images that vote.
        test (`ImageSource`): Labelled images to classify.
        view (`ImageTransform`): Makes the one view of either.
        k: Numbers of neighbours, all measured in one pass.
        temperature: Temperature of the votes' weights.
        reading ([`Reading`], *optional*): How images are read.
        description: What the progress bars begin with.

    Returns:
        `dict[int, float]`: Share of the test images that are classified correctly for each `k`, in [0, 1].

    Raises:
        DataError: If a split has no labels or too many corrupt rows.
        ValueError: If a `k` is larger than the bank.
    """
    for source in (bank, test):
        if source.label_column is None:
            raise _no_labels(source)
    reading = reading or Reading()
    table = extract_features(encode, bank, view, **vars(reading), description=f"{description}, {bank.split}")
    labelled = table.labels >= 0
    if not bool(labelled.any()):
        raise _no_labels(bank)
    classifier = WeightedKnn(
        table.features[labelled], table.labels[labelled], temperature=temperature, device=reading.device
    )
    classifier.check_k(k)
    counts = torch.zeros(len(k) + 1, dtype=torch.int64, device=reading.device)
    for batch in evaluation_batches(test, view, **vars(reading), description=f"{description}, {test.split}"):
        labelled = batch.labels >= 0
        found = classifier.predict(encode(batch.views[0])[labelled], k=k)
        counts[:-1] += (found == batch.labels[labelled]).sum(dim=1)
        counts[-1] += labelled.sum()
    *correct, total = all_reduce_sum_(counts).tolist()
    if total == 0:
        raise _no_labels(test)
    return {size: right / total for size, right in zip(k, correct, strict=True)}


@torch.no_grad()
def assign_pseudo_labels(
    assign: Assigner,
    source: ImageSource,
    view: ImageTransform,
    *,
    reading: Reading | None = None,
    description: str = "pseudo-labels",
) -> PseudoLabels:
    """Ask a model for the pseudo-label of every image of a source.

    Args:
        assign (`Assigner`): A pretraining model's `pseudo_labels`, in evaluation mode.
        source (`ImageSource`): The images; class labels are kept when there are any.
        view (`ImageTransform`): Makes the one view.
        reading ([`Reading`], *optional*): How images are read.
        description: What the progress bar says.

    Returns:
        [`PseudoLabels`]: of all readable images, the same on every process.

    Raises:
        DataError: If too many rows are corrupt.
    """
    reading = reading or Reading()
    parts: list[tuple[torch.Tensor, ...]] = []
    for batch in evaluation_batches(source, view, **vars(reading), description=description):
        pseudo_labels, confidence = assign(batch.views[0])
        columns = (batch.sample_ids, pseudo_labels, confidence.float(), batch.labels)
        parts.append(tuple(column.cpu() for column in columns))
    return PseudoLabels(*gather_table(parts, device=reading.device))


def _no_labels(source: ImageSource) -> DataError:
    return DataError(
        f"Split {source.split!r} of {source.path!r} has no labels, which k-NN needs. If it has a column of classes, "
        "name it with `data.label_column`; otherwise choose other splits."
    )
