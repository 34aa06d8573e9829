"""Finds the pages in the folder `pages`; what a page is, its `__init__.py` says."""

import pkgutil
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, fields
from importlib import import_module
from typing import Any

import pages
from view import SHARED, TAB, Setting

from ssl_zoo.explore.workbench import Request


@dataclass(frozen=True)
class Page:
    """A page: what its module declares."""

    name: str
    title: str
    order: int
    settings: Mapping[str, Setting]
    build: Callable[[Any], None]
    prepare: Callable[[Any, Mapping[str, str], Mapping[str, str]], Generator[str, None, None]] | None


def find_pages() -> dict[str, Page]:
    """The pages by name, in the order of their tabs.

    Raises:
        ValueError: A module lacks a declaration, or two declare the same setting.
    """
    names = [module.name for module in pkgutil.iter_modules(pages.__path__) if not module.name.startswith("_")]
    found = sorted([_load(name) for name in names], key=lambda page: (page.order, page.name))
    owners = dict.fromkeys((*SHARED, TAB, *(field.name for field in fields(Request))), "all pages")
    for page in found:
        for setting in page.settings:
            if setting in owners:
                raise ValueError(
                    f"pages/{page.name}.py: the setting {setting!r} belongs to {owners[setting]} already. Choose "
                    "another name"
                )
            owners[setting] = f"pages/{page.name}.py"
    return {page.name: page for page in found}


def all_settings(by_name: Mapping[str, Page]) -> dict[str, Setting]:
    """Settings of all pages by name; the first page is open at first."""
    of_pages = {name: setting for page in by_name.values() for name, setting in page.settings.items()}
    return {**SHARED, "page": Setting(next(iter(by_name))), **of_pages}


def _load(name: str) -> Page:
    module = import_module(f"{pages.__name__}.{name}")
    missing = [part for part in ("TITLE", "ORDER", "build") if not hasattr(module, part)]
    if missing:
        raise ValueError(f"pages/{name}.py is no page: it has no {', '.join(missing)}. See pages/__init__.py")
    settings, prepare = getattr(module, "SETTINGS", {}), getattr(module, "prepare", None)
    return Page(name, module.TITLE, module.ORDER, settings, module.build, prepare)
