"""The minimal loop, to be read from top to bottom: sample, grade, centre, update, repeat.

python -m trainers.recipes.rl_loop --model HuggingFaceTB/SmolLM2-135M-Instruct

No evaluation, no periodic checkpoints, no options for what one can edit here. The same with all of these, and for
environments of more than one turn, is `rl_basic`.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path

import gymnasium as gym
import torch

from trainers.config import TrainConfig
from trainers.policy import Policy
from trainers.preflight import preflight
from trainers.recipes.cli import run_recipe
from trainers.rollouts import messages_of
from trainers.sampling import TorchSampler
from trainers.trajectories import Completion


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
    groups_per_batch: int = 128
    group_size: int = 16
    max_tokens: int = 256
    learning_rate: float = 4e-5
    lora_rank: int = 32
    prompts_at_a_time: int = 32
    """Prompts in one pass of the sampler: less needs less memory."""
    rows_at_a_time: int = 16
    """Rows in one backward pass: less needs less memory."""
    seed: int = 0


def main(config: Config) -> None:
    """Run the loop."""
    # Refuse what cannot work before anything is loaded.
    renderer, context_length = preflight(
        TrainConfig(
            model=config.model,
            env=config.env,
            env_args=config.env_args,
            groups_per_batch=config.groups_per_batch,
            group_size=config.group_size,
            max_tokens=config.max_tokens,
        )
    )

    # A frozen base model with a LoRA adapter, and a sampler that shares its weights.
    policy = Policy.load(config.model, lora_rank=config.lora_rank, seed=config.seed)
    sampler = TorchSampler(policy, stop_tokens=renderer.stop_tokens, context_length=context_length)

    # Adam steps on float32 copies of the adapter: its steps are too small for bfloat16.
    parameters = list(policy.trainable.values())
    masters = [p.detach().float().clone() for p in parameters]
    optimizer = torch.optim.Adam(masters, lr=config.learning_rate, betas=(0.9, 0.95), eps=1e-8)

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
            assert all(observation == starts[0][0] for observation, _ in starts)
            prompts.append(renderer.prompt(messages_of(*starts[0])))

        # Sample: group_size answers to each question, as tokens with their logprobs.
        completions: list[Completion] = []
        for start in range(0, len(prompts), config.prompts_at_a_time):
            part = prompts[start : start + config.prompts_at_a_time]
            seed = hash((config.seed, update, start)) % 2**31
            session = sampler.open(part, group_size=config.group_size, seed=seed)
            first_turn = dict.fromkeys(range(len(part) * config.group_size), ())
            completions += session.sample(first_turn, max_tokens=config.max_tokens).values()

        # Grade: the environment sees text. An answer that it failed to judge counts nowhere.
        rewards = []
        for env, completion in zip(envs, completions, strict=True):
            _, reward, terminated, _, info = env.step(renderer.action(completion.tokens))
            assert terminated, "this loop is for single-turn environments; rl_basic plays longer ones"
            rewards.append(float("nan") if info.get("verdict") == "unscorable" else float(reward))

        # Centre: an answer is as good as it is better than the others to the same question. A group without any
        # difference teaches nothing.
        returns = torch.tensor(rewards).view(config.groups_per_batch, config.group_size)  # [P, G]
        advantage = (returns - returns.nanmean(1, keepdim=True)).nan_to_num(0.0).flatten()  # [P * G]
        learn_from = (advantage.abs() > 1e-6).nonzero().flatten().tolist()
        num_tokens = sum(len(completions[row].tokens) for row in learn_from)

        # Update: raise the probability of the tokens of better answers, lower that of the worse.
        for start in range(0, len(learn_from), config.rows_at_a_time):
            rows = learn_from[start : start + config.rows_at_a_time]
            texts = [prompts[row // config.group_size] + completions[row].tokens for row in rows]
            tokens = torch.zeros(len(rows), max(map(len, texts)), dtype=torch.int64)  # [B, T]
            is_action = torch.zeros_like(tokens, dtype=torch.bool)  # [B, T]
            for i, (row, text) in enumerate(zip(rows, texts, strict=True)):
                tokens[i, : len(text)] = torch.tensor(text)
                is_action[i, len(text) - len(completions[row].tokens) : len(text)] = True
            sampled = torch.tensor([p for row in rows for p in completions[row].logprobs])  # [N]
            weight = torch.cat([advantage[row].expand(len(completions[row].tokens)) for row in rows])  # [N]

            logprobs = policy.logprobs(tokens.to(policy.device), is_action.to(policy.device))  # [N]
            ratio = (logprobs - sampled.to(policy.device)).exp()  # 1, but for rounding: the sampler is the policy
            loss = -(ratio * weight.to(policy.device)).sum() / num_tokens
            loss.backward()  # type: ignore[no-untyped-call]

        if learn_from:
            for master, parameter in zip(masters, parameters, strict=True):
                master.grad, parameter.grad = parameter.grad.float(), None  # type: ignore[union-attr]
            optimizer.step()
            with torch.no_grad():
                for master, parameter in zip(masters, parameters, strict=True):
                    parameter.copy_(master)

        print(
            f"update {update + 1}/{config.updates}  mean reward {returns.nanmean():.3f}  "
            f"answers to learn from {len(learn_from)}/{len(envs)}  {time.perf_counter() - started:.1f} s",
            flush=True,
        )

    policy.save_adapter(config.run_dir / "adapter")
    print(f"The adapter is in {config.run_dir / 'adapter'}")


if __name__ == "__main__":
    run_recipe(Config, main, description="The minimal policy-gradient loop.")
