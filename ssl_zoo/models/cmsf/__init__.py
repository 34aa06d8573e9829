"""CMSF: constrained mean shift, with few labels, with all, or with none."""

from ssl_zoo.models.registry import lazy_exports


EXPORTS = {
    "CmsfConfig": "configuration_cmsf",
    "CmsfForImageClassification": "modeling_cmsf",
    "CmsfForPreTraining": "modeling_cmsf",
    "CmsfModel": "modeling_cmsf",
    "CmsfPreTrainingOutput": "modeling_cmsf",
}
__getattr__ = lazy_exports(__name__, EXPORTS)
