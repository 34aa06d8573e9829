"""Parameters of the protocols, with `protocol.parameter=value` overrides from a command line."""

import dataclasses
import types
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Union, get_args, get_origin, get_type_hints

from ssl_zoo.evaluation.frozen.linear import LinearProbe
from ssl_zoo.evaluation.frozen.logistic import LogisticRegression
from ssl_zoo.evaluation.protocols.finetune import FinetuneSettings
from ssl_zoo.nearest import did_you_mean


__all__ = ["ClusterSettings", "KnnSettings", "ProtocolSettings", "SpectrumSettings", "describe", "override"]


@dataclass(frozen=True)
class KnnSettings:
    """Weighted k-NN, DINO's form.

    Attributes:
        k: Numbers of neighbours, measured in one pass.
        temperature: Of the neighbours' weights exp(similarity / temperature).
    """

    k: tuple[int, ...] = (1, 10, 20, 100, 200)
    temperature: float = 0.07


@dataclass(frozen=True)
class ClusterSettings:
    """Clusters: a method's own pseudo-labels, or k-means on features.

    Attributes:
        num_clusters: Clusters of k-means on the training features; `None` takes the method's own pseudo-labels.
        num_init: Starts of k-means, of which the best is kept.
        seed: Seed of k-means.
    """

    num_clusters: int | None = None
    num_init: int = 3
    seed: int = 0


@dataclass(frozen=True)
class SpectrumSettings:
    """Diagnostics of the features of the test split.

    Attributes:
        alignment: Compare with an augmented view of each image, which takes a second pass.
        crop_scale: Share of the image that the augmented view covers.
        seed: Seed of the rows that pairs are made of.
    """

    alignment: bool = True
    crop_scale: tuple[float, float] = (0.2, 1.0)
    seed: int = 0


@dataclass(frozen=True)
class ProtocolSettings:
    """Parameters of all protocols, a field each."""

    knn: KnnSettings = field(default_factory=KnnSettings)
    linear: LinearProbe = field(default_factory=LinearProbe)
    logistic: LogisticRegression = field(default_factory=LogisticRegression)
    # SwAV's: a high rate for the new classifier where labels are few.
    semi1: FinetuneSettings = field(
        default_factory=lambda: FinetuneSettings(share=0.01, learning_rate=0.02, head_learning_rate=5.0)
    )
    semi10: FinetuneSettings = field(
        default_factory=lambda: FinetuneSettings(share=0.1, learning_rate=0.01, head_learning_rate=0.2)
    )
    finetune: FinetuneSettings = field(default_factory=FinetuneSettings)
    linear_paper: FinetuneSettings = field(default_factory=lambda: FinetuneSettings(frozen=True))
    clusters: ClusterSettings = field(default_factory=ClusterSettings)
    spectrum: SpectrumSettings = field(default_factory=SpectrumSettings)


def override(settings: ProtocolSettings, assignments: Sequence[str]) -> ProtocolSettings:
    """Change parameters.

    Args:
        settings ([`ProtocolSettings`]): Left as it is.
        assignments (`Sequence[str]`): `protocol.parameter=value`, a list as `1,10,20`; later ones win.

    Returns:
        [`ProtocolSettings`]: with the new values.

    Raises:
        ValueError: For an unknown name (the nearest is named), a wrong type or an impossible value.
    """
    known = {f"{part.name}.{name}" for part in dataclasses.fields(settings) for name in _names(settings, part.name)}
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals or key not in known:
            hint = did_you_mean(key, known) or "; --help lists them"
            raise ValueError(f"'{assignment}' sets no parameter of a protocol (protocol.parameter=value){hint}")
        protocol, name = key.split(".")
        part = getattr(settings, protocol)
        hint_of = get_type_hints(type(part))[name]
        try:
            value = _parse(text, hint_of)
        except ValueError:
            raise ValueError(f"'{assignment}': expected {_describe_type(hint_of)}, got {text!r}") from None
        settings = dataclasses.replace(settings, **{protocol: dataclasses.replace(part, **{name: value})})
    return settings


def describe(settings: ProtocolSettings) -> str:
    """All parameters with their values, a line for each protocol."""
    lines = []
    for part in dataclasses.fields(settings):
        values = [f"{name}={_show(value)}" for name, value in vars(getattr(settings, part.name)).items()]
        lines.append(f"  {part.name}: {' '.join(values)}")
    return "\n".join(lines)


def _names(settings: ProtocolSettings, protocol: str) -> list[str]:
    return [item.name for item in dataclasses.fields(getattr(settings, protocol))]


def _parse(text: str, hint: Any) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        if text in ("null", "none", "None"):
            return None
        return _parse(text, next(kind for kind in arguments if kind is not type(None)))
    if origin is tuple:
        return tuple(_parse(word, arguments[0]) for word in text.split(",") if word)
    if hint is bool:
        if text.lower() not in ("true", "false"):
            raise ValueError(text)
        return text.lower() == "true"
    return hint(text)


def _describe_type(hint: Any) -> str:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join("null" if kind is type(None) else _describe_type(kind) for kind in arguments)
    if origin is tuple:
        return f"{_describe_type(arguments[0])}s, separated by commas"
    return {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}.get(hint, str(hint))


def _show(value: Any) -> str:
    if isinstance(value, tuple) and len(value) > 6:
        return f"{_show(value[0])},...,{_show(value[-1])}({len(value)} values)"
    if isinstance(value, tuple):
        return ",".join(_show(entry) for entry in value)
    return "null" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
