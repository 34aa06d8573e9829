"""CorInfoMax: views alike, covariance of the projections as large as it can be."""

from ssl_zoo.models.registry import Method, lazy_classes


METHOD = Method(
    name="CorInfoMax",
    title="correlative information maximisation",
    paper="https://huggingface.co/papers/2209.07999",
    # The authors' command for CIFAR and Tiny-ImageNet; it ends at 0.002 instead of 0.
    linear_probe={"epochs": 100, "batch_size": 256, "head_learning_rate": 0.2, "weight_decay": 0.0, "nesterov": False},
    # Their command for ImageNet: 25 with a batch of 256, a tenth every 20 epochs.
    linear_probe_imagenet={"head_learning_rate": 25.0, "decay_epochs": (20, 40, 60, 80)},
)
__getattr__ = lazy_classes(__name__)
