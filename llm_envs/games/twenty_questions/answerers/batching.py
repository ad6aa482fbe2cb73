"""Single requests of many threads and environments, gathered into batches."""

import os
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any, Generic, TypeVar

__all__ = ["Batcher"]

Item = TypeVar("Item")

_QUIET_SECONDS = 0.002
_MOST_SECONDS = 0.02


class Batcher(Generic[Item]):
    """One thread that works off what it is given, many items at a time.

    A batch begins when nothing new has come for 2 ms, or when its oldest item has waited for 20 ms. What comes while a
    batch is worked on makes the next one. The thread starts with the first item, and anew in a forked process.

    Args:
        work: A bound method that takes a batch. Its object is held weakly, so the thread keeps nobody alive; it must
            not raise.
        max_batch: How many items a batch has at most.
    """

    def __init__(self, work: Callable[[list[Item]], None], *, max_batch: int) -> None:
        self._work: weakref.WeakMethod[Any] = weakref.WeakMethod(work)
        self._max_batch = max_batch
        self._begin()

    def _begin(self) -> None:
        self._process = os.getpid()
        self._changed = threading.Condition()
        self._items: list[tuple[float, Item]] = []
        self._thread: threading.Thread | None = None
        self._closed = False

    def put(self, item: Item) -> None:
        """Have one more item worked on.

        Raises:
            RuntimeError: After `close`.
        """
        if self._process != os.getpid():  # threads do not survive a fork, and the lock may have been held
            self._begin()
        with self._changed:
            if self._closed:
                raise RuntimeError("this answerer is closed")
            self._items.append((time.monotonic(), item))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="answerer", daemon=True)
                self._thread.start()
            self._changed.notify()

    def close(self) -> list[Item]:
        """End the thread, after the batch under way; what was not begun comes back."""
        if self._process != os.getpid():
            self._begin()
        with self._changed:
            self._closed = True
            left, self._items = [item for _, item in self._items], []
            thread, self._thread = self._thread, None
            self._changed.notify()
        if thread is not None and thread is not threading.current_thread():
            thread.join()
        return left

    def _run(self) -> None:
        while True:
            batch = self._next_batch()
            work = self._work()
            if not batch or work is None:
                return
            work(batch)
            del batch, work  # the object may go now, while this thread waits

    def _next_batch(self) -> list[Item]:
        """Empty once it is closed."""
        with self._changed:
            while not self._closed:
                if not self._items:
                    self._changed.wait()
                    continue
                now = time.monotonic()
                (oldest, _), (newest, _) = self._items[0], self._items[-1]
                left = min(newest + _QUIET_SECONDS, oldest + _MOST_SECONDS) - now
                if left <= 0 or len(self._items) >= self._max_batch:
                    break
                self._changed.wait(left)
            batch = [item for _, item in self._items[: self._max_batch]]
            del self._items[: self._max_batch]
            return batch
