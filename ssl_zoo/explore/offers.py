"""What a visitor can choose from: local models and data sets, and the splits and columns of a data set."""

from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path

import datasets
from huggingface_hub import HfApi

from ssl_zoo.data.embedded import EMBEDDED_NAME, embedded_dataset_dir
from ssl_zoo.data.errors import DataError
from ssl_zoo.data.locate import locate
from ssl_zoo.explore.models import check_data_name, visitor_message
from ssl_zoo.explore.run_checkpoints import list_run_checkpoints
from ssl_zoo.explore.workbench import ExploreError, Rules
from ssl_zoo.zoo.entries import load_index


__all__ = ["DataOffer", "data_at_hand", "look_at_data", "models_at_hand"]

_MOST = 100
_IMAGE_FILES = (".parquet", ".tar", ".jpg", ".jpeg", ".png", ".webp")


@dataclass(frozen=True)
class DataOffer:
    """Choices within a data set; a tuple is empty when nothing is known.

    Attributes:
        configs, splits (`tuple[str, ...]`): Its configurations, and the splits of the requested one.
        images, labels (`tuple[str, ...]`): Columns that hold images, and whole numbers or classes.
    """

    configs: tuple[str, ...] = ()
    splits: tuple[str, ...] = ()
    images: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()


def models_at_hand(rules: Rules) -> list[str]:
    """Models that need no network, as `check_model_name` takes them: of the zoo, then others in the folders."""
    by_folder = {Path(entry.folder).name: entry.name for entry in load_index().values() if entry.folder is not None}
    folders = [place.name for root in rules.folders for place in sorted(_folders(root)) if _is_model(place)]
    folders.sort(key=lambda name: name not in by_folder)
    return list(dict.fromkeys(by_folder.get(name, name) for name in folders))[:_MOST]


def data_at_hand(rules: Rules) -> list[str]:
    """Data sets that need no network: the embedded one, and folders of images or tables in the folders."""
    folders = [place.name for root in rules.folders for place in sorted(_folders(root)) if _holds_images(place)]
    return list(dict.fromkeys([EMBEDDED_NAME, *folders]))[:_MOST]


def look_at_data(name: str, config: str | None, rules: Rules) -> DataOffer:
    """Splits and columns of a configuration of a data set, without reading images; the last answers stay in memory.

    Raises:
        ExploreError: There is no such data set, or it can't be read.
    """
    place = check_data_name(name, rules)
    try:
        return _look(str(embedded_dataset_dir()) if place == EMBEDDED_NAME else place, config or None)
    except DataError as error:
        raise ExploreError(visitor_message(error, name=name, place=place)) from error


@lru_cache(maxsize=64)
def _look(place: str, config: str | None) -> DataOffer:
    try:
        if not Path(place).is_dir():
            HfApi().dataset_info(place, timeout=15)  # fails at once, where `datasets` tries five times
        configs = tuple(datasets.get_dataset_config_names(place))
        if config is None and len(configs) > 1 and "default" not in configs:
            return DataOffer(configs=configs)
        builder = datasets.load_dataset_builder(place, config)
    except Exception as error:  # of the Hub's client, the network, or a damaged folder
        raise DataError(f"The splits and columns of {place!r} can't be read: {error}") from error
    splits = tuple(str(split) for split in builder.config.data_files or builder.info.splits or ())
    features = builder.info.features
    if features is None and splits:
        features = locate(place, name=config, split=splits[0], revision=None, streaming=True).dataset.features
    columns = dict(features or {})
    return DataOffer(
        configs=configs if len(configs) > 1 else (),
        splits=splits,
        images=tuple(name for name, kind in columns.items() if isinstance(kind, datasets.Image)),
        labels=tuple(name for name, kind in columns.items() if _is_label(kind)),
    )


def _is_label(kind: object) -> bool:
    return isinstance(kind, datasets.ClassLabel) or "int" in str(getattr(kind, "dtype", ""))


def _folders(root: Path) -> list[Path]:
    return [place for place in root.iterdir() if place.is_dir() and place.name[0] != "."] if root.is_dir() else []


def _is_model(place: Path) -> bool:
    return (place / "config.json").is_file() or bool(list_run_checkpoints(str(place)))


def _holds_images(place: Path) -> bool:
    """Whether a folder looks like a data set: images or tables up to two levels down, and no model."""
    if _is_model(place):
        return False
    levels = ("*", "*/*", "*/*/*")
    return any(file.suffix.lower() in _IMAGE_FILES for level in levels for file in islice(place.glob(level), 200))
