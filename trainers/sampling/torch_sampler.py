"""The embedded sampler: the policy's own weights, a cache that is kept over turns, rows that leave when they end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from trainers.policy import Policy
from trainers.sampling.ragged_cache import RaggedCache
from trainers.trajectories import Completion

# Prompts are computed in slices of about this many tokens, to bound the memory of activations.
_PREFILL_TOKENS = 16_384


class TorchSampler:
    """Samples from a `Policy` in this process.

    Args:
        policy: shared with the trainer: updates are seen at once.
        stop_tokens: tokens that end a turn.
        context_length: most tokens of a row; a turn that reaches it ends with `length`. Default: what the model's
            configuration allows.
    """

    def __init__(self, policy: Policy, *, stop_tokens: Sequence[int], context_length: int | None = None) -> None:
        if not stop_tokens:
            raise ValueError("stop_tokens is empty: no turn would end before max_tokens")
        self._policy = policy
        self._context_length = context_length or int(policy.config.max_position_embeddings)
        self._stop_tokens = torch.tensor(list(stop_tokens), device=policy.device)

    @torch.inference_mode()
    def open(self, prompts: Sequence[Sequence[int]], *, group_size: int = 1, seed: int = 0) -> TorchSession:
        """Start `len(prompts) * group_size` rows; equal prompts are computed once."""
        generator = torch.Generator(self._policy.device).manual_seed(seed)
        session = TorchSession(self._policy, self._stop_tokens, self._context_length, generator)
        session.add(prompts, group_size=group_size)
        return session


class TorchSession:
    """Rows in slots of one ragged cache.

    The rows that still sample stand in the first slots, so attention reads a slice of the cache and nothing is copied
    when a row finishes: it changes places with the last active one. Rows whose turn is over keep their slot's cache,
    and may be asked again in the next turn or, while others speak, in a later one.
    """

    def __init__(self, policy: Policy, stop_tokens: Tensor, context_length: int, generator: torch.Generator) -> None:
        self._policy = policy
        self._stop_tokens = stop_tokens
        self._context_length = context_length
        self._generator = generator
        self._cache = RaggedCache(policy.dtype)
        self._hidden = torch.empty(0, 0)  # [R, H] by slot: the state from which the slot's next token is sampled
        self._row_of_slot = torch.arange(0, device=policy.device)  # [R]
        self._pending: dict[int, list[int]] = {}

    @torch.inference_mode()
    def add(self, prompts: Sequence[Sequence[int]], *, group_size: int = 1) -> range:
        """Begin more rows (see `Session.add`)."""
        if not prompts or not all(prompts):
            raise ValueError("every prompt needs at least one token")
        if max(map(len, prompts)) >= self._context_length:
            raise ValueError(f"a prompt of {max(map(len, prompts))} tokens leaves no room in {self._context_length}")
        unique = list(dict.fromkeys(tuple(prompt) for prompt in prompts))
        index = {prompt: i for i, prompt in enumerate(unique)}
        device = self._policy.device
        source = torch.tensor([index[tuple(p)] for p in prompts], device=device).repeat_interleave(group_size)
        with self._policy.attention("sdpa"):  # for one new token a row the fastest everywhere, and frugal with memory
            cache, hidden = self._prefill(unique)  # [U, H]
        first = len(self._row_of_slot)
        cache.expand(source)
        if first:
            self._cache.append(cache)
            self._hidden = torch.cat([self._hidden, hidden[source]])
        else:
            self._cache, self._hidden = cache, hidden[source]
        rows = range(first, first + len(source))
        self._row_of_slot = torch.cat([self._row_of_slot, torch.tensor(rows, device=device)])
        self._pending |= {row: [] for row in rows}
        return rows

    @torch.inference_mode()
    def sample(
        self, feeds: Mapping[int, Sequence[int]], *, max_tokens: int, temperature: float = 1.0
    ) -> dict[int, Completion]:
        """Append tokens to rows, then sample a completion for each (see `Session.sample`)."""
        gone = [row for row in feeds if row not in self._pending]
        if gone:
            raise KeyError(f"there are no rows {gone[:5]}")
        if max_tokens < 1:
            raise ValueError(f"max_tokens must be at least 1, not {max_tokens}")
        with self._policy.attention("sdpa"):
            return self._sample(feeds, max_tokens, temperature)

    def _sample(self, feeds: Mapping[int, Sequence[int]], max_tokens: int, temperature: float) -> dict[int, Completion]:
        self._feed(feeds)
        active = len(feeds)
        rows = len(self._row_of_slot)
        tokens = torch.zeros(rows, max_tokens, dtype=torch.int64, device=self._policy.device)  # by row, not slot
        logprobs = torch.zeros(rows, max_tokens, device=self._policy.device)
        counts = torch.zeros(rows, dtype=torch.int64, device=self._policy.device)
        stopped = torch.zeros(rows, dtype=torch.bool, device=self._policy.device)
        room = torch.empty_like(counts)
        room[self._row_of_slot] = self._context_length - self._cache.lengths
        for step in range(max_tokens):
            row = self._row_of_slot[:active]
            token, logprob = sample_tokens(
                self._policy.logits(self._hidden[:active]), temperature=temperature, generator=self._generator
            )
            tokens[row, step], logprobs[row, step] = token, logprob
            counts[row] = step + 1
            stopped[row] = torch.isin(token, self._stop_tokens)
            ends = stopped[row] | (room[row] <= step + 1)
            if step + 1 == max_tokens:
                break
            if bool(ends.any()):
                active, order = self._compact(~ends, active)
                token = token[order]
            if active == 0:
                break
            self._forward(token.unsqueeze(1), torch.ones_like(token))
        return self._completions(feeds, tokens, logprobs, counts, stopped)

    def _completions(
        self, feeds: Mapping[int, Sequence[int]], tokens: Tensor, logprobs: Tensor, counts: Tensor, stopped: Tensor
    ) -> dict[int, Completion]:
        all_tokens, all_logprobs = tokens.tolist(), logprobs.tolist()
        count, stop = counts.tolist(), stopped.tolist()
        found: dict[int, Completion] = {}
        for row in feeds:
            n = count[row]
            found[row] = Completion(all_tokens[row][:n], all_logprobs[row][:n], "stop" if stop[row] else "length")
        # The last sampled token of a turn was never an input: it heads what is fed before the next turn.
        self._pending |= {row: completion.tokens[-1:] for row, completion in found.items()}
        return found

    def _prefill(self, prompts: Sequence[Sequence[int]]) -> tuple[RaggedCache, Tensor]:
        """Compute unique prompts into a cache of their own; the hidden state after each: `[U, H]`."""
        device = self._policy.device
        lengths = torch.tensor([len(p) for p in prompts], device=device)
        tokens = torch.zeros(len(prompts), int(lengths.max()), dtype=torch.int64, device=device)
        for i, prompt in enumerate(prompts):
            tokens[i, : len(prompt)] = torch.tensor(prompt, device=device)
        cache = RaggedCache(self._policy.dtype)
        cache.allocate(rows=len(prompts), capacity=tokens.shape[1] + 1)
        rows = max(1, _PREFILL_TOKENS // tokens.shape[1])
        hidden = []
        for start in range(0, len(prompts), rows):
            part = slice(start, start + rows)
            hidden.append(self._run(cache, tokens[part], lengths[part], first_slot=start))
        return cache, torch.cat(hidden)

    def _feed(self, feeds: Mapping[int, Sequence[int]]) -> None:
        """Move the rows that speak now to the front, and append to each its pending token and its new text."""
        texts = {row: self._pending[row] + list(feed) for row, feed in feeds.items()}
        # Rows that were just added have nothing to append: what they sample from is known.
        self._to_front([row for row, text in texts.items() if text])
        told = sum(1 for text in texts.values() if text)
        if told:
            in_order = [texts[row] for row in self._row_of_slot[:told].tolist()]
            longest = max(map(len, in_order))
            tokens = torch.tensor([text + [0] * (longest - len(text)) for text in in_order], device=self._policy.device)
            self._forward(tokens, torch.tensor([len(text) for text in in_order], device=self._policy.device))
        if told < len(texts):
            self._to_front(list(texts))

    def _to_front(self, rows: Sequence[int]) -> None:
        chosen = torch.zeros(len(self._row_of_slot), dtype=torch.bool, device=self._policy.device)
        chosen[list(rows)] = True
        self._compact(chosen[self._row_of_slot], len(self._row_of_slot))

    def _forward(self, tokens: Tensor, lengths: Tensor) -> None:
        """Append `tokens` `[n, t]`, of which `lengths` `[n]` are real, to the first n slots."""
        self._hidden[: len(tokens)] = self._run(self._cache, tokens, lengths, first_slot=0)

    def _run(self, cache: RaggedCache, tokens: Tensor, lengths: Tensor, *, first_slot: int) -> Tensor:
        mask, positions = cache.begin(lengths, width=tokens.shape[1], first_slot=first_slot)
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
            self._cache.swap(holes, movers)
            for by_slot in (self._hidden, self._row_of_slot):
                by_slot[:active] = by_slot[:active][order]
        return kept, order[:kept]


def sample_tokens(
    logits: Tensor, *, temperature: float = 1.0, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Draw one token a row by inverting the cumulative distribution, which costs one uniform number a row.

    (`torch.multinomial` draws one for every entry of the vocabulary.)

    Args:
        logits: `[n, V]` float32.
        temperature: divides the logits; 0.0 takes the most probable token.
        generator: the source of chance, on the device of `logits`.

    Returns:
        tokens `[n]`, and their logprobs `[n]` at the temperature sampled at (at 1.0 for 0.0).
    """
    if temperature < 0.0:
        raise ValueError(f"temperature must not be negative, not {temperature}")
    if temperature not in (0.0, 1.0):
        logits = logits / temperature
    logprobs = torch.log_softmax(logits, dim=-1)
    if temperature == 0.0:
        tokens = logits.argmax(-1, keepdim=True)
    else:
        cumulative = logprobs.exp().cumsum(-1)
        total = cumulative[:, -1:]
        uniform = torch.rand(total.shape, generator=generator, device=logits.device)
        # Strictly below the total, whatever the rounding: the first entry above it then has positive probability.
        threshold = torch.minimum(uniform * total, torch.nextafter(total, torch.zeros_like(total)))
        tokens = torch.searchsorted(cumulative, threshold, right=True)
    return tokens.squeeze(1), logprobs.gather(1, tokens).squeeze(1)
