"""PAWS: predicting view assignments with support samples."""

from ssl_zoo.models.registry import Method, lazy_classes


METHOD = Method(
    name="PAWS",
    title="predicting view assignments with support samples",
    paper="https://huggingface.co/papers/2104.13963",
)
__getattr__ = lazy_classes(__name__)
