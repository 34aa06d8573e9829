"""MSF: mean shift for self-supervised learning."""

from ssl_zoo.models.registry import lazy_exports


EXPORTS = {
    "MsfConfig": "configuration_msf",
    "MsfForImageClassification": "modeling_msf",
    "MsfForPreTraining": "modeling_msf",
    "MsfModel": "modeling_msf",
    "MsfPreTrainingOutput": "modeling_msf",
}
__getattr__ = lazy_exports(__name__, EXPORTS)
