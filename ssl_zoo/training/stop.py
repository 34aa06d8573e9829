"""Turns SIGTERM and SIGINT into a flag that the training loop checks between steps."""

import signal
from contextlib import AbstractContextManager
from types import FrameType, TracebackType
from typing import Any


__all__ = ["StopSignals"]


class StopSignals(AbstractContextManager["StopSignals"]):
    """Remembers that the run was asked to stop; a second SIGINT ends it at once."""

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StopSignals":
        for number in (signal.SIGTERM, signal.SIGINT):
            self._previous[number] = signal.signal(number, self._receive)
        return self

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.received is signal.SIGINT and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = signal.Signals(number)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
