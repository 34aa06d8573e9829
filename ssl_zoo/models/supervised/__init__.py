"""Supervised: cross-entropy on known labels, given by people or by another model."""

from ssl_zoo.models.registry import Method, lazy_classes


METHOD = Method(
    name="Supervised",
    title="cross-entropy on given labels, as in SeLa's label transfer",
    paper="https://huggingface.co/papers/1911.05371",
)
__getattr__ = lazy_classes(__name__)
