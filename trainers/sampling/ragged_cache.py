"""A key-value cache in which every row has its own length."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers.cache_utils import Cache

# The cache grows by this factor, so that growing costs little however long the rows become.
_GROWTH = 1.5


class RaggedCache(Cache):
    """Keys and values in slots `[R, L, H, D]` (rows, positions, key-value heads, width of a head), one pair a layer.

    Slot r holds `lengths[r]` positions; what stands behind them is never attended to and is overwritten in time, so
    rows of unequal length need neither padding nor holes, and a token's position in the cache is its position in the
    text.

    Use: `begin` (which gives mask and position ids), one forward pass, `end`.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__(layers=[])
        self._dtype = dtype
        self._keys: list[Tensor] = []
        self._values: list[Tensor] = []
        self._rows = 0
        self._capacity = 0
        self.lengths = torch.zeros(0, dtype=torch.int64)  # [R]
        self._slots = self._positions = self.lengths
        self._first = self._end = 0

    def allocate(self, *, rows: int, capacity: int) -> None:
        """Make room for `rows` empty slots of `capacity` positions; must come before the first pass."""
        self._rows, self._capacity = rows, capacity
        self.lengths = torch.zeros(rows, dtype=torch.int64)

    def expand(self, source: Tensor) -> None:
        """Replace the slots by copies: new slot i is old slot `source[i]`."""
        self._keys = [keys[source] for keys in self._keys]
        self._values = [values[source] for values in self._values]
        self.lengths = self.lengths.to(source.device)[source]
        self._rows = len(source)

    def append(self, other: RaggedCache) -> None:
        """Take over the slots of another cache, behind the own ones."""
        capacity = max(self._capacity, other._capacity)
        for cache in (self, other):
            if cache._capacity < capacity:
                cache._grow(capacity)
        for mine, theirs in ((self._keys, other._keys), (self._values, other._values)):
            mine[:] = [torch.cat(pair) for pair in zip(mine, theirs, strict=True)]
        self.lengths = torch.cat([self.lengths.to(other.lengths.device), other.lengths])
        self._rows += other._rows

    def begin(self, lengths: Tensor, *, width: int, first_slot: int) -> tuple[Tensor, Tensor]:
        """Prepare to append `width` tokens, of which `lengths` `[n]` are real, to the n slots from `first_slot` on.

        Returns:
            mask `[n, 1, width, L]` (a token sees its own row up to itself) and position ids `[n, width]`. The mask is
            added to the attention scores: 0 or the lowest number. (A boolean mask is understood by one of
            transformers' kernels and silently *added* as 0 and 1 by another.)
        """
        n, device = len(lengths), lengths.device
        self._first = first_slot
        self.lengths = self.lengths.to(device)
        start = self.lengths[first_slot : first_slot + n, None]
        self._positions = start + torch.arange(width, device=device)  # [n, width]
        self._slots = torch.arange(first_slot, first_slot + n, device=device)[:, None]  # [n, 1]
        self._end = int(self._positions[:, -1].max()) + 1
        if self._end > self._capacity:
            self._grow(max(self._end, int(self._capacity * _GROWTH)))
        columns = torch.arange(self._end, device=device)
        hidden = columns > self._positions[:, None, :, None]  # [n, 1, width, L]
        mask = torch.zeros(hidden.shape, dtype=self._dtype, device=device)
        # Padding repeats its row's last position: some models look positions up in a table that ends.
        position_ids = self._positions.minimum(start + lengths[:, None] - 1)
        return mask.masked_fill_(hidden, torch.finfo(self._dtype).min), position_ids

    def end(self, lengths: Tensor, *, first_slot: int) -> None:
        """Count the real tokens of the pass."""
        self.lengths[first_slot : first_slot + len(lengths)] += lengths

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: object, **__: object
    ) -> tuple[Tensor, Tensor]:
        """Store `[n, H, width, D]` and return keys and values `[n, H, L, D]` as views of the cache."""
        if layer_idx == len(self._keys):
            for store, states in ((self._keys, key_states), (self._values, value_states)):
                heads, size = states.shape[1], states.shape[3]
                # Zeros, not empty: a masked NaN would still poison the weighted sum.
                store.append(states.new_zeros(self._rows, self._capacity, heads, size))
        rows = slice(self._first, self._first + len(self._slots))
        found = []
        for store, states in ((self._keys, key_states), (self._values, value_states)):
            store[layer_idx][self._slots, self._positions] = states.transpose(1, 2)
            found.append(store[layer_idx][rows, : self._end].transpose(1, 2))
        return found[0], found[1]

    def swap(self, a: Tensor, b: Tensor) -> None:
        """Exchange the slots `a` with the slots `b`, both `[k]`."""
        for by_slot in (*self._keys, *self._values, self.lengths):
            by_slot[a], by_slot[b] = by_slot[b], by_slot[a]

    def get_seq_length(self, layer_idx: int = 0) -> int:  # noqa: ARG002
        """Longest row; the model asks only when it is given no position ids."""
        return int(self.lengths.max()) if len(self.lengths) else 0

    def _grow(self, capacity: int) -> None:
        for store in (self._keys, self._values):
            for i, old in enumerate(store):
                store[i] = old.new_zeros(old.shape[0], capacity, *old.shape[2:])
                store[i][:, : old.shape[1]] = old
        self._capacity = capacity
