"""CorInfoMax: views alike, covariance of the projections as large as it can be."""

from ssl_zoo.models.registry import lazy_exports


EXPORTS = {
    "CorinfomaxConfig": "configuration_corinfomax",
    "CorinfomaxForImageClassification": "modeling_corinfomax",
    "CorinfomaxForPreTraining": "modeling_corinfomax",
    "CorinfomaxModel": "modeling_corinfomax",
    "CorinfomaxPreTrainingOutput": "modeling_corinfomax",
}
__getattr__ = lazy_exports(__name__, EXPORTS)
