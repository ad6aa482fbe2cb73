"""A key-value cache in which every row has its own length."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers.cache_utils import Cache

# The cache grows by this factor, and by so many positions at least. Growing copies it, and attention reads all of it:
# keys and values that are not a whole piece of memory would be copied by every matrix product.
_GROWTH = 1.25
_LEAST_GROWTH = 32


class RaggedCache(Cache):
    """Keys and values in slots `[R, H, L, D]` (rows, key-value heads, positions, width of a head), one pair a layer.

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
        self._first = 0

    def allocate(self, *, rows: int, capacity: int) -> None:
        """Make room for `rows` empty slots of `capacity` positions; must come before the first pass."""
        self._rows, self._capacity = rows, capacity
        self.lengths = torch.zeros(rows, dtype=torch.int64)

    def put(self, other: RaggedCache, source: Tensor, *, first_slot: int) -> None:
        """Copy slots of another cache into the own ones from `first_slot` on: slot `first_slot + i` is `source[i]`."""
        end = first_slot + len(source)
        if not self._keys:
            self.allocate(rows=end, capacity=other._capacity)
            self._keys = [keys.new_zeros(end, *keys.shape[1:]) for keys in other._keys]
            self._values = [values.new_zeros(end, *values.shape[1:]) for values in other._values]
        if self._capacity < other._capacity:
            self._grow(other._capacity)
        if self._rows < end:
            for store in (self._keys, self._values):
                store[:] = [torch.cat([old, old.new_zeros(end - self._rows, *old.shape[1:])]) for old in store]
            self.lengths = torch.cat([self.lengths, self.lengths.new_zeros(end - self._rows)])
            self._rows = end
        for mine, theirs in ((self._keys, other._keys), (self._values, other._values)):
            for layer, states in zip(mine, theirs, strict=True):
                layer[first_slot:end, :, : other._capacity] = states[source]
        self.lengths = self.lengths.to(other.lengths.device)
        self.lengths[first_slot:end] = other.lengths[source]

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
        end = int(self._positions[:, -1].max()) + 1
        if end > self._capacity:
            self._grow(max(end, int(self._capacity * _GROWTH), self._capacity + _LEAST_GROWTH))
        columns = torch.arange(self._capacity, device=device)
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
                # Zeros, not empty: a masked NaN would still poison the weighted sum.
                store.append(states.new_zeros(self._rows, states.shape[1], self._capacity, states.shape[3]))
        rows = slice(self._first, self._first + len(self._slots))
        found = []
        for store, states in ((self._keys, key_states), (self._values, value_states)):
            store[layer_idx][self._slots, :, self._positions] = states.transpose(1, 2)
            found.append(store[layer_idx][rows])
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
                store[i] = old.new_zeros(*old.shape[:2], capacity, old.shape[3])
                store[i][:, :, : old.shape[2]] = old
        self._capacity = capacity
