"""The record of a conversion, and the check that a file can be the zoo entry it was given as."""

import dataclasses
import logging
from datetime import UTC, datetime
from typing import Any

from ssl_zoo.conversion.layout import Checkpoint, Conversion, ConversionError, Layout, is_left_out
from ssl_zoo.conversion.reading import TRAINING_STATE
from ssl_zoo.models.registry import find_method
from ssl_zoo.provenance import command, commit, versions
from ssl_zoo.zoo.entries import License, ZooEntry, load_index, release_license


__all__ = ["describe", "point_to_entries", "refuse_another"]


logger = logging.getLogger(__name__)


def point_to_entries(checkpoint: Checkpoint, method: str) -> None:
    """Name the zoo's entries whose file has this name: by them the card gets the authors' numbers."""
    of_method = [entry for entry in load_index().values() if entry.method == method and entry.layout]
    if names := " or ".join(entry.name for entry in of_method if entry.file == checkpoint.file.name):
        logger.info("The zoo knows a file of this name: with %s as NAME the card gets the authors' numbers", names)


def refuse_another(entry: ZooEntry, checkpoint: Checkpoint, conversion: Conversion) -> None:
    """Raise if the file can't be the entry's: its numbers would stand on the card of another model."""
    config: Any = conversion.config
    if config.architecture != entry.backbone:
        raise ConversionError(
            f"'{checkpoint.file}' holds a {config.architecture}, '{entry.name}' is a {entry.backbone}: give the right "
            f"entry as NAME, or '{entry.method}' for a checkpoint that the zoo doesn't know"
        )
    epoch = _epoch(checkpoint)
    if epoch is not None and entry.epochs is not None and abs(epoch - entry.epochs) > 1:
        raise ConversionError(
            f"'{checkpoint.file}' was saved at epoch {epoch}, '{entry.name}' trained for {entry.epochs}: give the "
            f"right entry as NAME, or '{entry.method}' for a checkpoint that the zoo doesn't know"
        )


def _epoch(checkpoint: Checkpoint) -> int | None:
    epoch = checkpoint.extras.get("epoch")
    return epoch if isinstance(epoch, int) and not isinstance(epoch, bool) else None


def describe(
    entry: ZooEntry | None, layout: Layout, checkpoint: Checkpoint, conversion: Conversion, note: str
) -> dict[str, Any]:
    """What `conversion.json` says; the export adds the digests of the result."""
    said = [entry.notes if entry else "", conversion.notes, note]
    # The authors evaluate the default branch; their numbers say nothing of another.
    reported = entry.reported if entry and conversion.branch == layout.branches[0] else []
    return {
        "entry": entry.name if entry else None,
        "method": layout.method,
        "layout": layout.name,
        "branch": conversion.branch,
        "source": {
            "file": checkpoint.file.name,
            "bytes": checkpoint.bytes,
            "sha256": checkpoint.sha256,
            "url": entry.url if entry else None,
            "epoch": _epoch(checkpoint),
        },
        "license": dataclasses.asdict(entry.license if entry else _license(layout.method)),
        "paper": entry.paper if entry else find_method(layout.method).paper,
        "dataset": entry.dataset if entry else None,
        "reported": [dataclasses.asdict(line) for line in reported],
        "notes": "\n\n".join(part.strip() for part in said if part.strip()),
        "left_out": _left_out(checkpoint, conversion),
        "versions": versions(),
        "commit": commit(),
        "command": command(),
        "date": datetime.now(UTC).date().isoformat(),
    }


def _license(method: str) -> License:
    """That of the authors' release; none where it isn't known, so that nothing is published by mistake."""
    try:
        return release_license(method)
    except ValueError as error:
        logger.info("The licence of the weights is not known: %s", error)
        return License(id=None, name=None, where="none that docs/zoo.md could be asked for")


def _left_out(checkpoint: Checkpoint, conversion: Conversion) -> dict[str, str]:
    """All that isn't carried over, with the reason."""
    beside = {}
    for name in checkpoint.extras:
        if name in TRAINING_STATE:
            beside[name] = "state of the training, which no model needs"
        elif name != "epoch" and not is_left_out(name, conversion.left_out) and name not in conversion.used:
            beside[name] = "saved beside the weights, no part of the model"
    return {**conversion.left_out, **beside}
