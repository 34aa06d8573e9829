"""Finds the methods (one folder each) and tells transformers' Auto classes about them, all without importing torch.

Importing torch and transformers takes seconds, so `import ssl_zoo` doesn't: the classes are registered at the moment
transformers' own Auto modules are imported, by a hook on that import.
"""

import importlib
import importlib.abc
import importlib.machinery
import pkgutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any


def lazy_exports(package: str, exports: dict[str, str]) -> Callable[[str], Any]:
    """Make a module-level `__getattr__` that imports a name from its submodule when it is first used.

    Args:
        package (`str`): The package, `__name__` of the caller.
        exports (`dict`): Name -> submodule that defines it.
    """

    def getattr_(name: str) -> Any:
        if name not in exports:
            raise AttributeError(f"module '{package}' has no attribute '{name}'")
        return getattr(importlib.import_module(f"{package}.{exports[name]}"), name)

    return getattr_


def method_names() -> list[str]:
    """List the methods: the folders beside this file."""
    return sorted(module.name for module in pkgutil.iter_modules([str(Path(__file__).parent)]) if module.ispkg)


def public_classes() -> dict[str, str]:
    """Map every public class name of every method to the module that defines it."""
    classes = {}
    for method in method_names():
        package = f"ssl_zoo.models.{method}"
        for name, module in importlib.import_module(package).EXPORTS.items():
            classes[name] = f"{package}.{module}"
    return classes


def config_class_of(method: str) -> Any:
    """Look up a method's configuration class.

    Args:
        method (`str`): Folder name, which is also the `model_type`, such as `"mira"`.

    Raises:
        ValueError: for an unknown method; the message lists the known ones.
    """
    return _class(method, "Config")


def pretraining_class_of(method: str) -> Any:
    """Look up a method's `ForPreTraining` class; arguments and errors as for `config_class_of`."""
    return _class(method, "ForPreTraining")


def display_name(method: str) -> str:
    """How the paper spells a method, such as `"SeLa"`: what the docstring of its configuration begins with."""
    return (config_class_of(method).__doc__ or method).partition(":")[0].strip()


def _class(method: str, ending: str) -> Any:
    if method not in method_names():
        raise ValueError(f"`method` must be one of {', '.join(method_names())}, got '{method}'")
    package = importlib.import_module(f"ssl_zoo.models.{method}")
    return getattr(package, next(name for name in package.EXPORTS if name.endswith(ending)))


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
    """Runs a registration right after the module it concerns has been executed."""

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
    """Make `AutoModel` and its kin know every method, now or as soon as they are imported."""
    if not any(isinstance(finder, _AfterImport) for finder in sys.meta_path):
        sys.meta_path.insert(0, _AfterImport())
    for name, register in _AFTER_IMPORT.items():
        if name in sys.modules:
            register()
