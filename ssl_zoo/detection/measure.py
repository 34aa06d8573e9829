"""Runs a detector over all images of a source, on one process or many: each image once."""

import torch
from torch import nn
from tqdm.auto import tqdm

from ssl_zoo.data.batch import CorruptCounter
from ssl_zoo.detection.coco import DetectionTable
from ssl_zoo.detection.source import DetectionSource
from ssl_zoo.detection.stream import BoxCounter, DetectionStream
from ssl_zoo.functional.distributed import all_gather_rows, rank, world_size


__all__ = ["detect_all"]

_READ_TOGETHER = 8


@torch.no_grad()
def detect_all(
    detector: nn.Module,
    source: DetectionSource,
    *,
    num_workers: int = 2,
    max_corrupt_share: float = 0.01,
    device: torch.device | str = "cpu",
    description: str = "detecting",
) -> DetectionTable:
    """Detect the objects of every image and put them beside the true ones; every process returns the whole table.

    Images go through one by one: the padding of a batch would make a box depend on its neighbours, and so on the
    number of processes.

    Args:
        detector (`torch.nn.Module`): From `build_detector`; left in the mode it was in.
        source ([`DetectionSource`]): Images with boxes.
        num_workers: Loader processes of this process.
        max_corrupt_share: Corrupt rows are skipped and named in the log up to this share.
        device: Where the detector is.
        description: What the progress bar says.

    Raises:
        DataError: Too many rows are corrupt, or the boxes can't be read.
    """
    stream = DetectionStream(
        source,
        batch_size=_READ_TOGETHER,
        training=False,
        rank=rank(),
        world_size=world_size(),
        num_workers=num_workers,
    )
    corrupt = CorruptCounter(source, max_share=max_corrupt_share)
    counter = BoxCounter(source)
    was_training = detector.training
    detector.eval()
    images: list[list[float]] = []
    truth, detections = [torch.zeros(0, 9, dtype=torch.float64)], [torch.zeros(0, 7, dtype=torch.float64)]
    share = source.num_rows // world_size()
    with tqdm(total=share, desc=description, unit="img", disable=rank() != 0, leave=False, dynamic_ncols=True) as bar:
        for batch in stream.loader():
            counter.update([batch])
            corrupt.update(batch)
            for number, image, boxes in zip(batch.sample_ids.tolist(), batch.images, batch.boxes, strict=True):
                output = detector([image.to(device).float() / 255])[0]
                images.append([number, image.shape[2], image.shape[1]])
                columns = [boxes.boxes, boxes.labels, boxes.area, boxes.iscrowd, boxes.difficult]
                truth.append(_rows(number, columns))
                # The detector's class 0 is the background.
                detections.append(_rows(number, [output["boxes"], output["scores"], output["labels"] - 1]))
                bar.update()
    detector.train(was_training)
    rows = torch.tensor(images, dtype=torch.float64).reshape(-1, 3)
    # The processes' shares are consecutive, so that what they have, one after the other, is in the order of one.
    parts = [rows, torch.cat(truth), torch.cat(detections)]
    gathered = [all_gather_rows(part.to(device)).cpu() for part in parts] if world_size() > 1 else parts
    order = gathered[0][:, 0].argsort(stable=True)
    return DetectionTable(gathered[0][order], *(part[part[:, 0].argsort(stable=True)] for part in gathered[1:]))


def _rows(number: int, columns: list[torch.Tensor]) -> torch.Tensor:
    """Columns `(boxes, 4)`, `(boxes,)`, `(boxes,)`, ... side by side in float64, after one of the sample id."""
    boxes, *others = (column.detach().cpu().double() for column in columns)
    sample_ids = torch.full((len(boxes), 1), float(number), dtype=torch.float64)
    return torch.cat([sample_ids, boxes.reshape(-1, 4), *(column.reshape(-1, 1) for column in others)], dim=1)
