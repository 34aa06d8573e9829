"""SeLa: self-labelling by optimal transport."""

from ssl_zoo.models.registry import Method, lazy_classes


METHOD = Method(
    name="SeLa",
    title="self-labelling by simultaneous clustering and representation learning",
    paper="https://huggingface.co/papers/1911.05371",
    # The released eval_resnet.py: 0.1 with a batch of 1024, a tenth from epochs 85 and 128 on, 146 epochs.
    linear_probe={
        "epochs": 146,
        "batch_size": 1024,
        "head_learning_rate": 0.025,
        "decay_epochs": (85, 128),
        "weight_decay": 0.0,
        "nesterov": False,
    },
)
__getattr__ = lazy_classes(__name__)
