"""MIRA: mutual information regularised assignment."""

from ssl_zoo.models.registry import lazy_exports


EXPORTS = {
    "MiraConfig": "configuration_mira",
    "MiraForImageClassification": "modeling_mira",
    "MiraForPreTraining": "modeling_mira",
    "MiraModel": "modeling_mira",
    "MiraPreTrainingOutput": "modeling_mira",
}
__getattr__ = lazy_exports(__name__, EXPORTS)
