"""How many microseconds does a step of our games take, beside TextArena's in the same run?

python -m benchmarks.env_throughput
python -m benchmarks.env_throughput --episodes 500 --rounds 3 --no-record

In rounds that alternate, each game is played at random through `gymnasium.make`, and TextArena's game of the same name
through `textarena.make`, where it is installed (`pip install textarena==0.7.4`; this project never needs it). A round
is: make, and for each episode a reset with a seed of its own and steps to the end. The microseconds of a step are
those of the steps alone, the rate is steps by the time of everything. A second kind of round makes a new environment
for each episode, too: `fresh`. Medians over the rounds count.

What is alike: both sides guess 1 to 20 within 10 turns (TextArena counts to 11) by a random order of the numbers, and
play tic-tac-toe by a random order of the cells, so that no move is illegal; the same orders; the player's own time is
included on both sides.

What is not, and whom it helps:

- A step of `TicTacToe-v0` is the agent's move and its opponent's answer, TextArena's is one move. Helps TextArena. The
  PettingZoo form, one move a step, is timed as well, but beside no bar.
- TextArena is timed without its wrappers (`-raw`), its faster form; what a player reads is then a list of messages,
  not yet a text. With its wrappers it takes some times as long. Helps TextArena. We always give the whole text, the
  same as chat messages, a verdict and the parts of the reward.
- TextArena keeps a log of the game and says more on each turn. Helps us.
- TextArena seeds Python's global generator; we make a new one of NumPy's, as Gymnasium has it, which takes most of our
  reset. Nine tenths of our make are `gymnasium.make` itself, which does much more than `textarena.make`. Both help
  TextArena, and most of all where environments are fresh.
- Its Twenty Questions asks a language model on the network, so that there is nothing to compare with.

Rows go to `results/env_throughput.csv`. Exits with 1 when a bar is missed.
"""

from __future__ import annotations

import gc
import importlib
import importlib.util
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import gymnasium as gym
import tyro

from benchmarks.results import append_row

MAX_STEP_MICROSECONDS = 10.0
PEERS = {"tic_tac_toe": "TextArena TicTacToe", "guess_number": "TextArena GuessTheNumber"}
"""Whose rate each of our games must reach, with environments that are kept, as by anybody who plays many games."""

CELLS = tuple(str(cell) for cell in range(1, 10))
FRESH = ", fresh"
_MOST_SAID = 20

NUMBERS = tuple(str(number) for number in range(1, 21))

Make = Callable[[], Any]
"""Makes an environment."""
Episode = Callable[[Any, int, list[str]], tuple[int, float]]
"""Plays an episode on it, by its seed and the random order of what there is to say: the steps, and their seconds."""


@dataclass(frozen=True)
class Config:
    """Options of the benchmark."""

    episodes: int = 2_000
    """Episodes of each game a round."""
    rounds: int = 7
    """Rounds, whose median counts."""
    record: bool = True
    """Append to results/."""


@dataclass(frozen=True)
class Game:
    """A game that is timed.

    Attributes:
        sayings: What there is to say in it.
        make: Makes it.
        play: Plays an episode.
    """

    sayings: tuple[str, ...]
    make: Make
    play: Episode


@dataclass
class Times:
    """What was measured of one game, an entry a round."""

    steps: list[int] = field(default_factory=list)
    step_seconds: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def add(self, steps: int, step_seconds: float, seconds: float) -> None:
        """One round: of the steps alone, and of everything."""
        self.steps.append(steps)
        self.step_seconds.append(step_seconds)
        self.seconds.append(seconds)

    @property
    def step_microseconds(self) -> float:
        """Of a step, without make and reset."""
        return statistics.median(s / n for s, n in zip(self.step_seconds, self.steps, strict=True)) * 1e6

    @property
    def steps_per_second(self) -> float:
        """Make and reset included."""
        return statistics.median(n / s for s, n in zip(self.seconds, self.steps, strict=True))


# --- Players ---


def play_ours(env: Any, seed: int, sayings: list[str]) -> tuple[int, float]:
    """Says one thing after the other."""
    env.reset(seed=seed)
    began, steps = time.perf_counter(), 0
    for saying in sayings:
        _, _, terminated, _, _ = env.step(saying)
        steps += 1
        if terminated:
            break
    return steps, time.perf_counter() - began


def play_board(env: Any, seed: int, sayings: list[str]) -> tuple[int, float]:
    """Passes over cells that the opponent has taken: they are not on the board any more."""
    text, _ = env.reset(seed=seed)
    began, steps = time.perf_counter(), 0
    for saying in sayings:
        if saying in text[-17:]:
            text, _, terminated, _, _ = env.step(saying)
            steps += 1
            if terminated:
                break
    return steps, time.perf_counter() - began


def play_pettingzoo(env: Any, seed: int, sayings: list[str]) -> tuple[int, float]:
    """Both seats in turn."""
    env.reset(seed=seed)
    began, steps = time.perf_counter(), 0
    for saying in sayings:
        _, _, terminated, _, _ = env.last()
        if terminated:
            break
        env.step(saying)
        steps += 1
    return steps, time.perf_counter() - began


def play_textarena(num_players: int) -> Episode:
    """Every seat in turn."""

    def play(env: Any, seed: int, sayings: list[str]) -> tuple[int, float]:
        env.reset(num_players=num_players, seed=seed)
        began, steps = time.perf_counter(), 0
        for saying in sayings:
            env.get_observation()
            done, _ = env.step(saying)
            steps += 1
            if done:
                break
        return steps, time.perf_counter() - began

    return play


def games() -> Iterator[tuple[str, Game]]:
    """Everything that can be timed here, by its name."""
    importlib.import_module("llm_envs")
    yield "tic_tac_toe", Game(CELLS, partial(gym.make, "TicTacToe-v0"), play_board)
    yield "guess_number", Game(NUMBERS, partial(gym.make, "GuessNumber-v0", high=20, max_guesses=10), play_ours)
    knowledge = importlib.import_module("llm_envs.games.twenty_questions.knowledge").load_knowledge()
    questions = tuple(knowledge.attributes.values())
    yield "twenty_questions", Game(questions, partial(gym.make, "TwentyQuestions-v0"), play_ours)
    if importlib.util.find_spec("pettingzoo") is not None:
        make = importlib.import_module("pettingzoo").make
        yield "tic_tac_toe, PettingZoo", Game(CELLS, partial(make, "aec", "TicTacToe-v0"), play_pettingzoo)
    if importlib.util.find_spec("textarena") is not None:
        make = importlib.import_module("textarena").make
        cells = tuple(f"[{cell}]" for cell in range(9))
        yield PEERS["tic_tac_toe"], Game(cells, partial(make, "TicTacToe-v0-raw"), play_textarena(2))
        said = tuple(f"[{number}]" for number in NUMBERS)
        yield PEERS["guess_number"], Game(said, partial(make, "GuessTheNumber-v0-raw"), play_textarena(1))


# --- Timing ---


def time_games(found: dict[str, Game], *, episodes: int, rounds: int) -> dict[str, Times]:
    """Play them in rounds, each round in the opposite order of the one before."""
    kinds = [(name, is_fresh) for is_fresh in (False, True) for name in found]
    times = {name + FRESH * is_fresh: Times() for name, is_fresh in kinds}
    for number in range(rounds + 1):
        for name, is_fresh in reversed(kinds) if number % 2 else kinds:
            taken = play_round(found[name], number, episodes if number else min(episodes, 200), is_fresh=is_fresh)
            if number:  # the first round is for imports, tables and caches
                times[name + FRESH * is_fresh].add(*taken)
    return times


def play_round(game: Game, number: int, episodes: int, *, is_fresh: bool) -> tuple[int, float, float]:
    """One round. The orders are drawn before the clock starts, by the round: the same for all with as much to say."""
    rng = random.Random(number)
    orders = [rng.sample(game.sayings, min(_MOST_SAID, len(game.sayings))) for _ in range(episodes)]
    gc.collect()
    began = time.perf_counter()
    env = game.make()
    steps, step_seconds = 0, 0.0
    for seed, order in enumerate(orders):
        if is_fresh and seed:
            env = game.make()
        played, seconds = game.play(env, seed, order)
        steps += played
        step_seconds += seconds
    return steps, step_seconds, time.perf_counter() - began


def judge(times: dict[str, Times]) -> list[tuple[str, str, str, bool]]:
    """The bars: what is wanted of which game, what was measured, and whether that is enough."""
    bars = []
    for name in ("tic_tac_toe", "guess_number", "twenty_questions"):
        taken = times[name].step_microseconds
        wanted = f"at most {MAX_STEP_MICROSECONDS:g} us a step"
        bars.append((name, wanted, f"{taken:.1f} us", taken <= MAX_STEP_MICROSECONDS))
    for name, peer in PEERS.items():
        if peer in times:
            ours, theirs = times[name].steps_per_second, times[peer].steps_per_second
            wanted = f"at least {peer}'s {theirs:,.0f} steps/s"
            bars.append((name, wanted, f"{ours:,.0f} steps/s", ours >= theirs))
    return bars


def main(config: Config) -> int:
    """Run it; 0 when every bar that could be measured is met, else 1."""
    times = time_games(dict(games()), episodes=config.episodes, rounds=config.rounds)
    print(f"{'game':31} {'us a step':>10} {'steps/s, make and reset included':>34} {'steps an episode':>18}")
    for name, of_game in times.items():
        length = sum(of_game.steps) / (config.episodes * config.rounds)
        rate = of_game.steps_per_second
        print(f"{name:31} {of_game.step_microseconds:10.2f} {rate:34,.0f} {length:18.2f}")
        if config.record:
            row = {"game": name, "episodes": config.episodes, "rounds": config.rounds}
            row |= {"steps_an_episode": f"{length:.2f}", "step_microseconds": f"{of_game.step_microseconds:.2f}"}
            append_row("env_throughput", {**row, "steps_per_second": f"{rate:.0f}"})
    print()
    bars = judge(times)
    for name, wanted, measured, is_met in bars:
        print(f"{'met   ' if is_met else 'MISSED'} {name}: {measured}, wanted {wanted}")
    if not set(PEERS.values()) <= set(times):
        print("not measured: TextArena is not installed (pip install textarena==0.7.4)")
    return 0 if all(bar[-1] for bar in bars) else 1


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Config, description="How fast are the games, beside TextArena?")))
