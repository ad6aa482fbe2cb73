"""TwentyQuestions: a tiny language model of random weights learns to find one thing among 574, in minutes on a CPU.

python -m trainers.recipes.twenty_questions                 # the preset cpu
python -m trainers.recipes.twenty_questions --preset gpu    # Qwen3-4B-Instruct, or --model NAME

A token of the tiny model is a whole line, so that a question is one choice among a thousand. First it reads games of a
careless player, who asks whatever splits what is still possible halfway well: from that it learns what is true of
which thing. Then its weights are frozen and LoRA policy gradient takes over: nothing but the reward tells it which
questions are worth asking, and when to guess.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import gymnasium as gym

from trainers.config import ConfigError, TrainConfig
from trainers.recipes.cli import run_recipe
from trainers.recipes.games import (
    GameOptions,
    choose_run_dir,
    in_words,
    list_files,
    read_and_train,
    read_transcripts,
    save_result,
    shared_settings,
    show_games,
    time_taken,
)

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


@dataclass(frozen=True, kw_only=True)
class Config(GameOptions):
    """Options of the recipe."""

    env_args: str = "{}"
    """Arguments of the environment, as a JSON object: '{"things": ["elephant", "piano"]}'."""
    read_games: int = 40_000
    """Games of the careless player (cpu)."""
    read_steps: int = 1500
    """Steps of reading (cpu)."""
    read_batch: int = 32
    """Games a step; when all were read they are read again (cpu)."""


def main(config: Config) -> None:
    """Read, train, and show what was learned."""
    run_dir = choose_run_dir("twenty_questions", config)
    settings = _settings(config, run_dir)
    [task] = settings.tasks()
    if config.preset == "cpu" and task.args.get("answerer", "knowledge") != "knowledge":
        raise ConfigError("the preset cpu asks half a million questions first: it needs the answerer 'knowledge'")
    read = partial(_read, config, run_dir, settings)
    run, seconds = read_and_train(config, settings, read, references=("random", REFERENCE))
    env: Any = gym.make(ENV, **task.args).unwrapped
    show_games(
        run,
        SHOWN_THING % env.num_tasks,
        title="One game {when} policy gradient:",
        line="  {action:<60} {reply}",
    )
    _show_result(run, seconds, config)


def _settings(config: Config, run_dir: Path) -> TrainConfig:
    shared = shared_settings(config, run_dir, env=ENV, updates=UPDATES)
    common = dataclasses.replace(shared, env_args=(config.env_args,), credit="turn")
    if config.preset == "gpu":
        return dataclasses.replace(common, max_tokens=64, eval_size=128)
    return dataclasses.replace(
        common,
        groups_per_batch=64,
        max_tokens=2,  # a line and the token that ends the turn
        # As in guess_number: fewer games are spoiled by a slip of the tail of the distribution.
        temperature=0.4,
        learning_rate=4e-3,
        eval_size=1000,
        max_rows=1024,
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


def _read(config: Config, run_dir: Path, settings: TrainConfig) -> None:
    from trainers.reading import play
    from trainers.rendering import Renderer
    from trainers.tiny_model import build_tiny_model

    [task] = settings.tasks()
    if (run_dir / "base" / "config.json").exists():
        return
    env: Any = gym.make(ENV, **task.args).unwrapped
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


def _show_result(run: Run, seconds: Mapping[str, float], config: Config) -> None:
    """Write the curve and a summary, and say where everything is."""
    evaluations, references = run.log.evaluations, run.log.references
    before, after, reference = evaluations[0][1], evaluations[-1][1], references.get(REFERENCE)
    summary = {"greedy_return_before": before, "greedy_return": after, **references, **seconds}
    save_result(run, summary, title=f"TwentyQuestions-v0: policy gradient on {config.learner}")
    share = "" if reference is None else f", {after / reference:.0%} of the {REFERENCE} player's {reference:.2f}"
    print(
        f"\nReturn with the most probable tokens: {before:.2f} before policy gradient, {after:.2f} after it{share}. "
        f"{time_taken(seconds)}"
    )
    list_files(run.config.run_dir)


if __name__ == "__main__":
    run_recipe(Config, main, description=f"A model learns to play Twenty Questions; {in_words(UPDATES)}.")
