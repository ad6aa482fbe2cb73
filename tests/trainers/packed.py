"""Rows for a microbatch, and the plain way to their log probabilities."""

from collections.abc import Sequence

import torch
from torch import Tensor

from trainers.batching import Microbatch, Row
from trainers.policy import Policy
from trainers.trajectories import Completion, Trajectory, Turn


def trajectory(*parts: Sequence[int]) -> Trajectory:
    """Alternating prompts and completions."""
    made = Trajectory(seed=0)
    for prompt, completion in zip(parts[::2], parts[1::2], strict=True):
        made.append_prompt(prompt)
        made.append_completion(Completion(list(completion), [0.0] * len(completion), "stop"))
        made.turns.append(Turn("", len(completion), 0.0, "stop", "", {}))
    return made


def row(group: int, *parts: Sequence[int]) -> Row:
    found = trajectory(*parts)
    return Row(found, [0.0] * len(found.turns), 1.0, group)


def mixed_rows() -> list[Row]:
    """Groups of 1, 2, 3 and 4 with answers of unequal length, in one and several turns; one that shares nothing."""
    return [
        row(0, [5, 6, 7, 8, 9, 10, 11], [12, 13, 14, 15]),
        row(1, [5, 6], [7], [8, 9, 10], [11, 12], [13], [14]),
        row(0, [5, 6, 7, 8, 9, 10, 11], [3]),
        row(2, [20], [21, 22, 23]),
        row(1, [5, 6], [7, 30, 31, 32, 33], [8], [9]),
        row(3, [24, 25], [26, 27]),
        row(3, [25, 25], [26, 27, 28]),
        row(0, [5, 6, 7, 8, 9, 10, 11], [12, 13, 16, 17, 18, 19]),
        row(3, [25, 24, 25], [26]),
        row(3, [25, 24, 25], [29, 30]),
    ]


def plain_logprobs(policy: Policy, rows: Sequence[Row], batch: Microbatch, temperature: float = 1.0) -> Tensor:
    """What `policy.logprobs(batch)` must be: every row by itself, as transformers computes it."""
    found = []
    for number in batch.numbers:
        ledger = rows[number].trajectory
        tokens = torch.tensor([ledger.tokens])
        logits = policy.logits(policy.hidden_states(tokens))[0, :-1] / temperature
        logprobs = torch.log_softmax(logits, -1).gather(1, tokens[0, 1:, None]).squeeze(1)
        found.append(logprobs[torch.tensor(ledger.is_action[1:])])
    return torch.cat(found)


def gradients(policy: Policy, logprobs: Tensor) -> dict[str, Tensor]:
    """Of a sum in which every logprob counts differently; clears them."""
    weights = torch.linspace(-1.0, 2.0, len(logprobs))
    (logprobs * weights).sum().backward()  # type: ignore[no-untyped-call]
    found = {}
    for name, parameter in policy.trainable.items():
        assert parameter.grad is not None, name
        found[name], parameter.grad = parameter.grad, None
    return found


def assert_same_gradients(found: dict[str, Tensor], expected: dict[str, Tensor], *, tolerance: float) -> None:
    """The largest difference as a share of the largest entry, matrix by matrix."""
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert float((found[name] - gradient).abs().max()) <= tolerance * float(gradient.abs().max()), name
