"""What a protocol declares: its settings, its metrics and what measures. The files below `_FOLDER` are the registry.

The declarations import only what is light, so that `--help` lists all settings, and a card finds the title and unit of
a metric, without the libraries that measure it.
"""

import importlib
import json
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ssl_zoo.settings.declare import plain
from ssl_zoo.settings.given import Given, describe_settings


__all__ = [
    "Metric",
    "Protocol",
    "describe_protocols",
    "find_metric",
    "find_protocol",
    "known_metrics",
    "protocol_names",
    "read_protocol_settings",
]


SubjectName = Literal["trained", "random_init", "raw_pixels"]

_FOLDER = "ssl_zoo.evaluation.protocols"
_DETECTION = "ssl_zoo.detection.config"  # measured by recipes/detect.py; declares `METRICS`


@dataclass(frozen=True)
class Metric:
    """A number that is measured.

    Attributes:
        name: As in `results.jsonl`.
        title: What readers call it.
        unit: `"%"` for a share in [0, 1], which readers see in per cent.
        digits: Decimal places in the table on the terminal.
        hub_type: What the Hub calls the metric; its name by default.
        parameters: Those of the protocol by which a reader tells values of this metric apart, such as k.
    """

    name: str
    title: str
    unit: Literal["", "%"] = ""
    digits: int = 3
    hub_type: str | None = None
    parameters: tuple[str, ...] = ()

    @property
    def scale(self) -> int:
        """What a value is multiplied by to be in `unit`."""
        return 100 if self.unit else 1

    def show(self, value: float) -> str:
        """A value with its unit."""
        return f"{100 * value:.2f} %" if self.unit else f"{value:.{self.digits}f}"

    def telling(self, protocol: Mapping[str, Any]) -> dict[str, Any]:
        """The parameters by which a reader tells results apart; all of them are in the file."""
        return {name: protocol[name] for name in self.parameters if name in protocol}


@dataclass(frozen=True)
class Protocol:
    """A way to measure a subject; `PROTOCOL` of a file in the folder, whose name is the protocol's.

    Attributes:
        settings: The defaults: an instance of a frozen dataclass whose fields are declared by `setting`.
        metrics: What it measures.
        measure: Takes an [`Evaluation`] and the settings, on all processes; returns results, complete on the main one.
        subjects: Those that it can measure.
    """

    settings: Any
    metrics: tuple[Metric, ...]
    measure: Callable[[Any, Any], list[Any]]
    subjects: tuple[SubjectName, ...] = ("trained", "random_init", "raw_pixels")


def protocol_names() -> list[str]:
    """List the protocols: the files of the folder."""
    return sorted(module.name for module in pkgutil.iter_modules(importlib.import_module(_FOLDER).__path__))


def find_protocol(name: str) -> Protocol:
    """Look up a protocol by its name."""
    protocol: Protocol = importlib.import_module(f"{_FOLDER}.{name}").PROTOCOL
    return protocol


def known_metrics() -> dict[str, Metric]:
    """All metrics that are declared, by name."""
    metrics = list(importlib.import_module(_DETECTION).METRICS)
    for name in protocol_names():
        metrics += find_protocol(name).metrics
    return {metric.name: metric for metric in metrics}


def find_metric(name: str) -> Metric:
    """Look up a metric; one that nothing declares any more is called by its name."""
    return known_metrics().get(name) or Metric(name, name)


def read_protocol_settings(overrides: Sequence[str] = (), defaults: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Settings of every protocol.

    Args:
        overrides (`Sequence[str]`): `protocol.setting=value`; a list as `1,10,20` or `[1, 10, 20]`; later ones win.
        defaults (`Mapping[str, Any]`, *optional*): Protocol -> settings that stand in for the declared ones.

    Returns:
        `dict[str, Any]`: protocol -> settings.

    Raises:
        SettingsError: For an unknown name (the nearest is named), a wrong type or an impossible value.
    """
    sections = {name: find_protocol(name).settings for name in protocol_names()} | dict(defaults or {})
    given = Given(keys=[f"{name}.{key}" for name, settings in sections.items() for key in vars(settings)])
    for override in overrides:
        given.override(override)
    return {name: given.replace(name, settings) for name, settings in sections.items()}


def describe_protocols() -> str:
    """Document every protocol, its metrics and its settings; settings that two share are documented once."""
    lines: list[str] = []
    first: dict[type, tuple[str, Any]] = {}
    for name in protocol_names():
        protocol = find_protocol(name)
        purpose = (importlib.import_module(f"{_FOLDER}.{name}").__doc__ or "").partition("\n")[0]
        lines.append(f"\n{name}: {purpose}\n  measures: {'; '.join(metric.title for metric in protocol.metrics)}")
        other, settings = first.setdefault(type(protocol.settings), (name, protocol.settings))
        if other == name:
            lines += describe_settings(name, settings)
        else:
            shared, values = plain(settings), plain(protocol.settings)
            changed = [f"{key}={json.dumps(value)}" for key, value in values.items() if value != shared[key]]
            lines.append(f"  settings as {other}, but {' '.join(changed)}" if changed else f"  settings as {other}")
    return "\n".join(lines).strip()
