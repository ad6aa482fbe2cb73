"""Supervised reading of transcripts: what a model of random weights does before reinforcement learning."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

import torch

from trainers.batching import microbatches
from trainers.policy import token_logprobs
from trainers.rendering import Renderer
from trainers.rollouts import TextEnv, messages_of
from trainers.trajectories import Completion, Trajectory, Turn


class Solver(Protocol):
    """A scripted player: it sees what a policy sees."""

    def reset(self, observation: str, info: Mapping[str, Any]) -> None:
        """Begin an episode."""
        ...

    def act(self, observation: str) -> str:
        """Answer an observation."""
        ...


def play(env: TextEnv, solver: Solver, renderer: Renderer, *, seed: int) -> Trajectory:
    """One episode of a scripted player, written down as if a policy had sampled it (with logprobs 0)."""
    observation, info = env.reset(seed=seed)
    solver.reset(observation, info)
    trajectory = Trajectory(seed=seed, observations=[observation])
    trajectory.append_prompt(renderer.prompt(messages_of(observation, info)))
    over = False
    while not over:
        action = solver.act(observation)
        spoken = renderer.completion(action)
        trajectory.append_completion(Completion(spoken, [0.0] * len(spoken), "stop"))
        observation, reward, terminated, truncated, info = env.step(action)
        trajectory.observations.append(observation)
        trajectory.turns.append(Turn(action, float(reward), "stop", str(info.get("verdict", "")), {}))
        over = terminated or truncated
        if not over:
            trajectory.append_prompt(renderer.continuation(messages_of(observation, info), stopped=True))
    return trajectory


def read(
    model: Any,
    batches: Iterable[list[Trajectory]],
    *,
    steps: int,
    learning_rate: float,
    tokens_per_microbatch: int = 65_536,
    on_step: Callable[[int, float], None] = lambda step, loss: None,
) -> None:
    """Train all weights of a causal language model to predict the actions of transcripts.

    AdamW with a linear warm-up over the first tenth and a cosine decay to zero (Loshchilov and Hutter, 2016,
    arXiv:1608.03983); the loss is the mean cross-entropy of action tokens, in nats.

    Args:
        model: a `transformers` causal language model in float32.
        batches: lists of transcripts, one an optimizer step.
        steps: how many to take; `batches` must have as many.
        learning_rate: the highest.
        tokens_per_microbatch: padding included.
        on_step: called with the number of the step and its loss.
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, betas=(0.9, 0.95), weight_decay=0.01, foreach=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps, pct_start=0.1)
    model.train()
    for step, batch in zip(range(1, steps + 1), batches, strict=False):
        total = sum(t.num_action_tokens for t in batch)
        loss = 0.0
        for microbatch in microbatches(batch, [1.0] * len(batch), tokens_per_microbatch=tokens_per_microbatch):
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=AUTOCAST):
                logprobs = token_logprobs(model.get_decoder(), model.get_output_embeddings(), microbatch.tokens, microbatch.is_action)
            part = -logprobs.sum() / total
            part.backward()
            loss += float(part)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        on_step(step, loss)
    model.eval()
