"""Tic-tac-toe by self-play: both seats are the policy, and a pool of other opponents keeps it honest.

python -m trainers.recipes.tic_tac_toe                 # a tiny model that is made here, on a CPU, in minutes
python -m trainers.recipes.tic_tac_toe --preset gpu    # Qwen3-4B-Instruct, or --model NAME

A token of the tiny model is a whole line: a row of the board. First it reads games of two players who move at random:
the moves of whoever won. From them it learns what may be played, and what three in a row look like. The rest is policy
gradient, in games that begin after some random moves, so that every kind of position is met. Then it plays against the
random and the optimal player and against what it was.
"""

from __future__ import annotations

import csv
import dataclasses
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium as gym

from trainers.config import TrainConfig
from trainers.config.credit import Credited
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
    time_taken,
)

if TYPE_CHECKING:
    from trainers.train import Run
    from trainers.trajectories import Trajectory

ENV = "llm_envs:TicTacToe-v0"
SEATS = ("first", "second")
UPDATES = {"cpu": 600, "gpu": 60}
_SEEDS_A_STEP = 10_000


@dataclass(frozen=True, kw_only=True)
class Config(GameOptions):
    """Options of the recipe."""

    read_steps: int = 500
    """Steps of reading (cpu); 0: policy gradient from random weights."""
    read_batch: int = 64
    """Games a step (cpu)."""
    opponents: str = '{"self": 0.2, "past": 0.1, "minimax": 0.2, "random": 0.5}'
    """Who sits in the other seat, and in what share of the games: self, past, base, minimax, random."""
    credit: Credited = "state"
    """state: the mean over all turns of the batch at the same position; trajectory: one for all moves of a seat."""
    kl_coef: float = 0.07
    """What it costs to leave the base model (cpu)."""
    opening_moves: tuple[int, int] = (0, 4)
    """Training games begin after so many random moves, at least and at most."""
    eval_games: int = 100
    """Games against each opponent from each seat, when training is over."""


@dataclass(frozen=True)
class Score:
    """How a player did against one opponent from one seat.

    Args:
        opponent: its name.
        seat: the player's.
        games: how many.
        won, drawn, lost: how many of them; an illegal move loses.
        illegal: how many ended with an illegal or unreadable move of the player.
        gave_away: the share of the player's moves that gave away some of the position's value.
    """

    opponent: str
    seat: str
    games: int
    won: int
    drawn: int
    lost: int
    illegal: int
    gave_away: float


def main(config: Config) -> None:
    """Read, train, and play against everybody."""
    run_dir = choose_run_dir("tic_tac_toe", config)
    run, seconds = read_and_train(
        config, _settings(config, run_dir), partial(_read, config, run_dir), references=("random", "best_response")
    )
    _show_result(run, list(scores(run, games=config.eval_games)), seconds, config)


def _settings(config: Config, run_dir: Path) -> TrainConfig:
    common = dataclasses.replace(
        shared_settings(config, run_dir, env=ENV, updates=UPDATES),
        env_args=(json.dumps({"opening_moves": config.opening_moves}),),
        eval_env_args=('{"opponent": "random"}',),
        opponents=config.opponents,
        credit=config.credit,
        eval_size=200,
    )
    if config.preset == "gpu":
        return dataclasses.replace(common, max_tokens=32)
    return dataclasses.replace(
        common,
        groups_per_batch=16,
        max_tokens=2,  # a line and the token that ends the turn
        # Many small batches; what holds the policy to the base model keeps it from settling on favourite cells.
        learning_rate=2e-3,
        lora_alpha=64,
        kl_coef=config.kl_coef,
        eval_every=25,
        save_every=50,
        tokens_per_microbatch=4096,
        max_rows=4096,
    )


def _read(config: Config, run_dir: Path) -> None:
    from trainers.reading import play
    from trainers.rendering import Renderer
    from trainers.tiny_model import build_tiny_model

    env = gym.make(ENV, opponent="random")
    known: Any = env.unwrapped

    def transcripts(renderer: Renderer, step: int) -> list[Trajectory]:
        seed = config.seed * 10_000_000 + step * _SEEDS_A_STEP
        player = known.solver("random", seed=seed)
        won: list[Trajectory] = []
        while len(won) < config.read_batch:
            game = play(env, player, renderer, seed=seed)
            won += [game] if game.total_reward > 0 else []
            seed += 1
        return won

    read_transcripts(
        run_dir,
        lambda: build_tiny_model(known.vocabulary(), seed=config.seed, unit="line"),
        transcripts,
        steps=config.read_steps,
        title="A model of {size} random weights reads games of random moves: those of the winner.",
    )


# --- What came of it ---


def scores(run: Run, *, games: int) -> Iterator[Score]:
    """The policy, playing greedily, against the random and the optimal player and the base model, from both seats."""
    for opponent in ("random", "optimal"):
        for seat in SEATS:
            played = _against_scripted(run, opponent, seat, games)
            yield _score(opponent, seat, played, [trajectory.total_reward for trajectory in played])
    for number, seat in enumerate(SEATS):
        yield _score("untrained", seat, *_against_base(run, number, games))


def _against_scripted(run: Run, opponent: str, seat: str, games: int) -> list[Trajectory]:
    from trainers.evaluation.greedy import evaluate
    from trainers.rollouts import EnvPool

    pool = EnvPool(lambda: gym.make(ENV, opponent=opponent, seat=seat))
    try:
        return evaluate(pool, run.sampler, run.renderer, size=games, settings=run.settings)
    finally:
        pool.close()


def _against_base(run: Run, seat: int, games: int) -> tuple[list[Trajectory], list[float]]:
    """The policy greedily, the base model by chance: two greedy players would play one game again and again.

    Where the base model makes no legal move the policy wins, even if it has not been asked once: so what it earned is
    read from the game, not from its turns.
    """
    from trainers.games import Lineup, make_game, play_games
    from trainers.rollouts import EnvPool

    assert run.opponents is not None
    pool = EnvPool(lambda: make_game(ENV, illegal_other=1.0))
    try:
        groups = list(
            play_games(
                pool,
                run.sampler,
                run.renderer,
                run.opponents,
                lineups=[Lineup(seed, "base", seat) for seed in range(games)],
                settings=dataclasses.replace(run.settings, group_size=1, temperature=0.0, opponent_temperature=1.0),
                sampling_seed=run.config.seed,
            )
        )
    finally:
        pool.close()
    played = [trajectory for group in groups for trajectory in group.trajectories]
    return played, [group.games[0]["returns"][group.agent] for group in groups]


def _score(opponent: str, seat: str, played: Sequence[Trajectory], returns: Sequence[float]) -> Score:
    game: Any = gym.make(ENV).unwrapped
    moves = [
        game.gave_away(observation, turn.action)
        for trajectory in played
        for observation, turn in zip(trajectory.observations, trajectory.turns, strict=False)
    ]
    won, drawn = sum(earned > 0 for earned in returns), sum(earned == 0 for earned in returns)
    return Score(
        opponent=opponent,
        seat=seat,
        games=len(played),
        won=won,
        drawn=drawn,
        lost=len(played) - won - drawn,
        illegal=sum(trajectory.verdict in {"illegal", "unparsed"} for trajectory in played),
        gave_away=sum(move > 0 for move in moves) / max(1, len(moves)),
    )


def _show_result(run: Run, table: Sequence[Score], seconds: dict[str, float], config: Config) -> None:
    """Write the table, the curve and a summary; say where everything is, and how to play against the policy."""
    run_dir = run.config.run_dir
    with (run_dir / "scores.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(field.name for field in dataclasses.fields(Score))
        writer.writerows(dataclasses.astuple(score) for score in table)
    summary = {**seconds, "scores": [dataclasses.asdict(score) for score in table]}
    save_result(run, summary, title=f"TicTacToe-v0: self-play of {config.learner}")
    print("\nThe policy plays greedily:")
    print(f"  {'against':<11}{'moves':<8}{'won':>5}{'drawn':>7}{'lost':>6}{'illegal':>9}{'gave value away':>17}")
    for score in table:
        counts = f"{score.won:>5}{score.drawn:>7}{score.lost:>6}{score.illegal:>9}{score.gave_away:>17.1%}"
        print(f"  {score.opponent:<11}{score.seat:<8}{counts}")
    print(time_taken(seconds))
    list_files(run_dir)
    print(f"\nPlay against it:\n  llm-envs play TicTacToe-v0 --opponent {run_dir / 'adapter'}")


if __name__ == "__main__":
    run_recipe(Config, main, description=f"Tic-tac-toe by self-play with a pool of opponents; {in_words(UPDATES)}.")
