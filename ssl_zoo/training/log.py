"""Progress bar, metrics file, trackers and traces of a run."""

import json
import time
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.logging import get_logger
from tqdm.auto import tqdm

from ssl_zoo.data.stream import Batch
from ssl_zoo.training.checkpoint import truncate_log


__all__ = ["RunLog"]


class RunLog(AbstractContextManager["RunLog"]):
    """Progress bar, `metrics.jsonl`, Accelerate's trackers and, on request, a trace of every step.

    Args:
        accelerator (`Accelerator`): Only its main process shows and writes; traces are written by all.
        run (`Path`): The run's folder.
        step (`int`): Steps done; what an earlier attempt logged beyond it is dropped.
        last_step (`int`): Where the bar ends.
        images_per_step (`int`): The global batch size.
        settings (`dict`): Shown by the trackers as the run's configuration; `None` without trackers.
        trace (`bool`): Whether to write the trace.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        run: Path,
        *,
        step: int,
        last_step: int,
        images_per_step: int,
        settings: dict[str, Any] | None,
        trace: bool,
    ) -> None:
        self._accelerator = accelerator
        self._images_per_step = images_per_step
        self._metrics = run / "metrics.jsonl"
        self._trace = run / f"trace-{accelerator.process_index}.jsonl" if trace else None
        self._logger = get_logger(__name__)
        self._since = (time.perf_counter(), step)
        if self._trace:
            truncate_log(self._trace, step)
        if accelerator.is_main_process:
            truncate_log(self._metrics, step)
        if settings is not None:
            accelerator.init_trackers("tensorboard", settings, {"tensorboard": {"purge_step": step + 1}})
        self._bar = tqdm(
            total=last_step, initial=step, unit="step", disable=not accelerator.is_main_process, dynamic_ncols=True
        )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()
        self._accelerator.end_training()  # leaves the process group, too: nothing collective may follow

    def trace(self, step: int, batches: list[Batch], losses: torch.Tensor) -> None:
        """Write the sample ids and the exact loss of every micro-batch of this process."""
        if self._trace is None:
            return
        ids = [number for batch in batches for number in batch.sample_ids.tolist()]
        line = {"step": step, "sample_ids": ids, "losses": [loss.hex() for loss in losses.tolist()]}
        with self._trace.open("a") as file:
            file.write(json.dumps(line) + "\n")

    def metrics(self, step: int, values: dict[str, float]) -> None:
        """Log scalars of a step; adds the images per second since the last line that had a loss."""
        if not self._accelerator.is_main_process:
            return
        if "loss" in values:
            now = time.perf_counter()
            seconds, steps = now - self._since[0], step - self._since[1]
            self._since = (now, step)
            values = {**values, "images_per_second": steps * self._images_per_step / seconds}
            self._bar.set_postfix_str(
                f"loss {values['loss']:.3f}, lr {values['learning_rate']:.3g}, "
                f"{values['images_per_second']:.0f} img/s",
                refresh=False,
            )
        with self._metrics.open("a") as file:
            file.write(json.dumps({"step": step, "images_seen": step * self._images_per_step, **values}) + "\n")
        self._accelerator.log(values, step=step)

    def advance(self) -> None:
        """Move the bar by one step."""
        self._bar.update()

    def say(self, message: str, *, warning: bool = False) -> None:
        """Show a sentence above the bar, on the main process."""
        with tqdm.external_write_mode():
            (self._logger.warning if warning else self._logger.info)(message)
