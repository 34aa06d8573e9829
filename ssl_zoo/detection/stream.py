"""Batches of images of their own sizes with their boxes, each with its place in the data for an exact resume."""

import logging
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from ssl_zoo.data.batch import ReadPosition
from ssl_zoo.data.decode import CorruptImageError, decode_image
from ssl_zoo.data.errors import DataError
from ssl_zoo.data.order import stream_orders
from ssl_zoo.data.stream import worker_loader
from ssl_zoo.detection.boxes import ImageBoxes, flip_boxes, read_boxes
from ssl_zoo.detection.source import DetectionRow, DetectionSource


__all__ = ["BoxCounter", "DetectionBatch", "DetectionStream"]

logger = logging.getLogger(__name__)

_NAMED_AT_MOST = 20
_BOXES_TO_JUDGE = 50
_LARGEST_CUT_SHARE = 0.2


@dataclass
class DetectionBatch:
    """One batch of one stream.

    Attributes:
        images (`list[torch.Tensor]`): Of shape `(3, height, width)`, uint8.
        boxes (`list[ImageBoxes]`): Of each image.
        sample_ids (`torch.Tensor` of shape `(batch,)`): Row numbers over all data sets, int64.
        stream: The slot that made it.
        position: Rows that the slot has consumed since the start of training.
        skipped (`list[str]`): A sentence for each corrupt row passed over.
        dropped (`list[str]`): A sentence for each box left out.
        num_boxes: Boxes read, those left out included.
        num_cut: Boxes that reached over the border by more than rounding explains.
        problem: Why there will be no more batches. An exception wouldn't leave a worker without its traceback.
    """

    images: list[torch.Tensor]
    boxes: list[ImageBoxes]
    sample_ids: torch.Tensor
    stream: int
    position: int
    skipped: list[str]
    dropped: list[str]
    num_boxes: int
    num_cut: int
    problem: str | None = None

    def pin_memory(self) -> "DetectionBatch":
        """The batch with its images in page-locked memory; called by `DataLoader`."""
        self.images = [image.pin_memory() for image in self.images]
        return self


class DetectionStream(IterableDataset[DetectionBatch]):
    """Batches for one process of `world_size`; the workers of a `DataLoader` play its slots.

    Args:
        source ([`DetectionSource`]): Images and boxes.
        batch_size: Images per batch.
        seed: Of the order and of the flips.
        training: Shuffled without end, half of the images mirrored, crowds left out; else one pass in file order.
        train_on_empty: Whether training sees images without a box.
        shuffle_buffer: Rows permuted together.
        rank: This process.
        world_size: Processes that share the data.
        num_workers: Workers of the loader; 0 reads in this process.
        start (`ReadPosition`, *optional*): What was consumed before.
    """

    def __init__(
        self,
        source: DetectionSource,
        *,
        batch_size: int,
        seed: int = 0,
        training: bool = True,
        train_on_empty: bool = False,
        shuffle_buffer: int = 1024,
        rank: int = 0,
        world_size: int = 1,
        num_workers: int = 0,
        start: ReadPosition | None = None,
    ) -> None:
        super().__init__()
        self._source, self._batch_size, self._seed = source, batch_size, seed
        self._training, self._train_on_empty, self._num_workers = training, train_on_empty, num_workers
        self._start = ReadPosition.start(num_workers)
        if start is not None:
            self._start.load_state_dict(start.state_dict())
        slots = len(self._start.positions)
        self._orders = stream_orders(
            source.shard_lengths,
            num_slots=slots,
            rank=rank,
            world_size=world_size,
            block_rows=shuffle_buffer if training else batch_size,
            seed=seed,
            shuffle=training,
        )
        if training and min(order.num_rows for order in self._orders) == 0:
            raise DataError(
                f"{source.path!r} has {source.num_rows} images, fewer than the {world_size * slots} streams that "
                "share them: use fewer processes or --num-workers"
            )

    def loader(self) -> DataLoader[DetectionBatch]:
        """A loader of the batches; it leaves the global random state alone."""
        return worker_loader(self, num_workers=self._num_workers)

    def __iter__(self) -> Iterator[DetectionBatch]:
        """The batches of the slot that this worker plays."""
        worker = get_worker_info()
        slot = ((worker.id if worker else 0) + self._start.first_slot) % len(self._orders)
        try:
            yield from self._batches(slot)
        except DataError as error:
            batch = self._new_batch(slot)
            batch.problem = str(error)
            yield batch

    def _batches(self, slot: int) -> Iterator[DetectionBatch]:
        order, position = self._orders[slot], self._start.positions[slot]
        batch = self._new_batch(slot)
        unusable = 0  # in a row
        num_epochs = None if self._training else 1
        blocks = order.read(self._source.reader(), position, num_epochs=num_epochs)
        for epoch, row in ((epoch, rows[index]) for epoch, rows, chosen in blocks for index in chosen):
            position += 1
            try:
                image = decode_image(row.image)
            except CorruptImageError as error:
                batch.skipped.append(f"{self._source.path}: row {row.sample_id}: {error}")
                usable = False
            else:
                usable = self._add(batch, image, epoch, row)
            unusable = 0 if usable else unusable + 1
            if self._training and unusable >= order.num_rows:
                raise DataError(
                    f"None of {unusable} successive rows of {self._source.path!r} can be trained on: no readable "
                    "image, or no box. Are the columns the right ones?"
                )
            batch.position = position
            if len(batch.images) == self._batch_size:
                yield batch
                batch = self._new_batch(slot)
        if batch.images or batch.skipped:
            yield batch

    def _new_batch(self, slot: int) -> DetectionBatch:
        return DetectionBatch([], [], torch.zeros(0, dtype=torch.int64), slot, 0, [], [], 0, 0)

    def _add(self, batch: DetectionBatch, image: Image.Image, epoch: int, row: DetectionRow) -> bool:
        """Put one decoded row into a batch, unless training has no use for it."""
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)  # a copy: PIL's memory isn't writable
        height, width = pixels.shape[1:]
        try:
            boxes = read_boxes(
                row.objects, self._source.fields, width=width, height=height, num_classes=self._source.num_classes
            )
        except DataError as error:
            raise DataError(f"{self._source.path}: row {row.sample_id}: {error}") from error
        batch.dropped += [f"{self._source.path}: row {row.sample_id}: {reason}" for reason in boxes.dropped]
        batch.num_boxes += len(boxes.boxes) + len(boxes.dropped)
        batch.num_cut += boxes.num_cut
        if self._training:
            boxes = boxes.select(~boxes.iscrowd)
            if not len(boxes.boxes) and not self._train_on_empty:
                return False
            # A text is hashed to a seed: neighbouring numbers give unrelated draws.
            if random.Random(f"{self._seed}/{epoch}/{row.sample_id}").random() < 0.5:
                pixels = pixels.flip(2)
                boxes = replace(boxes, boxes=flip_boxes(boxes.boxes, width))
        batch.images.append(pixels.contiguous())
        batch.boxes.append(boxes)
        batch.sample_ids = torch.cat([batch.sample_ids, torch.tensor([row.sample_id])])
        return True


class BoxCounter:
    """Counts the boxes that were left out and names the first of them; stops when the format can't be right."""

    def __init__(self, source: DetectionSource) -> None:
        self._source = source
        self._named: set[str] = set()
        self.num_boxes = self.num_dropped = self.num_cut = 0

    def update(self, batches: Sequence[DetectionBatch]) -> None:
        """Count what was consumed.

        Raises:
            DataError: The data can't be read, or so many boxes leave their images that their format must be wrong.
        """
        for batch in batches:
            if batch.problem:
                raise DataError(batch.problem)
            self.num_boxes += batch.num_boxes
            self.num_dropped += len(batch.dropped)
            self.num_cut += batch.num_cut
            for name in batch.dropped:
                if len(self._named) < _NAMED_AT_MOST and name not in self._named:
                    logger.warning("Left out: %s", name)
                    self._named.add(name)
        wrong = max(self.num_cut, self.num_dropped)
        if self.num_boxes >= _BOXES_TO_JUDGE and wrong > _LARGEST_CUT_SHARE * self.num_boxes:
            used = self._source.fields.box_format
            other = "xyxy" if used == "xywh" else "xywh"
            raise DataError(
                f"{wrong} of {self.num_boxes} boxes of {self._source.path!r}, read as {used}, are empty or leave "
                f"their images: set --box-format {other}, or repair the data"
            )
