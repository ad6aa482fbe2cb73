"""The training loop: sample, grade, centre, update, repeat."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from trainers.advantages import with_kl_penalty
from trainers.batching import Microbatch, microbatches
from trainers.checkpoints import load_state, prepare_run_dir, save_checkpoint
from trainers.config import ConfigError, Interrupted, TrainConfig
from trainers.credit import assign_credit
from trainers.evaluate import evaluate, summarize
from trainers.games import SELF, make_game, play_games
from trainers.losses import importance_sampling_loss
from trainers.opponents import OpponentPool
from trainers.optimizer import MasterAdam
from trainers.policy import Policy
from trainers.preflight import preflight
from trainers.rendering import Renderer
from trainers.rollouts import EnvPool, RolloutClock, RolloutSettings, TextEnv, rollout_groups
from trainers.run_log import RunLog
from trainers.sampling import TorchSampler
from trainers.trajectories import Group, Trajectory

# Runs of other seeds begin this many problems later: more than any run draws.
_SEEDS_APART = 1_000_000_007


@dataclass
class Run:
    """All parts of a run, ready to go."""

    config: TrainConfig
    policy: Policy
    optimizer: MasterAdam
    renderer: Renderer
    sampler: TorchSampler
    settings: RolloutSettings
    pool: EnvPool[TextEnv]
    games: EnvPool[Any]
    opponents: OpponentPool | None
    eval_pool: EnvPool[TextEnv]
    log: RunLog
    updates_done: int = 0

    def save(self) -> Path:
        """Write a checkpoint of the last finished update."""
        opponents = None if self.opponents is None else self.opponents.state_dict()
        return save_checkpoint(
            self.config, self.policy, self.optimizer, updates_done=self.updates_done, opponents=opponents
        )


def train(config: TrainConfig, *, log: RunLog | None = None) -> Run:
    """Train an adapter as `config` says.

    Writes to `config.run_dir`: `config.json`, `metrics.jsonl` (a line for every update and evaluation),
    `episodes.jsonl` (one group an update, as text), `checkpoints/`, and at the end `adapter/`.

    Raises:
        ConfigError: before anything is loaded, when a setting cannot work.
        Interrupted: on Ctrl-C, after a checkpoint of the last finished update was written. (So it is on any error.)
    """
    renderer, context_length = preflight(config)
    checkpoint = prepare_run_dir(config)
    run = _load(config, renderer, context_length, checkpoint, log or RunLog(config))
    run.log.start(run.updates_done, _known_returns(run.eval_pool) if config.eval_every or run.opponents is None else {})
    try:
        _evaluate_if_due(run)
        while run.updates_done < config.updates:
            _update(run)
            _evaluate_if_due(run)
            if config.save_every and run.updates_done % config.save_every == 0:
                run.save()
        run.save()
        run.policy.save_adapter(config.run_dir / "adapter")
    except KeyboardInterrupt:
        _rescue(run, "Interrupted")
        raise Interrupted(config.run_dir) from None
    except Exception:
        _rescue(run, "Stopped by an error")
        raise
    finally:
        run.log.stop()
        for pool in (run.pool, run.games, run.eval_pool):
            pool.close()
    return run


def _rescue(run: Run, what: str) -> None:
    """Save the last finished update; whatever was under way had not touched the weights yet."""
    run.log.stop()
    saved = run.save()
    run.log.say(f"{what} after update {run.updates_done}. Adapter and trainer state: {saved}")


def _update(run: Run) -> None:
    """One batch: roll out, compute advantages, take one optimizer step, log."""
    config, number, clock, started = run.config, run.updates_done, RolloutClock(), time.perf_counter()
    first = config.seed * _SEEDS_APART + number * config.groups_per_batch
    groups: list[Group] = []
    for group in _rollout(run, range(first, first + config.groups_per_batch), clock):
        groups.append(group)
        # Of a game of several players there is a group for every seat of the policy; problems come in order.
        done = group.seed - first + 1
        run.log.progress(f"update {number + 1}: sampled {done} of {config.groups_per_batch} groups")
    rolled_out = time.perf_counter()
    run.log.progress(f"update {number + 1}: training")
    credit = assign_credit(groups, config.baseline, keep_all=config.kl_coef > 0)
    learned = _backward(run, credit.trajectories, credit.advantages)
    # In a game of several players it may be over before the policy said anything: that is not its doing.
    everything = [trajectory for group in groups for trajectory in group.trajectories if trajectory.turns]
    sampled = sum(t.num_action_tokens for t in everything)
    with _uninterrupted():  # step, count and log agree, whenever Ctrl-C comes
        if credit.trajectories:
            run.optimizer.set_learning_rate(config.learning_rate_at(number))
            learned["grad_norm"] = run.optimizer.step(max_grad_norm=config.max_grad_norm)
        run.updates_done += 1
        if run.opponents is not None and run.updates_done % config.past_every == 0:
            run.opponents.remember(run.updates_done)
        metrics = {
            **summarize(everything),
            **_returns_by_opponent(groups),
            "constant_groups_share": 1.0 - credit.spread_share,
            **learned,
            "entropy": -sum(map(sum, (t.logprobs for t in everything))) / max(1, sampled),
            "action_tokens": float(sampled),
            "sampling_seconds": clock.sampling_seconds,
            "env_seconds": clock.env_seconds,
            "training_seconds": time.perf_counter() - rolled_out,
            "seconds": time.perf_counter() - started,
        }
        run.log.update(run.updates_done, metrics, groups[0])


def _rollout(run: Run, seeds: range, clock: RolloutClock) -> Iterator[Group]:
    """The groups of one update: of an environment of one agent, or of a game of several."""
    config, sampling_seed = run.config, _sampling_seed(run.config.seed, run.updates_done)
    if run.opponents is None:
        yield from rollout_groups(
            run.pool, run.sampler, run.renderer,
            seeds=seeds, settings=run.settings, sampling_seed=sampling_seed, clock=clock,
        )  # fmt: skip
        return
    rng = np.random.default_rng([config.seed, run.updates_done])
    [game] = run.games.take(1)
    lineups = run.opponents.draw(seeds, num_seats=len(game.possible_agents), rng=rng)
    yield from play_games(
        run.games, run.sampler, run.renderer, run.opponents,
        lineups=lineups, settings=run.settings, sampling_seed=sampling_seed, clock=clock,
    )  # fmt: skip


def _returns_by_opponent(groups: Sequence[Group]) -> dict[str, float]:
    """Mean return against each kind of opponent, and in self-play for each seat."""
    returns: dict[str, list[float]] = {}
    for group in groups:
        if group.opponent:
            name = group.agent if group.opponent == SELF else group.opponent.partition(" ")[0]
            returns.setdefault(f"return_{name}", []).extend(
                t.total_reward for t in group.trajectories if t.is_scorable and t.turns
            )
    return {name: sum(values) / len(values) for name, values in sorted(returns.items()) if values}


def _backward(run: Run, trajectories: Sequence[Trajectory], advantages: Sequence[Sequence[float]]) -> dict[str, float]:
    """Gradients of the mean loss over all sampled tokens of the batch; empty when there is nothing to learn from."""
    if not trajectories:
        return {}
    kl_coef, temperature = run.config.kl_coef, run.settings.temperature
    total = sum(t.num_action_tokens for t in trajectories)
    loss_sum = gap_sum = 0.0
    cut = microbatches(trajectories, advantages, tokens_per_microbatch=run.config.tokens_per_microbatch)
    batches = [part.to(run.policy.device) for part in cut]
    bases = _base_logprobs(run, batches) if kl_coef else []
    kl = sum(float((b.sampled_logprobs - base).sum()) for b, base in zip(batches, bases, strict=False)) / total
    for number, batch in enumerate(batches):
        credited = batch.advantages
        if kl_coef:
            credited = with_kl_penalty(credited, batch.sampled_logprobs, bases[number], kl_coef, mean=kl)
        logprobs = run.policy.logprobs(batch.tokens, batch.is_action, temperature=temperature)
        loss = importance_sampling_loss(logprobs, batch.sampled_logprobs, credited) / total
        loss.backward()  # type: ignore[no-untyped-call]
        loss_sum += float(loss.detach())
        gap_sum += float((logprobs.detach() - batch.sampled_logprobs).abs().sum())
    found = {"loss": loss_sum, "logprob_gap": gap_sum / total}
    return found | ({"kl": kl} if kl_coef else {})


@torch.no_grad()
def _base_logprobs(run: Run, batches: Sequence[Microbatch]) -> list[Tensor]:
    """The sampled tokens' log probabilities under the base model, `[N]` a batch."""
    with run.policy.playing_as(None):
        return [run.policy.logprobs(b.tokens, b.is_action, temperature=run.settings.temperature) for b in batches]


def _evaluate_if_due(run: Run) -> None:
    every, done = run.config.eval_every, run.updates_done
    if not every or (done % every and done != run.config.updates) or done in dict(run.log.evaluations):
        return
    run.log.progress("evaluating")
    played = evaluate(run.eval_pool, run.sampler, run.renderer, size=run.config.eval_size, settings=run.settings)
    run.log.evaluation(run.updates_done, summarize(played))


def _load(config: TrainConfig, renderer: Renderer, context_length: int, checkpoint: Path | None, log: RunLog) -> Run:
    state = None if checkpoint is None else load_state(checkpoint, config)
    log.say(f"Loading {config.model}")
    try:
        policy = Policy.load(
            config.model,
            lora_rank=config.lora_rank,
            lora_alpha=config.lora_alpha,
            seed=config.seed,
            device=config.device,
            dtype=config.dtype if state is None else state["dtype"],
            attention=config.attention,
            adapter=checkpoint,
        )
    except (OSError, RuntimeError, ValueError) as error:
        raise ConfigError(f"model {config.model!r} cannot be loaded: {str(error).splitlines()[0]}") from error
    optimizer = MasterAdam(
        policy.trainable, learning_rate=config.learning_rate, betas=config.adam_betas, eps=config.adam_eps
    )
    if state is not None:
        optimizer.load_state_dict(state["optimizer"])
    opponents = None
    if config.opponent_shares():
        opponents = OpponentPool(policy, config.opponent_shares(), kept=config.past_kept)
        if state is not None:
            opponents.load_state_dict(state["opponents"])
    return Run(
        config=config,
        policy=policy,
        optimizer=optimizer,
        renderer=renderer,
        sampler=TorchSampler(policy, stop_tokens=renderer.stop_tokens, context_length=context_length),
        settings=RolloutSettings(
            group_size=config.group_size,
            max_tokens=config.max_tokens,
            temperature=config.temperature,
            context_length=context_length,
            max_rows=config.max_rows,
        ),
        pool=EnvPool(partial(gym.make, config.env, **config.parsed_env_args())),
        games=EnvPool(partial(make_game, config.env, **config.parsed_env_args())),
        opponents=opponents,
        eval_pool=EnvPool(partial(gym.make, config.env, **config.parsed_env_args(evaluation=True))),
        log=log,
        updates_done=0 if state is None else int(state["updates_done"]),
    )


def _known_returns(pool: EnvPool[TextEnv]) -> dict[str, float]:
    """What the environment's own solvers earn in expectation, where the environment says so."""
    env: Any = pool.take(1)[0].unwrapped
    if not hasattr(env, "solver_return"):
        return {}
    known = {name: env.solver_return(name) for name in env.solvers}
    return {name: value for name, value in known.items() if value is not None}


def _sampling_seed(seed: int, update: int) -> int:
    """A seed for each update, so that a resumed run samples what the uninterrupted one would have."""
    return (seed * 1_000_003 + update) * 1_009


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Hold back Ctrl-C until the block is done."""
    pressed: list[bool] = []
    try:
        previous = signal.signal(signal.SIGINT, lambda *_: pressed.append(True))
    except ValueError:  # not in the main thread: no signal arrives here
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
    if pressed:
        raise KeyboardInterrupt
