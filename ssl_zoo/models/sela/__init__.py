"""SeLa: self-labelling by optimal transport."""

from ssl_zoo.models.registry import lazy_exports


EXPORTS = {
    "SelaConfig": "configuration_sela",
    "SelaForImageClassification": "modeling_sela",
    "SelaForPreTraining": "modeling_sela",
    "SelaModel": "modeling_sela",
    "SelaPreTrainingOutput": "modeling_sela",
}
__getattr__ = lazy_exports(__name__, EXPORTS)
