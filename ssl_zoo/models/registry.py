"""Finds the methods, one folder each, and registers them with transformers' Auto classes.

Registration needs torch, timm and transformers. `import ssl_zoo` doesn't load them: a hook registers the classes once
transformers' own Auto modules are imported. Measured (CPU time, medians of 10): `import ssl_zoo` takes 0.06 s with
the hook, and 6.7 s with registration at import.
"""

import importlib
import importlib.abc
import importlib.machinery
import pkgutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any


__all__ = [
    "Method",
    "config_class_of",
    "display_name",
    "find_method",
    "lazy_classes",
    "method_names",
    "pretraining_class_of",
    "public_classes",
    "register_with_transformers",
]


@dataclass(frozen=True)
class Method:
    """What a method declares as `METHOD` in its `__init__`: plain values for cards and evaluation.

    Args:
        name (`str`): As the paper spells it, such as `"SeLa"`.
        title (`str`): What the name stands for.
        paper (`str`): Address of the paper, `https://huggingface.co/papers/...`.
        linear_probe (`dict`, *optional*): The linear probe of the paper: fields of `FinetuneSettings` that differ from
            its defaults. Learning rates are per 256 images. `None` if the paper has none.
        linear_probe_imagenet (`dict`): What differs from `linear_probe` on the 1000 classes of ImageNet.
    """

    name: str
    title: str
    paper: str
    linear_probe: Mapping[str, Any] | None = None
    linear_probe_imagenet: Mapping[str, Any] = field(default_factory=dict)


# Ending of a class name -> start of the name of the module that defines it.
_MODULES = {
    "Config": "configuration",
    **dict.fromkeys(("ForImageClassification", "ForPreTraining", "Model", "PreTrainingOutput"), "modeling"),
}


def lazy_classes(package: str) -> Callable[[str], Any]:
    """Make the `__getattr__` of a method's package: it imports a class from its module at the first use.

    Args:
        package (`str`): `__name__` of the caller.
    """
    modules = _classes_of(package.rpartition(".")[2])

    def getattr_(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module '{package}' has no attribute '{name}'")
        return getattr(importlib.import_module(modules[name]), name)

    return getattr_


def method_names() -> list[str]:
    """List the methods: the folders beside this file."""
    return sorted(module.name for module in pkgutil.iter_modules([str(Path(__file__).parent)]) if module.ispkg)


def public_classes() -> dict[str, str]:
    """Map the name of every public class of every method to the module that defines it."""
    return {name: module for method in method_names() for name, module in _classes_of(method).items()}


def find_method(method: str) -> Method:
    """Look up what a method's folder declares.

    Args:
        method (`str`): Folder name, which is also the `model_type`, such as `"mira"`.

    Raises:
        ValueError: for an unknown method; the message lists the known ones.
    """
    declared: Method = _package(method).METHOD
    return declared


def display_name(method: str) -> str:
    """How the paper spells a method, such as `"SeLa"`; argument and errors as for `find_method`."""
    return find_method(method).name


def config_class_of(method: str) -> Any:
    """Look up a method's configuration class; argument and errors as for `find_method`."""
    return getattr(_package(method), f"{_prefix(method)}Config")


def pretraining_class_of(method: str) -> Any:
    """Look up a method's `ForPreTraining` class; argument and errors as for `find_method`."""
    return getattr(_package(method), f"{_prefix(method)}ForPreTraining")


def _prefix(method: str) -> str:
    """Prefix of the names of a method's classes: `foo_bar` -> `FooBar`."""
    return method.title().replace("_", "")


def _classes_of(method: str) -> dict[str, str]:
    """Class name -> module; all methods name their classes and modules alike."""
    package = f"ssl_zoo.models.{method}"
    return {f"{_prefix(method)}{ending}": f"{package}.{module}_{method}" for ending, module in _MODULES.items()}


def _package(method: str) -> ModuleType:
    if method not in method_names():
        raise ValueError(f"`method` must be one of {', '.join(method_names())}, got '{method}'")
    return importlib.import_module(f"ssl_zoo.models.{method}")


def _register_configs() -> None:
    auto = sys.modules["transformers.models.auto.configuration_auto"]
    for method in method_names():
        auto.AutoConfig.register(method, config_class_of(method), exist_ok=True)


def _register_models() -> None:
    auto = sys.modules["transformers.models.auto.modeling_auto"]
    endings = {
        "ForPreTraining": auto.AutoModelForPreTraining,
        "ForImageClassification": auto.AutoModelForImageClassification,
        "Model": auto.AutoModel,
    }
    for name, module in public_classes().items():
        for ending, auto_class in endings.items():
            if name.endswith(ending):
                model = getattr(importlib.import_module(module), name)
                auto_class.register(model.config_class, model, exist_ok=True)


def _register_image_processors() -> None:
    auto = sys.modules["transformers.models.auto.image_processing_auto"]
    from transformers import TimmWrapperImageProcessor

    for method in method_names():
        auto.AutoImageProcessor.register(
            config_class_of(method),
            image_processor_classes={"torchvision": TimmWrapperImageProcessor},
            exist_ok=True,
        )


_AFTER_IMPORT: dict[str, Callable[[], None]] = {
    "transformers.models.auto.configuration_auto": _register_configs,
    "transformers.models.auto.modeling_auto": _register_models,
    "transformers.models.auto.image_processing_auto": _register_image_processors,
}


class _AfterImport(importlib.abc.MetaPathFinder):
    """Import hook that registers the classes right after a module of `_AFTER_IMPORT` was imported."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname not in _AFTER_IMPORT:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def execute_and_register(module: ModuleType) -> None:
            execute(module)
            _AFTER_IMPORT[fullname]()

        spec.loader.exec_module = execute_and_register  # type: ignore[method-assign]
        return spec


def register_with_transformers() -> None:
    """Register all methods with the Auto classes, now or as soon as these are imported."""
    if not any(isinstance(finder, _AfterImport) for finder in sys.meta_path):
        sys.meta_path.insert(0, _AfterImport())
    for name, register in _AFTER_IMPORT.items():
        if name in sys.modules:
            register()
