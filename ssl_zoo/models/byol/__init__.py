"""BYOL: bootstrap your own latent."""

from ssl_zoo.models.registry import lazy_exports


EXPORTS = {
    "ByolConfig": "configuration_byol",
    "ByolForImageClassification": "modeling_byol",
    "ByolForPreTraining": "modeling_byol",
    "ByolModel": "modeling_byol",
    "ByolPreTrainingOutput": "modeling_byol",
}
__getattr__ = lazy_exports(__name__, EXPORTS)
