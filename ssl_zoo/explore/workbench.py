"""What all visitors share: models, galleries and what was computed for them, kept in memory while they are used."""

import threading
from collections.abc import Callable, Generator, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Self

from ssl_zoo.data.source import DataConfig, DataError
from ssl_zoo.explore.gallery import Gallery, Step, open_gallery
from ssl_zoo.explore.preparation import Explained, Explorer, load_explorer, prepare
from ssl_zoo.explore.recent import Recent
from ssl_zoo.loading.models import ModelLoadError


__all__ = ["ExploreError", "NotReady", "Request", "Rules", "Workbench"]

_KEPT_MODELS, _KEPT_GALLERIES, _KEPT_EXPLAINED = 4, 4, 8


class ExploreError(ValueError):
    """A visitor's request can't be fulfilled; the message says why and what to do."""


class NotReady(ExploreError):
    """What was requested has to be prepared first."""


@dataclass(frozen=True)
class Rules:
    """What the server allows its visitors.

    Attributes:
        folders (`tuple` of `Path`): Local models and data sets may be opened inside these.
        remote_code (`bool`): Whether models may bring code of their own.
        max_images (`int`): Images of a gallery at most.
    """

    folders: tuple[Path, ...] = ()
    remote_code: bool = False
    max_images: int = 10_000

    def name_of(self, place: str) -> str:
        """A local folder as visitors name it: relative to the open folder that it is in."""
        roots = (root for root in self.folders if Path(place).is_relative_to(root))
        return next((str(Path(place).relative_to(root)) for root in roots), place)


@dataclass(frozen=True)
class Request:
    """What a visitor opens: a model and the first images of a data set.

    Attributes:
        model (`str`), revision (`str` or `None`): As `load_explorer` takes them.
        data, split (`str`), config, image_column, label_column (`str` or `None`): The images.
        images (`int`): How many.
        clusters (`int`): Clusters of k-means, for a model without clusters of its own.
    """

    model: str = "mira-cifar10"
    revision: str | None = None
    data: str = "embedded"
    config: str | None = None
    split: str = "test"
    image_column: str | None = None
    label_column: str | None = None
    images: int = 1000
    clusters: int = 20

    @classmethod
    def from_query(cls, query: Mapping[str, str]) -> Self:
        """Read the request from the parameters of a URL; others are ignored.

        Raises:
            ExploreError: `images` or `clusters` isn't a whole number.
        """
        values: dict[str, Any] = {}
        for field in fields(cls):
            value = str(query.get(field.name) or "").strip()
            is_number = field.name in ("images", "clusters")
            if value and is_number and (not value.isdecimal() or int(value) < 1):
                raise ExploreError(f"`{field.name}` must be a whole number of at least 1, got '{value}'")
            if value:
                values[field.name] = int(value) if is_number else value
        return cls(**values)

    def to_query(self) -> dict[str, str]:
        """Parameters of a URL: model, data, and all that differ from the defaults."""
        default = asdict(type(self)())
        return {
            name: str(value)
            for name, value in asdict(self).items()
            if value is not None and (value != default[name] or name in ("model", "data"))
        }

    @property
    def image_source(self) -> DataConfig:
        """The part that names the images."""
        return DataConfig(
            path=self.data,
            name=self.config,
            split=self.split,
            image_column=self.image_column,
            label_column=self.label_column,
            max_rows=self.images,
        )


class Workbench:
    """Opens what visitors ask for, once for all of them.

    Args:
        cache (`Path`): Folder of the cache; deleting it loses only time.
        rules ([`Rules`], *optional*): What visitors may open.
        resolve_model, resolve_data (functions, *optional*): Turn a visitor's name into one that may be opened, or
            raise [`ExploreError`]. The first gets the revision, too.
        describe_error (function, *optional*): Error, the visitor's name and what it was turned into -> the message for
            visitors.
    """

    def __init__(
        self,
        cache: Path,
        rules: Rules | None = None,
        *,
        resolve_model: Callable[[str, Rules, str | None], str] = lambda name, rules, revision: name,
        resolve_data: Callable[[str, Rules], str] = lambda name, rules: name,
        describe_error: Callable[[Exception, str, str], str] = lambda error, name, place: str(error),
    ) -> None:
        self.cache, self.rules = cache, rules or Rules()
        self._resolve_model, self._resolve_data, self._describe_error = resolve_model, resolve_data, describe_error
        self._explorers = Recent[Explorer](_KEPT_MODELS)
        self._galleries = Recent[Gallery](_KEPT_GALLERIES)
        self._explained = Recent[Explained](_KEPT_EXPLAINED)
        self._busy = threading.Lock()  # two preparations at once would be half as fast, and write the same files

    def open(self, request: Request) -> Generator[Step, None, Explained]:
        """Prepare what was requested; closing the generator stops the work and keeps what is done.

        Raises:
            ExploreError: It can't be opened.
        """
        ready = self._explained.get(request)
        if ready is not None:
            return ready
        if request.images > self.rules.max_images:
            raise ExploreError(f"This server shows at most {self.rules.max_images:,} images, got {request.images:,}")
        while not self._busy.acquire(timeout=0.5):
            yield Step(0, request.images, "waiting for another visitor's images")
        try:
            yield Step(0, request.images, f"loading {request.model}")
            explorer = self.explorer(request)
            key = tuple(asdict(request.image_source).values())
            gallery = self._galleries.get(key)
            if gallery is None:
                gallery = self._galleries.put(key, (yield from self._open_gallery(request)))
            try:
                explained = yield from prepare(explorer, gallery, self.cache, num_clusters=request.clusters)
            except ValueError as error:  # too few images, or a model that has diverged
                raise ExploreError(self._describe_error(error, request.model, explorer.name)) from error
        finally:
            self._busy.release()
        return self._explained.put(request, explained)

    def _open_gallery(self, request: Request) -> Generator[Step, None, Gallery]:
        place = self._resolve_data(request.data, self.rules)
        try:
            return (yield from open_gallery(replace(request.image_source, path=place), self.cache))
        except DataError as error:
            raise ExploreError(self._describe_error(error, request.data, place)) from error

    def get(self, request: Request) -> Explained:
        """What was prepared for a request.

        Raises:
            NotReady: It isn't prepared, or no longer in memory.
        """
        explained = self._explained.get(request)
        if explained is None:
            raise NotReady(f"'{request.model}' on '{request.data}' is not open: press Open")
        return explained

    def explorer(self, request: Request) -> Explorer:
        """The model, loaded when it isn't in memory.

        Raises:
            ExploreError: It can't be loaded.
        """
        key = (request.model, request.revision)
        explorer = self._explorers.get(key)
        if explorer is None:
            place = self._resolve_model(request.model, self.rules, request.revision)
            try:
                explorer = load_explorer(place, revision=request.revision, remote_code=self.rules.remote_code)
            except ModelLoadError as error:
                raise ExploreError(self._describe_error(error, request.model, place)) from error
            self._explorers.put(key, explorer)
        return explorer
