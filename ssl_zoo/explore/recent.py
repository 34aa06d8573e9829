"""A cache of the last few values that were used, for all threads of a server."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar


__all__ = ["Recent"]

T = TypeVar("T")


class Recent(Generic[T]):
    """Values by key; of more than `size`, the one that was used longest ago is dropped.

    Unlike `functools.lru_cache` it keeps no reference to what a value was made from, and can be asked for a value
    without making it.
    """

    def __init__(self, size: int) -> None:
        self._size, self._values, self._lock = size, OrderedDict[Hashable, T](), threading.Lock()

    def get(self, key: Hashable) -> T | None:
        """The value of a key; `None` when there is none."""
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
            return self._values.get(key)

    def put(self, key: Hashable, value: T) -> T:
        """Keep a value, and return it."""
        with self._lock:
            self._values[key] = value
            self._values.move_to_end(key)
            if len(self._values) > self._size:
                self._values.popitem(last=False)
        return value

    def get_or_make(self, key: Hashable, make: Callable[[], T]) -> T:
        """The value of a key, made when there is none; two threads that ask at once may both make it."""
        value = self.get(key)
        return self.put(key, make()) if value is None else value
