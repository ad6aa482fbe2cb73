"""Supervised reading of transcripts: what a model of random weights does before reinforcement learning."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from trainers.optimizer import MasterAdam
from trainers.rendering import Renderer
from trainers.rollouts import TextEnv, messages_of
from trainers.trajectories import Completion, Trajectory, Turn

_WARMUP_STEPS = 20


class Player(Protocol):
    """A scripted player, as environments ship them: it sees what a policy sees."""

    def reset(self, observation: str, info: Mapping[str, Any]) -> None:
        """Begin an episode."""
        ...

    def act(self, observation: str) -> str:
        """Answer an observation."""
        ...


def play(env: TextEnv, player: Player, renderer: Renderer, *, seed: int) -> Trajectory:
    """One episode of a scripted player, written down as if a policy had sampled it (with logprobs 0)."""
    observation, info = env.reset(seed=seed)
    player.reset(observation, info)
    trajectory = Trajectory(seed=seed, observations=[observation])
    trajectory.append_prompt(renderer.prompt(messages_of(observation, info)))
    over = False
    while not over:
        action = player.act(observation)
        spoken = renderer.completion(action)
        trajectory.append_completion(Completion(spoken, [0.0] * len(spoken), "stop"))
        observation, reward, terminated, truncated, info = env.step(action)
        trajectory.observations.append(observation)
        trajectory.turns.append(Turn(action, len(spoken), float(reward), "stop", str(info.get("verdict", "")), {}))
        over = terminated or truncated
        if not over:
            trajectory.append_prompt(renderer.continuation(messages_of(observation, info), stopped=True))
    return trajectory


class Reader:
    """Trains all weights of a causal language model to predict the actions of transcripts.

    Adam with a short warm-up and a cosine decay to zero (Loshchilov and Hutter, 2016, arXiv:1608.03983), on the mean
    cross-entropy of action tokens in nats. Step k reads transcripts of its own, fixed by its number, so a reading that
    was stopped and restored goes on as if nothing had happened.

    Args:
        model: a `transformers` causal language model; it is trained in the dtype that it has.
        transcripts: gives the transcripts of a step.
        steps: how many there will be.
        learning_rate: the highest.
        tokens_per_microbatch: padding included; small ones stay in the processor's cache.
    """

    def __init__(
        self,
        model: Any,
        transcripts: Callable[[int], list[Trajectory]],
        *,
        steps: int,
        learning_rate: float,
        tokens_per_microbatch: int = 2048,
    ) -> None:
        self._model = model
        self._transcripts = transcripts
        self.steps = steps
        self._learning_rate = learning_rate
        self._tokens_per_microbatch = tokens_per_microbatch
        self._optimizer = MasterAdam(dict(model.named_parameters()), learning_rate=learning_rate)
        self.steps_done = 0

    def step(self) -> float:
        """Read one batch of transcripts; its loss in nats a token."""
        batch = self._transcripts(self.steps_done)
        total = sum(trajectory.num_action_tokens for trajectory in batch)
        decoder, head = self._model.get_decoder(), self._model.get_output_embeddings()
        loss = 0.0
        for tokens, is_action in _padded(batch, self._tokens_per_microbatch):
            # Token t is predicted from position t - 1. The head learns as well, which it does not in `token_logprobs`.
            hidden = decoder(input_ids=tokens, use_cache=False).last_hidden_state[:, :-1][is_action[:, 1:]]  # [M, H]
            mean = F.cross_entropy(head(hidden).float(), tokens[is_action], reduction="none").sum() / total
            mean.backward()  # type: ignore[no-untyped-call]
            loss += float(mean.detach())
        self._optimizer.set_learning_rate(self._learning_rate * self._schedule())
        self._optimizer.step(max_grad_norm=1.0)
        self.steps_done += 1
        return loss

    def save(self, path: Path) -> None:
        """Write all that is needed to go on."""
        partial = path.with_suffix(".partial")
        torch.save({"steps_done": self.steps_done, "optimizer": self._optimizer.state_dict()}, partial)
        partial.replace(path)

    def restore(self, path: Path) -> None:
        """Go on from what `save` wrote."""
        state = torch.load(path, weights_only=True)
        self._optimizer.load_state_dict(state["optimizer"])
        self.steps_done = int(state["steps_done"])

    def _schedule(self) -> float:
        cosine = 0.5 * (1.0 + math.cos(math.pi * self.steps_done / self.steps))
        return min(1.0, (self.steps_done + 1) / _WARMUP_STEPS) * cosine


def _padded(rows: Sequence[Trajectory], limit: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Tokens `[B, T]`, padded on the right, where a causal model never looks, and which of them are actions.

    Rows of like length stand together; at most `limit` tokens, if one row has no more.
    """
    ordered = sorted(rows, key=lambda row: len(row.tokens), reverse=True)
    while ordered:
        longest = len(ordered[0].tokens)
        count = max(1, limit // longest)
        part, ordered = ordered[:count], ordered[count:]
        yield (
            torch.tensor([row.tokens + [0] * (longest - len(row.tokens)) for row in part]),
            torch.tensor([row.is_action + [False] * (longest - len(row.tokens)) for row in part]),
        )
