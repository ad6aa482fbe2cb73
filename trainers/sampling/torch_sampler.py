"""The embedded sampler: the policy's own weights, a cache kept over turns, and no row that waits for another."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from trainers.policy import Policy
from trainers.sampling.attention import KERNEL
from trainers.sampling.draw import sample_tokens
from trainers.sampling.fused_decoder import FusedDecoder
from trainers.sampling.packed_linear import packed_head
from trainers.sampling.ragged_cache import RaggedCache
from trainers.trajectories import Completion

# Prompts, and what rows are told, are computed in slices of about this many tokens, to bound the memory of activations.
_PREFILL_TOKENS = 16_384

# New rows begin when so large a share of the places is free: few passes over prompts, few places that stand empty.
_FREE_SHARE = 8

# Progress is told every so many tokens of a row, for it asks the device.
_STEPS_UNTOLD = 8


class TorchSampler:
    """Samples from a `Policy` in this process.

    Args:
        policy: shared with the trainer: updates are seen at once.
        stop_tokens: tokens that end a turn.
        context_length: most tokens of a row; a turn that reaches it ends with `length`. Default: what the model's
            configuration allows.
        max_rows: how many rows are sampled at once, and have their keys and values in memory. Others wait; a row that
            had to give way to them between two turns is computed again.
    """

    shares_weights = True

    def __init__(
        self,
        policy: Policy,
        *,
        stop_tokens: Sequence[int],
        context_length: int | None = None,
        max_rows: int = 512,
    ) -> None:
        if not stop_tokens:
            raise ValueError("stop_tokens is empty: no turn would end before max_tokens")
        self.policy = policy
        self.context_length = context_length or int(policy.config.max_position_embeddings)
        self.max_rows = max_rows
        self.stop_tokens = torch.tensor(list(stop_tokens), device=policy.device)
        self.fused = FusedDecoder.of(policy)
        self.head = packed_head(policy.lm_head)

    def open(self, prompts: Sequence[Sequence[int]], *, group_size: int = 1, seed: int = 0) -> TorchSession:
        """Start `len(prompts) * group_size` rows; equal prompts are computed once."""
        session = TorchSession(self, torch.Generator(self.policy.device).manual_seed(seed))
        session.add(prompts, group_size=group_size)
        return session

    def load_adapter(self, policy: Policy) -> None:
        """Take over another policy's adapter; there is nothing to do for its own."""
        if policy is not self.policy:
            self.policy.take_adapter(policy)

    def close(self) -> None:
        """Nothing is held."""


class TorchSession:
    """Rows in slots of one ragged cache.

    The rows that sample stand in the first slots, so attention reads a slice of the cache. A row that ends its turn
    changes places with the last of them, and its keys and values stay behind them for its next turn, until a new row
    needs the slot. Then come the empty slots: `[sampling | kept | empty]`.
    """

    def __init__(self, sampler: TorchSampler, generator: torch.Generator) -> None:
        self._sampler = sampler
        self._policy = sampler.policy
        self._device = sampler.policy.device
        self._generator = generator
        self._cache = RaggedCache(self._policy.dtype)
        self._hidden = torch.empty(0, 0)  # [S, H] by slot: the state from which the slot's next token is sampled
        self._row_of_slot = torch.empty(0, dtype=torch.int64, device=self._device)  # [S]
        self._ledgers: list[list[int]] = []  # by row: its tokens so far
        self._known: dict[int, int] = {}  # by row with a slot: how many of its tokens the cache holds

    def add(self, prompts: Sequence[Sequence[int]], *, group_size: int = 1) -> range:
        """Begin more rows (see `Session.add`). They are computed when they are first sampled."""
        if not prompts or not all(prompts):
            raise ValueError("every prompt needs at least one token")
        if max(map(len, prompts)) >= self._sampler.context_length:
            raise ValueError(
                f"a prompt of {max(map(len, prompts))} tokens leaves no room in {self._sampler.context_length}"
            )
        first = len(self._ledgers)
        self._ledgers += [list(prompt) for prompt in prompts for _ in range(group_size)]
        return range(first, len(self._ledgers))

    @torch.inference_mode()
    def sample(
        self,
        feeds: Mapping[int, Sequence[int]],
        *,
        max_tokens: int,
        temperature: float = 1.0,
        top_p: float = 1.0,
        top_k: int = 0,
        progress: Callable[[float], None] | None = None,
    ) -> dict[int, Completion]:
        """Append tokens to rows, then sample a completion for each (see `Session.sample`)."""
        gone = [row for row in feeds if not 0 <= row < len(self._ledgers)]
        if gone:
            raise KeyError(f"there are no rows {gone[:5]}")
        if max_tokens < 1:
            raise ValueError(f"max_tokens must be at least 1, not {max_tokens}")
        for row, feed in feeds.items():
            self._ledgers[row] += feed
        turn = _Turn(self._ledgers, list(feeds), max_tokens, self._sampler.context_length, self._device)
        with self._computing():
            waiting = [row for row in feeds if row not in self._known]
            active = self._feed([row for row in feeds if row in self._known])
            steps = 0
            while active or waiting:
                free = self._sampler.max_rows - active
                if waiting and (not active or free >= min(len(waiting), -(-self._sampler.max_rows // _FREE_SHARE))):
                    begun, waiting = waiting[:free], waiting[free:]
                    self._begin(begun, active)
                    active += len(begun)
                logits = self._sampler.head(self._hidden[:active])
                token, logprob = sample_tokens(
                    logits, temperature=temperature, top_p=top_p, top_k=top_k, generator=self._generator
                )
                goes_on = turn.append(
                    self._row_of_slot[:active], token, logprob, torch.isin(token, self._sampler.stop_tokens)
                )
                if not bool(goes_on.all()):
                    active, order = self._compact(goes_on, active)
                    token = token[order]
                if active:
                    self._forward(token)
                steps += 1
                if progress is not None and steps % _STEPS_UNTOLD == 0:
                    progress(turn.done())
        found = turn.completions()
        for row, completion in found.items():
            self._ledgers[row] += completion.tokens
            if row in self._known:  # the last token was sampled, and never an input
                self._known[row] = len(self._ledgers[row]) - 1
        return found

    def _computing(self) -> AbstractContextManager[None]:
        """What to compute in: the fused decoder with the adapter as it is now, or transformers' own."""
        if self._sampler.fused is not None and self._sampler.fused.refresh():
            return nullcontext()
        self._sampler.fused = None
        return self._policy.attention(KERNEL)

    def _begin(self, rows: Sequence[int], active: int) -> None:
        """Compute rows that have no slot, and put them behind the active ones. Equal ledgers are computed once."""
        ledgers = [tuple(self._ledgers[row]) for row in rows]
        unique = sorted(set(ledgers), key=len, reverse=True)
        index = {ledger: i for i, ledger in enumerate(unique)}
        source = torch.tensor([index[ledger] for ledger in ledgers], device=self._device)
        cache, hidden = self._prefill(unique)  # [U, H]
        kept = len(self._known) - active
        for row in self._row_of_slot[active:][max(0, self._sampler.max_rows - active - len(rows)) : kept].tolist():
            del self._known[row]
        first = len(self._known)
        self._cache.put(cache, source, first_slot=first)
        new = torch.tensor(rows, device=self._device)
        self._hidden = torch.cat([self._hidden[:first], hidden[source]]) if first else hidden[source]
        self._row_of_slot = torch.cat([self._row_of_slot[:first], new])
        self._known |= {row: len(self._ledgers[row]) for row in rows}
        moved = min(first - active, len(rows))
        if moved:  # the kept ones make room
            places = torch.arange(active, active + moved, device=self._device)
            self._swap(places, torch.arange(first + len(rows) - moved, first + len(rows), device=self._device))

    def _prefill(self, ledgers: Sequence[Sequence[int]]) -> tuple[RaggedCache, Tensor]:
        """Compute ledgers, the longest first, into a cache of their own; the hidden state after each: `[U, H]`."""
        cache = RaggedCache(self._policy.dtype)
        cache.allocate(rows=len(ledgers), capacity=len(ledgers[0]))
        hidden = []
        start = 0
        while start < len(ledgers):
            longest = len(ledgers[start])
            part = ledgers[start : start + max(1, _PREFILL_TOKENS // longest)]
            tokens, lengths = self._padded(part)
            hidden.append(self._run(cache, tokens, lengths, first_slot=start))
            start += len(part)
        return cache, torch.cat(hidden)

    def _feed(self, rows: Sequence[int]) -> int:
        """Move rows that have slots to the front, and append to each what it was told; how many they are."""
        if not rows:
            return 0
        chosen = torch.zeros(len(self._ledgers), dtype=torch.bool, device=self._device)
        chosen[list(rows)] = True
        active, _ = self._compact(chosen[self._row_of_slot], len(self._row_of_slot))
        texts = [self._ledgers[row][self._known[row] :] for row in self._row_of_slot[:active].tolist()]
        at_a_time = max(1, _PREFILL_TOKENS // max(map(len, texts)))
        for start in range(0, active, at_a_time):
            part = texts[start : start + at_a_time]
            tokens, lengths = self._padded(part)
            self._hidden[start : start + len(part)] = self._run(self._cache, tokens, lengths, first_slot=start)
        return active

    def _forward(self, tokens: Tensor) -> None:
        """Append one token to each of the first slots: `[n]`."""
        found = self._run(self._cache, tokens[:, None], torch.ones_like(tokens), first_slot=0)
        self._hidden[: len(tokens)] = found

    def _padded(self, texts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Tokens `[n, t]`, and how many of them are real: `[n]`."""
        longest = max(map(len, texts))
        tokens = [[*text, *[0] * (longest - len(text))] for text in texts]
        return torch.tensor(tokens, device=self._device), torch.tensor([*map(len, texts)], device=self._device)

    def _run(self, cache: RaggedCache, tokens: Tensor, lengths: Tensor, *, first_slot: int) -> Tensor:
        mask, positions = cache.begin(lengths, width=tokens.shape[1], first_slot=first_slot)
        if self._sampler.fused is not None:
            hidden = self._sampler.fused.hidden_states(tokens, mask=mask, positions=positions, cache=cache)
        else:
            hidden = self._policy.hidden_states(
                tokens, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True
            )
        cache.end(lengths, first_slot=first_slot)
        return hidden[torch.arange(len(tokens), device=tokens.device), lengths - 1]

    def _compact(self, keep: Tensor, active: int) -> tuple[int, Tensor]:
        """Move the kept ones of the first `active` slots to the front.

        Returns how many they are and which of the old slots now stand there: `[kept]`.
        """
        kept = int(keep.sum())
        order = torch.arange(active, device=keep.device)
        holes = (~keep[:kept]).nonzero().squeeze(1)
        movers = keep[kept:].nonzero().squeeze(1) + kept
        if len(holes):
            order[holes], order[movers] = movers, holes
            self._swap(holes, movers)
        return kept, order[:kept]

    def _swap(self, a: Tensor, b: Tensor) -> None:
        self._cache.swap(a, b)
        for by_slot in (self._hidden, self._row_of_slot):
            by_slot[a], by_slot[b] = by_slot[b], by_slot[a]


class _Turn:
    """What the rows say in one turn. On the device: no step waits for the host but to learn who has ended."""

    def __init__(
        self, ledgers: Sequence[Sequence[int]], rows: Sequence[int], max_tokens: int, context: int, device: torch.device
    ) -> None:
        self._rows = rows
        room = torch.tensor([min(max_tokens, context - len(ledgers[row])) for row in rows], device=device)
        self._place = torch.zeros(len(ledgers), dtype=torch.int64, device=device)  # of a row in the tensors below
        self._place[list(rows)] = torch.arange(len(rows), device=device)
        self._room = room
        self._tokens = torch.zeros(len(rows), max_tokens, dtype=torch.int64, device=device)
        self._logprobs = torch.zeros(len(rows), max_tokens, device=device)
        self._counts = torch.zeros(len(rows), dtype=torch.int64, device=device)
        self._stopped = torch.zeros(len(rows), dtype=torch.bool, device=device)

    def append(self, rows: Tensor, tokens: Tensor, logprobs: Tensor, stops: Tensor) -> Tensor:
        """Note one token for each of `rows` `[n]`; who goes on: `[n]` bool."""
        place = self._place[rows]
        count = self._counts[place]
        self._tokens[place, count], self._logprobs[place, count] = tokens, logprobs
        self._counts[place] = count + 1
        self._stopped[place] = stops
        return ~stops & (count + 1 < self._room[place])

    def done(self) -> float:
        """How many rows are done, those under way by the share of their room that they have filled."""
        ended = self._stopped | (self._counts >= self._room)
        return float(torch.where(ended, 1.0, self._counts / self._room).sum())

    def completions(self) -> dict[int, Completion]:
        """By row, in the order in which they were asked."""
        tokens, logprobs = self._tokens.tolist(), self._logprobs.tolist()
        found = {}
        for i, (row, n, stop) in enumerate(zip(self._rows, self._counts.tolist(), self._stopped.tolist(), strict=True)):
            found[row] = Completion(tokens[i][:n], logprobs[i][:n], "stop" if stop else "length")
        return found
