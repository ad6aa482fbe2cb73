"""TwentyQuestions: a tiny language model of random weights learns to find one thing among 574, in minutes on a CPU.

python -m trainers.recipes.twenty_questions                 # the preset cpu
python -m trainers.recipes.twenty_questions --preset gpu    # Qwen3-4B-Instruct, or --model NAME

A token of the tiny model is a whole line, so that a question is one choice among a thousand. First it reads games of a
careless player, who asks whatever splits what is still possible halfway well: from that it learns what is true of
which thing. Then its weights are frozen and LoRA policy gradient takes over: nothing but the reward tells it which
questions are worth asking, and when to guess.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import gymnasium as gym

from trainers.config import ConfigError, TrainConfig
from trainers.recipes.cli import run_recipe
from trainers.recipes.warm_start import choose_run_dir, read_transcripts

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from trainers.train import Run
    from trainers.trajectories import Trajectory

ENV = "llm_envs:TwentyQuestions-v0"
YES, NO = "Yes.", "No."
UPDATES = {"cpu": 80, "gpu": 60}
REFERENCE = "greedy"
SHOWN_THING = 100

# The careless player knows so many questions. All 433 would not do: each would be asked too rarely for the model to
# learn what it says of 574 things.
NUM_QUESTIONS = 40
_FAIR_SHARE = 0.3  # of what is still possible, on each side of a question
_TIMES_APART = 2  # the chosen questions tell two things apart so many times, where they can
_GAMES_APART = 10_000_000
_PLAYER = 1


@dataclass(frozen=True)
class Config:
    """Options of the recipe."""

    preset: Literal["cpu", "gpu"] = "cpu"
    """cpu: a tiny model that is made here; gpu: a real one."""
    model: str = "Qwen/Qwen3-4B-Instruct-2507"
    """Of the preset gpu: a hub id or a transformers folder."""
    env_args: str = "{}"
    """Arguments of the environment, as a JSON object: '{"things": ["elephant", "piano"]}'."""
    run_dir: Path | None = None
    """Where everything goes; default: a new folder under runs/."""
    read_games: int = 40_000
    """Games of the careless player (cpu)."""
    read_steps: int = 1500
    """Steps of reading (cpu)."""
    read_batch: int = 32
    """Games a step; when all were read they are read again (cpu)."""
    updates: int | None = None
    """Updates of policy gradient; default: 80 on the CPU, 60 on the GPU."""
    seed: int = 0
    """Of the model's weights, the games read, and training."""
    device: str = "auto"
    """Of the policy gradient: auto, cpu or cuda."""
    resume: bool = False
    """Go on with the run in run_dir."""


def main(config: Config) -> None:
    """Read, train, and show what was learned."""
    from trainers.run_log import RunLog
    from trainers.train import train

    started = time.perf_counter()
    run_dir = choose_run_dir("twenty_questions", config.run_dir, resume=config.resume)
    train_config = _cpu(config, run_dir) if config.preset == "cpu" else _gpu(config, run_dir)
    train_config.validate()
    env_args = train_config.parsed_env_args()
    if config.preset == "cpu":
        if env_args.get("answerer", "knowledge") != "knowledge":
            raise ConfigError("the preset cpu asks half a million questions first: it needs the answerer 'knowledge'")
        _read(config, run_dir, env_args)
    reading_seconds = time.perf_counter() - started
    log = RunLog(train_config, references=("random", REFERENCE), chart=True)
    run = train(train_config, log=log)
    seconds = {"reading_seconds": reading_seconds, "seconds": time.perf_counter() - started}
    _show_games(run)
    _show_result(run, seconds, config)


def _cpu(config: Config, run_dir: Path) -> TrainConfig:
    return TrainConfig(
        model=str(run_dir / "base"),
        env=ENV,
        env_args=config.env_args,
        run_dir=run_dir,
        updates=UPDATES["cpu"] if config.updates is None else config.updates,
        groups_per_batch=64,
        group_size=16,
        credit="turn",
        max_tokens=2,  # a line and the token that ends the turn
        # As in guess_number: fewer games are spoiled by a slip of the tail of the distribution.
        temperature=0.4,
        learning_rate=4e-3,
        warmup_updates=8,
        schedule="linear",
        eval_every=10,
        eval_size=1000,
        save_every=10,
        seed=config.seed,
        device=config.device,
        attention="eager",
        tokens_per_microbatch=2048,
        max_rows=1024,
        resume=config.resume,
    )


def _gpu(config: Config, run_dir: Path) -> TrainConfig:
    return TrainConfig(
        model=config.model,
        env=ENV,
        env_args=config.env_args,
        run_dir=run_dir,
        updates=UPDATES["gpu"] if config.updates is None else config.updates,
        groups_per_batch=32,
        group_size=16,
        credit="turn",
        max_tokens=64,
        learning_rate=4e-5,
        warmup_updates=3,
        eval_every=10,
        eval_size=128,
        save_every=10,
        seed=config.seed,
        device=config.device,
        resume=config.resume,
    )


# --- The warm start ---


class Table(NamedTuple):
    """What the environment answers: N things, Q questions."""

    questions: list[str]
    """The texts of the questions."""
    guesses: list[str]
    """The guess of every thing."""
    is_true: NDArray[np.bool_]
    """`[N, Q]`."""


def ask_everything(env: Any) -> Table:
    """Ask the environment everything of its vocabulary that ends with a question mark, about every thing."""
    import numpy as np

    texts = [text for text in env.vocabulary() if text.endswith("?")]
    guesses: list[str] = [""] * env.num_tasks
    is_true = np.zeros((env.num_tasks, len(texts)), dtype=np.bool_)
    is_question = np.ones(len(texts), dtype=np.bool_)
    for thing in range(env.num_tasks):
        asked = 0
        for column, text in enumerate(texts):
            if not is_question[column]:
                continue
            if not asked:
                env.reset(seed=0, options={"index": thing})
            reply, _, over, _, info = env.step(text)
            asked = 0 if over or asked + 2 == env.max_questions else asked + 1  # the last one's answer is not told
            is_true[thing, column] = reply == YES
            if info["verdict"] == "correct":
                guesses[thing], is_question[column] = text, False
            elif reply not in (YES, NO):
                is_question[column] = False
    questions = [text for text, keep in zip(texts, is_question.tolist(), strict=True) if keep]
    return Table(questions, guesses, is_true[:, is_question])


def choose_questions(is_true: NDArray[np.bool_], count: int) -> list[int]:
    """The columns of `count` questions that tell things apart, one after the other the one that does most for it.

    A pair of things counts until it was told apart `_TIMES_APART` times.
    """
    import numpy as np

    truth = is_true.astype(np.float32)
    apart = np.zeros((len(truth), len(truth)), dtype=np.int64)  # [N, N]
    chosen: list[int] = []
    for _ in range(min(count, truth.shape[1])):
        together = (apart < _TIMES_APART).astype(np.float32)
        gain = ((1.0 - truth) * (together @ truth)).sum(axis=0)  # [Q] pairs that each question would tell apart
        gain[chosen] = -1.0
        chosen.append(int(gain.argmax()))
        apart += is_true[:, chosen[-1], None] != is_true[None, :, chosen[-1]]
    return chosen


class CarelessPlayer:
    """Asks any of some questions that leaves at least three tenths of what is possible on each side.

    Where there is none, any that splits it at all. Guesses when two things are left, or none of the questions splits.

    Args:
        table: what is true.
        columns: the questions.
        seed: of the choices.
    """

    def __init__(self, table: Table, columns: list[int], seed: int) -> None:
        import numpy as np

        self._questions = [table.questions[column] for column in columns]
        self._guesses = table.guesses
        self._is_true = table.is_true[:, columns]
        self._counted = self._is_true.astype(np.float32)
        # A stream of its own: the environment draws the secret from the one of `seed` alone, so that a question chosen
        # with the same numbers would tell something of the secret, and the model would learn to read it.
        self._rng = np.random.default_rng([_PLAYER, seed])
        self._possible = np.ones(len(self._guesses), dtype=np.bool_)
        self._guess = self._question = -1

    def reset(self, observation: str, info: Mapping[str, Any]) -> None:  # noqa: ARG002 (the protocol)
        """Begin an episode."""
        self._possible[:] = True
        self._guess = self._question = -1

    def act(self, observation: str) -> str:
        """Answer an observation."""
        if self._guess >= 0:
            self._possible[self._guess] = False
        elif self._question >= 0:
            self._possible &= self._is_true[:, self._question] == (observation == YES)
        self._guess, self._question = -1, self._choose_question()
        if self._question >= 0:
            return self._questions[self._question]
        self._guess = int(self._rng.choice(self._possible.nonzero()[0]))
        return self._guesses[self._guess]

    def _choose_question(self) -> int:
        left = int(self._possible.sum())
        if left <= 2:
            return -1
        yes = self._possible @ self._counted  # [Q]
        for least in (_FAIR_SHARE * left, 1.0):
            columns = ((yes >= least) & (left - yes >= least)).nonzero()[0]
            if len(columns):
                return int(columns[self._rng.integers(len(columns))])
        return -1


def _read(config: Config, run_dir: Path, env_args: Mapping[str, Any]) -> None:
    from trainers.reading import play
    from trainers.rendering import Renderer
    from trainers.tiny_model import build_tiny_model

    if (run_dir / "base" / "config.json").exists():
        return
    env: Any = gym.make(ENV, **env_args).unwrapped
    print("The careless player asks the environment everything about everything.")
    table = ask_everything(env)
    columns = choose_questions(table.is_true, NUM_QUESTIONS)

    @cache
    def game(renderer: Renderer, number: int) -> Trajectory:
        seed = config.seed * _GAMES_APART + number
        return play(env, CarelessPlayer(table, columns, seed), renderer, seed=seed)

    def transcripts(renderer: Renderer, step: int) -> list[Trajectory]:
        first = step * config.read_batch
        return [game(renderer, number % config.read_games) for number in range(first, first + config.read_batch)]

    said = [env.reset(seed=0)[0], YES, NO, *table.questions, *table.guesses]
    read_transcripts(
        run_dir,
        lambda: build_tiny_model(said, seed=config.seed, unit="line"),
        transcripts,
        steps=config.read_steps,
        title=f"A model of {{size}} random weights reads games of a careless player of {len(columns)} questions.",
    )


# --- What came of it ---


def _show_games(run: Run) -> None:
    """One game before policy gradient and one after."""
    with run.policy.model.disable_adapter():
        before = _game(run)
    for title, trajectory in (("before", before), ("after", _game(run))):
        print(f"\nOne game {title} policy gradient:")
        for turn, reply in zip(trajectory.turns, trajectory.observations[1:], strict=True):
            print(f"  {turn.action:<60} {reply}")
        print(f"  return {trajectory.total_reward:g}")


def _game(run: Run) -> Trajectory:
    from trainers.evaluate import play_greedily

    env: Any = run.eval_pool.take(1)[0].unwrapped
    [trajectory] = play_greedily(
        run.eval_pool,
        run.sampler,
        run.renderer,
        options=[{"index": SHOWN_THING % env.num_tasks}],
        settings=run.settings,
    )
    return trajectory


def _show_result(run: Run, seconds: Mapping[str, float], config: Config) -> None:
    """Write the curve and a summary, and say where everything is."""
    from trainers.charts import save_curve

    run_dir, evaluations, reference = run.config.run_dir, run.log.evaluations, run.log.references.get(REFERENCE)
    before, after = evaluations[0][1], evaluations[-1][1]
    summary = {"seed": config.seed, "greedy_return_before": before, "greedy_return": after, **run.log.references}
    (run_dir / "summary.json").write_text(json.dumps({**summary, **seconds}, indent=2) + "\n")
    title = f"TwentyQuestions-v0: policy gradient on {'a tiny model' if config.preset == 'cpu' else config.model}"
    save_curve(run_dir / "curve.png", run.log.returns, evaluations, run.log.references, title=title)
    share = "" if reference is None else f", {after / reference:.0%} of the {REFERENCE} player's {reference:.2f}"
    print(
        f"\nReturn with the most probable tokens: {before:.2f} before policy gradient, {after:.2f} after it{share}. "
        f"It took {seconds['seconds']:.0f} s, {seconds['reading_seconds']:.0f} of them for reading transcripts."
    )
    files = {"curve": "curve.png", "adapter": "adapter", "metrics": "metrics.jsonl", "episodes": "episodes.jsonl"}
    for what, name in (files | ({"base model": "base"} if config.preset == "cpu" else {})).items():
        print(f"  {what:<11}{run_dir / name}")


if __name__ == "__main__":
    run_recipe(Config, main, description="A model learns to play Twenty Questions.")
