"""PAWS: predicting view assignments with support samples."""

from ssl_zoo.models.registry import lazy_exports


EXPORTS = {
    "PawsConfig": "configuration_paws",
    "PawsForImageClassification": "modeling_paws",
    "PawsForPreTraining": "modeling_paws",
    "PawsModel": "modeling_paws",
    "PawsPreTrainingOutput": "modeling_paws",
}
__getattr__ = lazy_exports(__name__, EXPORTS)
