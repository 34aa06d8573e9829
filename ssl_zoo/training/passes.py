"""Passes over the training images between steps, shared by the processes."""

from collections.abc import Iterator

import torch
from tqdm.auto import tqdm

from ssl_zoo.data.batch import Batch, CorruptCounter
from ssl_zoo.data.source import ImageSource
from ssl_zoo.data.stream import ViewStream
from ssl_zoo.data.views import MultiView
from ssl_zoo.functional.distributed import all_reduce_max_, rank, world_size
from ssl_zoo.training.recipe import Recipe


__all__ = ["TrainingPasses"]


class TrainingPasses:
    """What `SSLForPreTraining.before_step` is given; see `TrainingData`.

    Args:
        source (`ImageSource`): The training images.
        recipe (`Recipe`): Its views, seed and workers are those of training.
        batch_size (`int`): Images per process and forward pass.
        device (`torch.device`): Where the views go.
        memory_format (`torch.memory_format`): Their memory format there.
    """

    def __init__(
        self,
        source: ImageSource,
        recipe: Recipe,
        *,
        batch_size: int,
        device: torch.device,
        memory_format: torch.memory_format,
    ) -> None:
        self.num_samples = source.num_rows
        self._source, self._recipe, self._batch_size = source, recipe, batch_size
        self._device, self._memory_format = device, memory_format

    def one_pass(self, *, seed: int, description: str) -> Iterator[tuple[list[torch.Tensor], torch.Tensor]]:
        """This process's share of one pass over the images, with the augmentation of training; see `TrainingData`."""
        data = self._recipe.data
        # Training counts and names corrupt rows when it meets them; here only too many of them matter.
        corrupt = CorruptCounter(self._source, max_share=data.max_corrupt_share, quiet=True)
        transform = MultiView(self._recipe.views)
        stream = ViewStream(
            self._source,
            transform,
            batch_size=self._batch_size,
            seed=self._recipe.train.seed + 2**20 * (1 + seed),  # views and order unlike those of training
            shuffle_buffer=data.shuffle_buffer,
            rank=rank(),
            world_size=world_size(),
            num_workers=data.num_workers,
            num_epochs=1,
        )
        share, batches = self._source.num_rows // world_size(), iter(stream.loader())
        last: Batch | None = None
        with tqdm(total=share, desc=description, unit="img", disable=rank() != 0, leave=False) as bar:
            while True:
                batch = next(batches, None)
                # Batch norm that is synchronised waits for all processes: they go on until the last has run out.
                if not all_reduce_max_(torch.tensor(float(batch is not None), device=self._device)):
                    return
                if batch is not None:
                    corrupt.update(batch)
                    bar.update(len(batch.sample_ids))
                    last = batch
                if last is None:
                    raise ValueError(f"'{self._source.path}' has too few rows for {world_size()} processes")
                ids = last.sample_ids if batch is not None else torch.full_like(last.sample_ids, -1)
                views = transform.to_device(last, self._device, memory_format=self._memory_format).views
                if len(ids) == 1:  # batch norm can't learn from a single row: it is given twice, and counts once
                    ids = torch.cat([ids, torch.full_like(ids, -1)])
                    views = [view.repeat(2, 1, 1, 1) for view in views]
                yield views, ids.to(self._device)
