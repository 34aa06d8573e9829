"""Compares the settings of a run with those that its folder keeps."""

from typing import Any


__all__ = ["differences", "flatten"]


def flatten(nested: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Replace mappings in a mapping by their entries, under dotted names."""
    flat: dict[str, Any] = {}
    for name, value in nested.items():
        flat |= flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat


def differences(stored: dict[str, Any], current: dict[str, Any]) -> dict[str, str]:
    """Find the settings, maybe nested, that differ: dotted name -> the name with both values; sorted by name."""
    stored, current = flatten(stored), flatten(current)
    return {
        name: f"{name} ({stored.get(name)!r} there, {current.get(name)!r} now)"
        for name in sorted(stored.keys() | current.keys())
        if stored.get(name) != current.get(name)
    }
