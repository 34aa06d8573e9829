"""Self-supervised vision models that assign labels to themselves, at home on the Hugging Face Hub."""

import importlib
from typing import Any

from ssl_zoo.models.registry import public_classes, register_with_transformers
from ssl_zoo.zoo.entries import list_models, model_info


__version__ = "0.1.0"

_CLASSES = public_classes()
__all__ = ["list_models", "model_info", *_CLASSES]
register_with_transformers()


def __getattr__(name: str) -> Any:
    if name not in _CLASSES:
        raise AttributeError(f"module 'ssl_zoo' has no attribute '{name}'")
    return getattr(importlib.import_module(_CLASSES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
