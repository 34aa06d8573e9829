"""Pseudo-labels as a product: a model labels a split, part by part, and the parts become a data set.

A part has the labels of a block of fixed rows and is written whole or not at all, to a hidden folder beside the
target. Labels are a function of the block alone, so an interrupted run goes on after its finished parts, and any
number of processes writes the same tables.
"""

import json
import logging
import re
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from ssl_zoo.atomic import replace_atomically
from ssl_zoo.data.blocks import BlockBatch, BlockStream, num_blocks
from ssl_zoo.data.errors import DataError
from ssl_zoo.data.label_files import LABELS_FILE, Head, join_parts, label_bytes, read_skipped, write_part
from ssl_zoo.data.source import ImageSource
from ssl_zoo.data.stream import CorruptCounter, worker_loader
from ssl_zoo.data.views import EvalView
from ssl_zoo.functional.distributed import all_gather_objects, rank, world_size
from ssl_zoo.labels.card import describe_labels, render_label_card
from ssl_zoo.labels.heads import LabelError, count_clusters, empty_heads, join_heads, read_heads
from ssl_zoo.settings.compare import differences, flatten


__all__ = ["LabelError", "Labelling", "label_images"]

logger = logging.getLogger(__name__)

Soft = int | Literal["all"]
_MOST_BLOCK_ROWS, _LEAST_BLOCK_ROWS, _BLOCK_BYTES = 2048, 64, 2**26


@dataclass(frozen=True)
class Labelling:
    """What is labelled, by whom, how and where to.

    Attributes:
        model (`PreTrainedModel`): In evaluation mode, with `cluster_probabilities`.
        source (`ImageSource`): The images.
        view (`EvalView`): Makes the one view.
        target (`Path`): Folder to write; ends in `.parquet` by custom.
        about (`dict`): JSON data that names the `model` and the `data`; labels of others are refused.
        soft (`int` or `"all"`): How many of the most likely clusters are written with their probabilities; 0 is none.
    """

    model: PreTrainedModel
    source: ImageSource
    view: EvalView
    target: Path
    about: dict[str, Any]
    soft: Soft = 0


@dataclass(frozen=True)
class _Plan:
    """Sizes, and where parts are kept. Nothing here depends on the number of processes or on the batch."""

    clusters: list[int]
    num_soft: list[int]
    block_rows: int
    work: Path
    settings: dict[str, Any]

    def part(self, block: int) -> Path:
        return self.work / f"part-{block:08d}.parquet"


def label_images(
    labelling: Labelling,
    *,
    batch_size: int = 256,
    num_workers: int = 2,
    max_corrupt_share: float = 0.01,
    device: torch.device | str = "cpu",
    overwrite: bool = False,
) -> dict[str, Any]:
    """Label all images of a split, on all processes, which must share the target's disk. Go on where a run stopped.

    Every process returns the content of the target's labels.json.

    Args:
        labelling ([`Labelling`]): What to do. The model is on `device`.
        batch_size: Images per forward pass.
        num_workers: Loader processes of each process.
        max_corrupt_share: Corrupt rows get no label and are named in the log, up to this share.
        device: Where the model is.
        overwrite: Forget other labels in the target's place.

    Raises:
        LabelError: The model has no clusters, the target holds something else, or probabilities aren't finite.
        DataError: The images can't be read, or too many are corrupt.
    """
    plan = _plan(labelling, device)
    finished, pending = _on_main(lambda: _prepare(labelling, plan, overwrite=overwrite))
    if finished is not None:
        labels: dict[str, Any] = finished
        return labels
    start = time.perf_counter()
    corrupt = CorruptCounter(labelling.source, max_share=max_corrupt_share)
    blocks = np.array_split(np.array(pending, dtype=np.int64), world_size())[rank()].tolist()
    stream = BlockStream(labelling.source, labelling.view, blocks, block_rows=plan.block_rows, batch_size=batch_size)
    loader = worker_loader(stream, num_workers=min(num_workers, len(blocks)))

    def label() -> None:
        unfinished: dict[int, list[tuple[torch.Tensor, list[Head]]]] = {}
        skipped: dict[int, list[int]] = {}
        for read in _with_bar(loader, labelling.source, plan, num_pending=len(blocks)):
            corrupt.update(read.batch)
            if read.batch.views:
                views = labelling.view.to_device(read.batch, device).views
                heads = read_heads(labelling.model, views[0], read.batch.sample_ids, num_soft=plan.num_soft)
                unfinished.setdefault(read.block, []).append((read.batch.sample_ids, heads))
            skipped.setdefault(read.block, []).extend(read.skipped_ids)
            if read.is_last:
                rows = unfinished.pop(read.block, None) or [(read.batch.sample_ids, empty_heads(plan.num_soft))]
                ids = torch.cat([ids for ids, _ in rows]).numpy()
                joined = [join_heads(heads) for heads in zip(*(heads for _, heads in rows), strict=True)]
                write_part(plan.part(read.block), ids, joined, skipped=skipped.pop(read.block))

    _everywhere(label)
    seconds = time.perf_counter() - start
    about: dict[str, Any] = _on_main(lambda: _finish(labelling, plan, seconds, max_corrupt_share))
    return about


def _plan(labelling: Labelling, device: torch.device | str) -> _Plan:
    if not re.fullmatch(r"\w+(\.\w+)*", labelling.source.split):
        raise LabelError(
            f"a split to label must be named by letters, digits, '_' and '.', got {labelling.source.split!r}; for the "
            "first rows of a split use --limit"
        )
    if labelling.soft != "all" and labelling.soft < 0:
        raise LabelError(f"--soft must be 'all' or a number of at least 0, got {labelling.soft}")
    image = labelling.view(Image.new("RGB", (256, 256)))[0]
    clusters = count_clusters(labelling.model, image[None].to(device))
    num_soft = [count if labelling.soft == "all" else min(int(labelling.soft), count) for count in clusters]
    # A power of two, so that batches of the usual sizes fill it.
    fitting = 1 << max(0, (_BLOCK_BYTES // label_bytes(num_soft)).bit_length() - 1)
    block_rows = min(_MOST_BLOCK_ROWS, max(_LEAST_BLOCK_ROWS, fitting))
    settings = {**labelling.about, "view": labelling.view.identity, "soft": labelling.soft}
    settings["clusters_per_head"] = clusters
    work = labelling.target.absolute().parent / f".{labelling.target.name}.unfinished"
    return _Plan(clusters, num_soft, block_rows, work, json.loads(json.dumps(settings)))


def _prepare(labelling: Labelling, plan: _Plan, *, overwrite: bool) -> tuple[dict[str, Any] | None, list[int]]:
    """The content of labels.json if the target is complete, and the blocks that are still to be labelled."""
    target, work = labelling.target, plan.work
    if target.exists() and not overwrite:
        stored = _read_json(target / LABELS_FILE)
        if stored is None:
            raise LabelError(f"'{target}' exists and holds no labels: choose another --out, or give --overwrite")
        _compare(stored, plan.settings, f"'{target}' holds other labels")
        return stored, []
    # Files that have changed in between would give parts of two data sets.
    stamp = {**plan.settings, "images": labelling.source.identity, "block_rows": plan.block_rows}
    if overwrite or _read_json(work / "settings.json") is None:
        shutil.rmtree(work, ignore_errors=True)
    if not work.exists():
        work.mkdir(parents=True)
        with replace_atomically(work / "settings.json") as partial:
            partial.write_text(json.dumps(stamp, indent=2), encoding="utf-8")
    _compare(_read_json(work / "settings.json") or {}, stamp, f"'{work}' holds parts of other labels")
    blocks = range(num_blocks(labelling.source, plan.block_rows))
    pending = [block for block in blocks if _skipped(labelling.source, plan, block) is None]
    if len(pending) < len(blocks):
        logger.info("Going on: %d of %d parts are done", len(blocks) - len(pending), len(blocks))
    return None, pending


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value


def _compare(stored: dict[str, Any], settings: dict[str, Any], what: str) -> None:
    """Raise if a setting is stored with another value; what else is stored doesn't matter."""
    names = flatten(settings).keys()
    differing = [text for name, text in differences(stored, settings).items() if name in names]
    if differing:
        raise LabelError(f"{what}: {', '.join(differing)}. Choose another --out, or give --overwrite to forget them")


def _skipped(source: ImageSource, plan: _Plan, block: int) -> list[int] | None:
    rows = min(plan.block_rows, source.num_rows - block * plan.block_rows)
    return read_skipped(plan.part(block), num_rows=rows)


def _with_bar(loader: Any, source: ImageSource, plan: _Plan, *, num_pending: int) -> Iterator[BlockBatch]:
    total = -(-source.num_rows // world_size())
    done = max(0, total - num_pending * plan.block_rows)
    with tqdm(
        total=total, initial=done, desc="labels", unit="img", disable=rank() != 0, leave=False, dynamic_ncols=True
    ) as bar:
        for read in loader:
            yield read
            bar.update(len(read.batch.sample_ids) + len(read.skipped_ids))


def _finish(labelling: Labelling, plan: _Plan, seconds: float, max_corrupt_share: float) -> dict[str, Any]:
    """Join the parts to a data set, and only then put it in the target's place."""
    source, target = labelling.source, labelling.target
    blocks = range(num_blocks(source, plan.block_rows))
    skipped = [_skipped(source, plan, block) for block in blocks]
    if missing := [block for block, ids in zip(blocks, skipped, strict=True) if ids is None]:
        raise LabelError(
            f"{len(missing)} of {len(blocks)} parts are missing in '{plan.work}': all processes must write to the "
            "same disk. The same command does what is missing"
        )
    rows = [number for ids in skipped for number in ids or ()]
    # Each run judged what it met itself; all may have had too many.
    if len(rows) == source.num_rows or len(rows) > max_corrupt_share * source.num_rows:
        raise DataError(
            f"{len(rows)} of {source.num_rows} rows of {source.path!r} hold no readable image, more than "
            f"`max_corrupt_share` = {max_corrupt_share:g} allows. Repair the data, or raise the share"
        )
    with replace_atomically(target) as whole:
        files, heads = join_parts(
            [plan.part(block) for block in blocks],
            whole,
            split=source.split,
            clusters=plan.clusters,
            part_bytes=plan.block_rows * label_bytes(plan.num_soft),
        )
        about = describe_labels(plan.settings, files=files, heads=heads, skipped=rows, seconds=seconds)
        (whole / LABELS_FILE).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
        (whole / "README.md").write_text(render_label_card(about), encoding="utf-8")
    shutil.rmtree(plan.work)
    return about


def _on_main(function: Callable[[], Any]) -> Any:
    """Call the function on the main process and return its result on all. An error is raised on all: none waits."""
    results = _everywhere(function if rank() == 0 else lambda: None)
    return results[0]


def _everywhere(function: Callable[[], Any]) -> list[Any]:
    """Call the function on every process and return all results on all. An error of any is raised on all."""
    result, failure = None, None
    try:
        result = function()
    except (LabelError, DataError) as error:
        failure = error
    outcomes = all_gather_objects((result, failure))
    for _, raised in outcomes:
        if raised is not None:
            raise raised
    return [result for result, _ in outcomes]
