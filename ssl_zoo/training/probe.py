"""k-NN accuracy of a model that is being trained."""

from dataclasses import replace

from ssl_zoo.data.source import open_source
from ssl_zoo.evaluation.online_knn import knn_accuracy
from ssl_zoo.features.extract import Reading
from ssl_zoo.loading.view import model_view
from ssl_zoo.nn.backbone import pooled_features
from ssl_zoo.training.session import Session


__all__ = ["probe"]


def probe(session: Session) -> float:
    """Weighted k-NN accuracy of the branch that the method evaluates, by the recipe's protocol.

    Every process computes its share and returns the same number. The model is left in training mode.
    """
    recipe, config = session.recipe, session.recipe.evaluation
    backbone = session.core.get_submodule("timm_model")
    session.share_buffers()
    session.core.eval()
    accuracy = knn_accuracy(
        lambda images: pooled_features(backbone, images)[1],
        open_source(replace(recipe.data, split=config.train_split, max_rows=config.max_bank_rows)),
        open_source(replace(recipe.data, split=config.test_split, max_rows=None)),
        model_view(session.core),
        k=(config.k,),
        temperature=config.temperature,
        reading=Reading(
            batch_size=config.batch_size,
            num_workers=recipe.data.num_workers,
            max_corrupt_share=recipe.data.max_corrupt_share,
            device=session.accelerator.device,
        ),
    )
    session.core.train()
    return accuracy[config.k]
