"""CMSF: constrained mean shift, with few labels, with all, or with none."""

from ssl_zoo.models.registry import Method, lazy_classes


METHOD = Method(
    name="CMSF",
    title="constrained mean shift",
    paper="https://huggingface.co/papers/2112.04607",
    # The released eval_linear.py: defaults of its options. It normalises features to unit length and then by their
    # mean and variance over the training set; here batch norm estimates those.
    linear_probe={
        "epochs": 40,
        "batch_size": 256,
        "head_learning_rate": 0.01,
        "decay_epochs": (15, 30),
        "weight_decay": 1e-4,
        "nesterov": False,
        "normalize": "unit_batch_norm",
    },
)
__getattr__ = lazy_classes(__name__)
