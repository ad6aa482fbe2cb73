"""Sessions of the embedded sampler, and the slow and simple way to the logprobs of what it said."""

from typing import Any, cast

import torch

from trainers.policy import Policy
from trainers.sampling import TorchSampler

STOP = 3
NO_SUCH_TOKEN = 10_000
PROMPTS = [[5, 6, 7, 8, 9, 10, 11], [20], [5, 6, 30], [20], [12, 13, 14, 15, 16, 17, 18, 19, 21, 22, 23]]


def play(sampler: TorchSampler, *, turns=4, group_size=3, temperature=1.0, max_tokens=6, seed=0):
    """A session in which every row is fed a text of its own and leaves after a turn of its own.

    Returns the ledgers, which of their tokens were sampled, and the logprobs of these.
    """
    session = sampler.open(PROMPTS, group_size=group_size, seed=seed)
    rows = len(PROMPTS) * group_size
    ledgers = [list(PROMPTS[row // group_size]) for row in range(rows)]
    is_action = [[False] * len(ledger) for ledger in ledgers]
    logprobs: list[list[float]] = [[] for _ in range(rows)]
    feeds: dict[int, list[int]] = {row: [] for row in range(rows)}
    for turn in range(turns):
        for row, feed in feeds.items():
            ledgers[row] += feed
            is_action[row] += [False] * len(feed)
        completions = session.sample(feeds, max_tokens=max_tokens, temperature=temperature)
        assert completions.keys() == feeds.keys()
        for row, completion in completions.items():
            assert 1 <= len(completion.tokens) == len(completion.logprobs) <= max_tokens
            ledgers[row] += completion.tokens
            is_action[row] += [True] * len(completion.tokens)
            logprobs[row] += completion.logprobs
        # Rows leave from the front, the middle and the end; the others go on, in another order, with 0 to 4 tokens.
        staying = [row for row in feeds if (row * 7 + turn) % 4 != 0]
        feeds = {row: list(range(25, 25 + (row + turn) % 5)) for row in reversed(staying)}
    return ledgers, is_action, logprobs


def recompute(policy: Policy, ledgers, is_action, temperature) -> list[list[float]]:
    longest = max(map(len, ledgers))
    tokens = torch.tensor([ledger + [0] * (longest - len(ledger)) for ledger in ledgers])
    with torch.no_grad():
        logits = policy.logits(policy.hidden_states(tokens)) / temperature
    found = torch.log_softmax(logits[:, :-1], -1).gather(2, tokens[:, 1:, None])[..., 0]
    return [[float(found[i, t - 1]) for t, flag in enumerate(flags) if flag] for i, flags in enumerate(is_action)]


def largest_gap(a: list[list[float]], b: list[list[float]]) -> float:
    assert [len(row) for row in a] == [len(row) for row in b]
    return max(abs(x - y) for row, other in zip(a, b, strict=True) for x, y in zip(row, other, strict=True))


def mean_gap(a: list[list[float]], b: list[list[float]]) -> float:
    gaps = [abs(x - y) for row, other in zip(a, b, strict=True) for x, y in zip(row, other, strict=True)]
    return sum(gaps) / len(gaps)


class Watched:
    """A sampler that writes down the shape of every forward pass."""

    def __init__(self, policy: Policy, **options: Any) -> None:
        self.sampler = TorchSampler(policy, **{"stop_tokens": [STOP], **options})
        self.shapes: list[tuple[int, ...]] = []
        embedding = cast("Any", policy.model.get_base_model()).get_input_embeddings()
        embedding.register_forward_hook(lambda module, inputs, output: self.shapes.append(tuple(output.shape[:2])))

    @property
    def decoded(self) -> list[int]:
        """How many rows each step of one token had."""
        return [rows for rows, width in self.shapes if width == 1]


def many_rows(watched: Watched, *, rows: int, max_tokens: int, turns: int, seed: int = 0) -> Any:
    """Rows of 8 prompts over several turns, in which every row speaks; as `play`."""
    prompts = [[5 + n, *range(10, 11 + n)] for n in range(8)]
    session = watched.sampler.open(prompts, group_size=rows // 8, seed=seed)
    ledgers = [list(prompts[row * 8 // rows]) for row in range(rows)]
    is_action = [[False] * len(ledger) for ledger in ledgers]
    logprobs: list[list[float]] = [[] for _ in range(rows)]
    for turn in range(turns):
        feeds = {row: list(range(25, 25 + (row + turn) % 4)) if turn else [] for row in range(rows)}
        for row, completion in session.sample(feeds, max_tokens=max_tokens).items():
            ledgers[row] += [*feeds[row], *completion.tokens]
            is_action[row] += [False] * len(feeds[row]) + [True] * len(completion.tokens)
            logprobs[row] += completion.logprobs
    return session, ledgers, is_action, logprobs
