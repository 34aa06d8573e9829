"""k-NN accuracy of a model in training, whose features are not kept on disk."""

from collections.abc import Sequence

import torch

from ssl_zoo.data.errors import DataError
from ssl_zoo.data.source import ImageSource
from ssl_zoo.data.views import ImageTransform
from ssl_zoo.evaluation.frozen.knn import WeightedKnn, count_correct
from ssl_zoo.features.extract import Encoder, Reading, evaluation_batches, extract_features, labelled_rows


__all__ = ["knn_accuracy"]


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
    """Weighted k-NN accuracy of an encoder: the neighbours come from `bank`, the queries from `test`.

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
    table = labelled_rows(extract_features(encode, bank, view, reading, description=f"{description}, {bank.split}"))
    if len(table.labels) == 0:
        raise _no_labels(bank)
    classifier = WeightedKnn(table.features, table.labels, temperature=temperature, device=reading.device)
    batches = evaluation_batches(test, view, reading, description=f"{description}, {test.split}")
    queries = ((encode(batch.views[0])[batch.labels >= 0], batch.labels[batch.labels >= 0]) for batch in batches)
    *correct, total = count_correct(classifier, queries, k=k)
    if total == 0:
        raise _no_labels(test)
    return {size: right / total for size, right in zip(k, correct, strict=True)}


def _no_labels(source: ImageSource) -> DataError:
    return DataError(
        f"Split {source.split!r} of {source.path!r} has no labels, which k-NN needs. If it has a column of classes, "
        "name it with `data.label_column`; otherwise choose other splits"
    )
