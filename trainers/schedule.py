"""When a batch is sampled: in turn with training, or while the update before it is computed."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from trainers.collect import Batch, Collector
from trainers.policy import Policy
from trainers.rollouts import Progress

Adapter = Mapping[str, Tensor]


class InTurn:
    """Samples every batch from the policy as it is."""

    def __init__(self, collector: Collector, policy: Policy) -> None:
        self._collector = collector
        self._policy = policy

    def collect(self, update: int, *, progress: Progress | None = None) -> Batch:
        """The batch of update number `update`, counted from 0."""
        self._collector.sampler.load_adapter(self._policy)
        return self._collector.collect(update, progress=progress)

    def state_dict(self, updates_done: int) -> dict[str, Any]:  # noqa: ARG002
        """Nothing is needed to sample the next batch again."""
        return {}

    def close(self) -> None:
        """Nothing is under way."""


class Ahead:
    """Samples the batch of update n + 1 in a thread while update n is computed, from the policy before it.

    So every batch but the first is exactly one update old, whatever is faster, and a run gives the same numbers again
    (asynchronous updates with a staleness of one: Noukhovitch et al., 2024, arXiv:2410.18252).

    Args:
        collector: whose sampler has a policy of its own, or an engine.
        policy: the one that is trained.
        updates: how many there are in the run: after the last there is nothing to sample.
        adapter: where a run goes on: what its first batch is to be sampled from; None: the policy as it is.
    """

    def __init__(self, collector: Collector, policy: Policy, *, updates: int, adapter: Adapter | None = None) -> None:
        self._collector = collector
        self._policy = policy
        self._updates = updates
        self._first = adapter
        self._sampled_from: dict[int, Adapter] = {}  # by update, of the present and of the next
        self._thread: threading.Thread | None = None
        self._found: Batch | BaseException | None = None
        self._at: tuple[str, int, int] | None = None
        self._is_cancelled = False

    def collect(self, update: int, *, progress: Progress | None = None) -> Batch:
        """The batch of update number `update`, counted from 0; the one after it is begun."""
        if self._thread is None:
            self._load(update)
            batch = self._collector.collect(update, progress=progress)
        else:
            batch = self._join(progress)
        self._sampled_from = {n: adapter for n, adapter in self._sampled_from.items() if n >= update}
        self._load(update + 1)  # after the last one as well: the run may be gone on with
        if update + 1 < self._updates:
            self._at = None
            self._thread = threading.Thread(target=self._run, args=(update + 1,), name="sampling", daemon=True)
            self._thread.start()
        return batch

    def state_dict(self, updates_done: int) -> dict[str, Any]:
        """What is needed to sample the next batch again."""
        return {"adapter": self._sampled_from.get(updates_done)}

    def close(self) -> None:
        """Stop sampling, at the next token or where the sampler next says how far it is."""
        self._is_cancelled = True
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _load(self, update: int) -> None:
        """Hand the policy to the sampler, and remember what it was."""
        adapter = self._policy.snapshot() if self._first is None else self._first
        self._first = None
        self._sampled_from[update] = adapter
        with self._policy.playing_as(adapter):
            self._collector.sampler.load_adapter(self._policy)

    def _run(self, update: int) -> None:
        try:
            self._found = self._collector.collect(update, progress=self._check)
        except BaseException as error:
            self._found = error  # it belongs to the thread that waits for the batch

    def _check(self, stage: str, done: int, total: int) -> None:
        self._at = (stage, done, total)
        if self._is_cancelled:
            raise _Cancelled

    def _join(self, progress: Progress | None) -> Batch:
        assert self._thread is not None
        while self._thread.is_alive():
            self._thread.join(0.2)  # not for ever: Ctrl-C is to arrive
            if progress is not None and self._at is not None:
                progress(*self._at)
        self._thread = None
        found, self._found = self._found, None
        if isinstance(found, BaseException):
            raise found
        assert found is not None
        return found


class _Cancelled(BaseException):
    """Nobody waits for the batch any more. No `Exception`, which would pass for an environment's."""
