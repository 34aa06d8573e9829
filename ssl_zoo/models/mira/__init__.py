"""MIRA: mutual information regularised assignment."""

from ssl_zoo.models.registry import Method, lazy_classes


METHOD = Method(
    name="MIRA",
    title="mutual information regularised assignment",
    paper="https://huggingface.co/papers/2211.02284",
    # The paper, appendix: SGD, 0.075 with a batch of 1024, cosine, no weight decay.
    linear_probe={
        "epochs": 100,
        "batch_size": 1024,
        "head_learning_rate": 0.01875,
        "nesterov": False,
        "weight_decay": 0.0,
    },
)
__getattr__ = lazy_classes(__name__)
