"""BYOL: bootstrap your own latent."""

from ssl_zoo.models.registry import Method, lazy_classes


METHOD = Method(
    name="BYOL",
    title="bootstrap your own latent",
    paper="https://huggingface.co/papers/2006.07733",
    # Appendix C.1: 80 epochs, Nesterov, batch 1024, the best of 0.05, 0.1, 0.2, 0.3 and 0.4 on a validation split.
    # This is the middle one. `linear_paper.head_learning_rate` sets another: a quarter of the paper's.
    linear_probe={"epochs": 80, "batch_size": 1024, "head_learning_rate": 0.05, "weight_decay": 0.0},
)
__getattr__ = lazy_classes(__name__)
