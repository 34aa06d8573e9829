"""Supervised: plain cross-entropy on known labels, whether people gave them or a model."""

from ssl_zoo.models.registry import lazy_exports


EXPORTS = {
    "SupervisedConfig": "configuration_supervised",
    "SupervisedForImageClassification": "modeling_supervised",
    "SupervisedForPreTraining": "modeling_supervised",
    "SupervisedModel": "modeling_supervised",
    "SupervisedPreTrainingOutput": "modeling_supervised",
}
__getattr__ = lazy_exports(__name__, EXPORTS)
