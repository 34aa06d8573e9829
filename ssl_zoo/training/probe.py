"""k-NN accuracy of a model that is being trained."""

from dataclasses import replace

from ssl_zoo.data.source import open_source
from ssl_zoo.data.views import EvalView
from ssl_zoo.evaluation.features import FeatureTable, extract_features
from ssl_zoo.evaluation.knn import WeightedKnn
from ssl_zoo.functional.distributed import all_reduce_sum_
from ssl_zoo.nn.backbone import pooled_features
from ssl_zoo.training.session import Session


def knn_accuracy(session: Session) -> float:
    """Weighted k-NN accuracy of the branch that the method evaluates, by the recipe's protocol.

    Every process computes its share and returns the same number. The model is left in training mode.
    """
    config, accelerator = session.recipe.evaluation, session.accelerator
    session.share_buffers()
    session.core.eval()
    bank = _features(session, config.train_split, config.max_bank_rows)
    queries = _features(session, config.test_split, None)
    session.core.train()
    share = slice(accelerator.process_index, None, accelerator.num_processes)
    classifier = WeightedKnn(bank.features, bank.labels, temperature=config.temperature, device=accelerator.device)
    found = classifier.predict(queries.features[share], k=config.k)
    correct = (found == queries.labels[share].to(accelerator.device)).sum()
    return float(all_reduce_sum_(correct)) / len(queries.labels)


def _features(session: Session, split: str, max_rows: int | None) -> FeatureTable:
    recipe, backbone = session.recipe, session.core.get_submodule("timm_model")
    views = recipe.views
    return extract_features(
        lambda images: pooled_features(backbone, images)[1],
        open_source(replace(recipe.data, split=split, max_rows=max_rows)),
        EvalView(
            views.global_size,
            mean=views.mean,
            std=views.std,
            crop_pct=recipe.evaluation.crop_pct,
            interpolation=views.interpolation,
        ),
        batch_size=recipe.evaluation.batch_size,
        num_workers=recipe.data.num_workers,
        max_corrupt_share=recipe.data.max_corrupt_share,
        device=session.accelerator.device,
        description=f"k-NN features, {split}",
    )
