"""Images in: sources (Hub, folder, embedded set), their order, and the views that a model sees."""

from ssl_zoo.data.decode import CorruptImageError, decode_image
from ssl_zoo.data.source import DataConfig, DataError, ImageSource, open_source
from ssl_zoo.data.stream import Batch, CorruptCounter, ReadPosition, ViewStream
from ssl_zoo.data.views import EvalView, ImageTransform, MultiView, RawPixels
from ssl_zoo.data.views_config import ViewsConfig


__all__ = [
    "Batch",
    "CorruptCounter",
    "CorruptImageError",
    "DataConfig",
    "DataError",
    "EvalView",
    "ImageSource",
    "ImageTransform",
    "MultiView",
    "RawPixels",
    "ReadPosition",
    "ViewStream",
    "ViewsConfig",
    "decode_image",
    "open_source",
]
