"""Chooses the images whose label a method may use, and draws labelled support batches from them."""

import contextlib
import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import numpy.typing as npt
import torch
from datasets.arrow_writer import ArrowWriter
from filelock import FileLock
from tqdm.auto import tqdm

from ssl_zoo.atomic import replace_atomically
from ssl_zoo.data.decode import CorruptImageError, decode_image
from ssl_zoo.data.errors import DataError
from ssl_zoo.data.label_table import read_label_table
from ssl_zoo.data.source import DataConfig, ImageSource
from ssl_zoo.data.views import ImageTransform


__all__ = ["LabelledSubset", "SupportSampler", "choose_labelled", "copy_images", "draw_labelled"]

Ids = npt.NDArray[np.int64]


@dataclass(frozen=True)
class LabelledSubset:
    """The labelled images.

    Attributes:
        known_labels (`torch.Tensor` of shape `(num_rows,)`): Class of each row of the split by its id, int64; -1 where
            the method must not know it.
        num_classes (`int`): Classes of the whole split, whether labelled or not; with a table of labels, its clusters.
    """

    known_labels: torch.Tensor
    num_classes: int

    @property
    def ids(self) -> torch.Tensor:
        """Ids of the labelled rows, increasing."""
        return self.known_labels.ge(0).nonzero().flatten()


def choose_labelled(source: ImageSource, config: DataConfig) -> LabelledSubset:
    """Choose the labelled images as `data.labelled_*` says; the same on every process and in every run.

    Their labels are those of `data.label_table`, if there is one, else the classes of the data.

    Raises:
        DataError: The split has no labels, or the list of ids or the table of labels doesn't fit it.
    """
    if config.label_table is not None:
        labels, num_classes = read_label_table(source, config)
    else:
        labels = source.read_labels()
        num_classes = len(source.class_names or []) or int(labels.max()) + 1
    if config.labelled_ids is not None:
        chosen = _listed(config.labelled_ids, source)
    else:
        share, seed = config.labelled_share, config.labelled_seed
        chosen = draw_labelled(labels, share=share, stratified=config.labelled_stratified, seed=seed)
    known_labels = np.full_like(labels, -1)
    known_labels[chosen] = labels[chosen]
    if not (known_labels >= 0).any():
        raise DataError(
            f"None of the {len(chosen)} rows chosen as labelled has a label in {config.label_table or source.path!r}"
        )
    return LabelledSubset(torch.from_numpy(known_labels), num_classes)


def draw_labelled(labels: Ids, *, share: float, stratified: bool, seed: int) -> Ids:
    """Draw the rows whose label may be learned from; returns their ids, increasing.

    Args:
        labels (`numpy.ndarray` of shape `(num_rows,)`): -1 where there is none; such rows are never drawn.
        share (`float`): Share of the rows, above 0 and up to 1.
        stratified (`bool`): The same share of every class, one image at least, instead of the share of all rows.
        seed (`int`): Seed of the draw.
    """
    rng = np.random.default_rng(seed)
    groups = [np.flatnonzero(labels == label) for label in range(labels.max() + 1)]
    if not stratified:
        groups = [np.flatnonzero(labels >= 0)]
    drawn = [rng.permutation(rows)[: max(1, round(share * len(rows)))] for rows in groups if len(rows)]
    return np.sort(np.concatenate(drawn)) if drawn else np.zeros(0, np.int64)


def _listed(file: str, source: ImageSource) -> Ids:
    """Row numbers from a text file; image file names are looked up in one pass over the data."""
    try:
        entries = Path(file).expanduser().read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"`data.labelled_ids` is {file!r}, which can't be read: {error}") from error
    if not entries:
        raise DataError(f"`data.labelled_ids` is {file!r}, which is empty; expected one row number or name per line")
    if all(entry.isdecimal() for entry in entries):
        ids = np.unique(np.array([int(entry) for entry in entries], dtype=np.int64))
        if ids[-1] >= source.num_rows:
            raise DataError(
                f"`data.labelled_ids` names row {ids[-1]}, but the rows of {source.path!r} are 0 to "
                f"{source.num_rows - 1}"
            )
        return ids
    wanted = set(entries)
    ids_by_name = {}
    for row in _all_rows(source, "Looking for the labelled images"):
        name = Path((row.image or {}).get("path") or "").name
        # A set may add the class to the name: n01440764_10026_n01440764.JPEG for n01440764_10026.JPEG.
        stem, _, ending = name.rpartition(".")
        for candidate in (name, f"{stem.rpartition('_')[0]}.{ending}"):
            if candidate in wanted:
                ids_by_name[candidate] = row.sample_id
    if missing := sorted(wanted - ids_by_name.keys()):
        raise DataError(
            f"`data.labelled_ids` names {len(missing)} of {len(wanted)} images that {source.path!r} doesn't have, "
            f"such as {missing[0]!r}. Row numbers, one per line, work with any set"
        )
    return np.unique(np.array(list(ids_by_name.values()), dtype=np.int64))


def _all_rows(source: ImageSource, description: str) -> Iterator[Any]:
    reader = source.reader()
    for shard in tqdm(range(source.num_shards), desc=description, unit="shard", delay=2):
        yield from reader.read(shard, 0, int(source.shard_lengths[shard]))


class SupportSampler:
    """Labelled support batches: `num_classes` classes with `images_per_class` images each, over all processes.

    Batch `b` of a run is a function of the seed and `b`, so a continued run sees the same supports. Its classes are
    dealt to the processes in equal parts; together they hold each class once.

    Args:
        source (`ImageSource`): The images. The labelled ones are copied to the `datasets` cache, once.
        subset ([`LabelledSubset`]): Those that may be used.
        transform (`ImageTransform`): Makes the one view of a support image.
        num_classes (`int`): Classes in a support batch, over all processes.
        images_per_class (`int`): Images of each of them.
        seed (`int`): Seed of the draws and of the views.
        rank (`int`), world_size (`int`): This process, and how many share a support batch.

    Raises:
        DataError: If there are fewer classes or labelled images than a support batch needs, or if the classes can't
            be dealt evenly to the processes.
    """

    def __init__(
        self,
        source: ImageSource,
        subset: LabelledSubset,
        transform: ImageTransform,
        *,
        num_classes: int,
        images_per_class: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if num_classes % world_size:
            raise DataError(
                f"A support batch has {num_classes} classes, which can't be dealt evenly to {world_size} processes. "
                "`model.num_support_classes` must be a multiple of their number"
            )
        self._images = copy_images(source, subset)
        ids, labels = np.array(self._images["sample_id"]), np.array(self._images["label"])
        self._rows_of = {int(label): np.flatnonzero(labels == label) for label in np.unique(labels)}
        poorest = min(self._rows_of, key=lambda label: len(self._rows_of[label]))
        if len(self._rows_of) < num_classes or len(self._rows_of[poorest]) < images_per_class:
            raise DataError(
                f"A support batch needs {num_classes} classes with {images_per_class} labelled images each. There are "
                f"{len(ids)} labelled images of {len(self._rows_of)} classes, of class {poorest} only "
                f"{len(self._rows_of[poorest])}. Label more images (`data.labelled_share`), or lower "
                "`model.num_support_classes` or `model.num_support_images`"
            )
        self._classes = np.array(sorted(self._rows_of))
        self._num_classes, self._images_per_class = num_classes, images_per_class
        self._transform, self._seed = transform, seed
        part = num_classes // world_size
        self._part = slice(rank * part, (rank + 1) * part)

    def draw(self, batch: int) -> npt.NDArray[np.int64]:
        """Rows of `copy_images` that are this process's part of support batch number `batch`, class by class."""
        rng = np.random.default_rng([self._seed, batch])
        chosen = rng.permutation(self._classes)[: self._num_classes]
        # Every process draws for all classes, so that a support batch doesn't depend on the number of processes.
        rows = [rng.permutation(self._rows_of[int(label)])[: self._images_per_class] for label in chosen]
        return np.concatenate(rows[self._part])

    def load(self, batch: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Views `(rows, 3, height, width)`, uint8, and classes `(rows,)`, int64, of the rows that `draw` returns."""
        samples, labels = [], []
        for row in self.draw(batch):
            value = self._images[int(row)]
            rng = random.Random(f"{self._seed}/support/{batch}/{value['sample_id']}")
            samples.append(self._transform.read(value["image"], rng))
            labels.append(value["label"])
        (views,), _ = self._transform.stack(samples)
        return views, torch.tensor(labels)


def copy_images(source: ImageSource, subset: LabelledSubset) -> datasets.Dataset:
    """Copy the labelled images, without corrupt ones, to the `datasets` cache, where they are read in any order.

    The columns are `sample_id`, `image` (undecoded) and `label`.
    """
    ids = subset.ids.numpy()
    identity = repr((source.identity, source.image_column, subset.known_labels[subset.ids].tolist()))
    key = hashlib.sha256(identity.encode() + ids.tobytes()).hexdigest()[:32]
    cache = Path(datasets.config.HF_DATASETS_CACHE) / "ssl_zoo" / f"labelled-{key}.arrow"
    cache.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{cache}.lock"):
        if not cache.exists():
            _write_images(source, subset, cache)
    return datasets.Dataset.from_file(str(cache))


def _write_images(source: ImageSource, subset: LabelledSubset, target: Path) -> None:
    features = datasets.Features(
        sample_id=datasets.Value("int64"), label=datasets.Value("int64"), image=datasets.Image(decode=False)
    )
    with (
        replace_atomically(target) as partial,
        ArrowWriter(path=str(partial), features=features, writer_batch_size=256) as writer,
    ):
        for row in _all_rows(source, f"Copying {len(subset.ids)} labelled images"):
            label = int(subset.known_labels[row.sample_id])
            if label >= 0:
                with contextlib.suppress(CorruptImageError):  # training names it when it meets it
                    decode_image(row.image)
                    writer.write({"sample_id": row.sample_id, "label": label, "image": row.image})
        writer.finalize()
