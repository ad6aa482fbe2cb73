"""The minimal loop, to be read from top to bottom: sample, grade, centre, update, repeat.

python -m trainers.recipes.rl_loop --model HuggingFaceTB/SmolLM2-135M-Instruct

No evaluation, no periodic checkpoints, no options for what one can edit here. The same with all of these, and for
environments of more than one turn, is `rl_basic`.
"""

from __future__ import annotations

import dataclasses
import json
import time
from dataclasses import dataclass
from pathlib import Path

from trainers.config import ConfigError, TrainConfig
from trainers.recipes.cli import make_run_dir, run_recipe
from trainers.trajectories import Trajectory, Turn


@dataclass(frozen=True)
class Config:
    """Options of the minimal loop."""

    model: str = "HuggingFaceTB/SmolLM2-135M-Instruct"
    """Hub id or transformers folder."""
    env: str = "llm_envs:GSM8K-v0"
    """Any single-turn Gymnasium text environment."""
    env_args: str = "{}"
    """Its arguments, as a JSON object."""
    run_dir: Path = Path("runs/rl_loop")
    """Where the adapter goes in the end."""
    updates: int = 58
    """Batches, each with one step of the optimizer."""
    groups_per_batch: int = 128
    """Questions in a batch."""
    group_size: int = 16
    """Answers to each question, which are compared with one another."""
    max_tokens: int = 256
    """Most tokens of an answer."""
    learning_rate: float = 4e-5
    """Of Adam."""
    lora_rank: int = 32
    """Of the adapter: a larger one can learn more, and needs more memory."""
    max_rows: int = 512
    """Answers that are sampled at once: less needs less memory."""
    tokens_per_microbatch: int = 16_384
    """Tokens in one backward pass: less needs less memory."""
    seed: int = 0
    """Of the adapter's weights and of sampling."""


def main(config: Config) -> None:
    """Run the loop."""
    # Imported here because they take seconds, and --help should not.
    import gymnasium as gym
    import torch

    from trainers.batching import Row, microbatches
    from trainers.optimizer import MasterAdam
    from trainers.policy import Policy
    from trainers.preflight import preflight
    from trainers.rollouts import messages_of
    from trainers.sampling import TorchSampler

    # Refuse what cannot work before anything is loaded.
    checked = preflight(TrainConfig(**dataclasses.asdict(config)))
    make_run_dir(config.run_dir)

    # A frozen base model with a LoRA adapter, and a sampler that shares its weights.
    policy = Policy.load(config.model, lora_rank=config.lora_rank, seed=config.seed)
    renderer = checked.renderer
    sampler = TorchSampler(
        policy, stop_tokens=renderer.stop_tokens, context_length=checked.context_length, max_rows=config.max_rows
    )

    # Adam steps on float32 copies of the adapter: its steps are too small for bfloat16.
    optimizer = MasterAdam(policy.trainable, learning_rate=config.learning_rate)

    env_args = json.loads(config.env_args)
    envs = [gym.make(config.env, **env_args) for _ in range(config.groups_per_batch * config.group_size)]

    for update in range(config.updates):
        started = time.perf_counter()

        # Reset: the environments of one group get one seed, so they ask the same question.
        prompts = []
        for group in range(config.groups_per_batch):
            problem = update * config.groups_per_batch + group
            members = envs[group * config.group_size : (group + 1) * config.group_size]
            starts = [env.reset(seed=problem) for env in members]
            if any(observation != starts[0][0] for observation, _ in starts):
                raise ConfigError(f"env {config.env!r} does not begin alike when it is reset with the same seed")
            prompts.append(renderer.prompt(messages_of(*starts[0])))

        # Sample: group_size answers to each question, as tokens with their logprobs.
        session = sampler.open(prompts, group_size=config.group_size, seed=hash((config.seed, update)) % 2**31)
        completions = session.sample(dict.fromkeys(range(len(envs)), ()), max_tokens=config.max_tokens)

        # Grade: the environment sees text. An answer that it failed to judge counts nowhere.
        rewards = []
        trajectories = []
        for row, env in enumerate(envs):
            action = renderer.action(completions[row].tokens)
            _, reward, terminated, _, info = env.step(action)
            if not terminated:
                raise ConfigError(f"env {config.env!r} has more than one turn: this loop plays one; use rl_basic")
            verdict = str(info.get("verdict", ""))
            rewards.append(float("nan") if verdict == "unscorable" else float(reward))
            trajectory = Trajectory(seed=update)
            trajectory.append_prompt(prompts[row // config.group_size])
            trajectory.append_completion(completions[row])
            length, stop = len(completions[row].tokens), completions[row].stop_reason
            trajectory.turns.append(Turn(action, length, float(reward), stop, verdict, {}))
            trajectories.append(trajectory)

        # Centre: an answer is as good as it is better than the others to the same question. A group without any
        # difference teaches nothing.
        returns = torch.tensor(rewards).view(config.groups_per_batch, config.group_size)  # [P, G]
        advantage = (returns - returns.nanmean(1, keepdim=True)).nan_to_num(0.0).flatten()  # [P * G]
        learn_from = (advantage.abs() > 1e-6).nonzero().flatten().tolist()
        num_tokens = sum(trajectories[row].num_action_tokens for row in learn_from)
        rows = [
            Row(trajectories[row], [float(advantage[row])], 1 / num_tokens, group=row // config.group_size)
            for row in learn_from
        ]

        # Update: raise the probability of the tokens of better answers, lower that of the worse. The prompt of a group
        # stands once in a microbatch, with its answers behind it.
        for microbatch in microbatches(rows, tokens_per_microbatch=config.tokens_per_microbatch):
            batch = microbatch.to(policy.device)
            logprobs = policy.logprobs(batch)  # [M]
            ratio = (logprobs - batch.sampled_logprobs).exp()  # 1, but for rounding: the sampler is the policy
            loss = -(ratio * batch.advantages * batch.weights).sum()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.collect()  # in float32: a sum of many in bfloat16 would lose the small ones

        if learn_from:
            optimizer.step()

        print(
            f"update {update + 1}/{config.updates}  mean reward {returns.nanmean():.3f}  "
            f"answers to learn from {len(learn_from)}/{len(envs)}  {time.perf_counter() - started:.1f} s",
            flush=True,
        )

    policy.save_adapter(config.run_dir / "adapter")
    print(f"The adapter is in {config.run_dir / 'adapter'}")


if __name__ == "__main__":
    run_recipe(Config, main, description="The minimal policy-gradient loop.")
