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
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import gymnasium as gym

from trainers.config import TrainConfig
from trainers.config.credit import Credited
from trainers.recipes.cli import run_recipe
from trainers.recipes.warm_start import choose_run_dir, read_transcripts

if TYPE_CHECKING:
    from trainers.train import Run
    from trainers.trajectories import Trajectory

ENV = "llm_envs:TicTacToe-v0"
SEATS = ("first", "second")
UPDATES = {"cpu": 600, "gpu": 60}
_SEEDS_A_STEP = 10_000


@dataclass(frozen=True)
class Config:
    """Options of the recipe."""

    preset: Literal["cpu", "gpu"] = "cpu"
    """cpu: a tiny model that is made here; gpu: a real one."""
    model: str = "Qwen/Qwen3-4B-Instruct-2507"
    """Of the preset gpu: a hub id or a transformers folder."""
    run_dir: Path | None = None
    """Where everything goes; default: a new folder under runs/."""
    read_steps: int = 500
    """Steps of reading (cpu); 0: policy gradient from random weights."""
    read_batch: int = 64
    """Games a step (cpu)."""
    updates: int | None = None
    """Updates of policy gradient; default: 600 on the CPU, 60 on the GPU."""
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
    seed: int = 0
    """Of the model's weights, the games read, and training."""
    device: str = "auto"
    """Of the policy gradient: auto, cpu or cuda."""
    resume: bool = False
    """Go on with the run in run_dir."""


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
    from trainers.run_log import RunLog
    from trainers.train import train

    started = time.perf_counter()
    run_dir = choose_run_dir("tic_tac_toe", config.run_dir, resume=config.resume)
    train_config = _settings(config, run_dir)
    train_config.validate()
    if config.preset == "cpu":
        _read(config, run_dir)
    reading_seconds = time.perf_counter() - started
    log = RunLog(train_config, references=("random", "best_response"), chart=True)
    run = train(train_config, log=log)
    seconds = {"reading_seconds": reading_seconds, "seconds": time.perf_counter() - started}
    _show_result(run, list(scores(run, games=config.eval_games)), seconds, config)


def _settings(config: Config, run_dir: Path) -> TrainConfig:
    common = TrainConfig(
        model=str(run_dir / "base"),
        env=ENV,
        env_args=json.dumps({"opening_moves": config.opening_moves}),
        run_dir=run_dir,
        updates=UPDATES[config.preset] if config.updates is None else config.updates,
        opponents=config.opponents,
        credit=config.credit,
        group_size=16,
        eval_env_args='{"opponent": "random"}',
        eval_every=10,
        eval_size=200,
        save_every=10,
        seed=config.seed,
        device=config.device,
        resume=config.resume,
    )
    if config.preset == "gpu":
        return dataclasses.replace(
            common, model=config.model, groups_per_batch=32, max_tokens=32, learning_rate=4e-5, warmup_updates=3
        )
    return dataclasses.replace(
        common,
        groups_per_batch=16,
        max_tokens=2,  # a line and the token that ends the turn
        # Many small batches; what holds the policy to the base model keeps it from settling on favourite cells.
        learning_rate=2e-3,
        lora_alpha=64,
        kl_coef=config.kl_coef,
        warmup_updates=8,
        schedule="linear",
        eval_every=25,
        save_every=50,
        attention="eager",
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
    from trainers.evaluate import evaluate
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
    from trainers.charts import save_curve

    run_dir = run.config.run_dir
    with (run_dir / "scores.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(field.name for field in dataclasses.fields(Score))
        writer.writerows(dataclasses.astuple(score) for score in table)
    summary = {"seed": config.seed, **seconds, "scores": [dataclasses.asdict(score) for score in table]}
    (run_dir / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    title = f"TicTacToe-v0: self-play of {'a tiny model' if config.preset == 'cpu' else config.model}"
    save_curve(run_dir / "curve.png", run.log.returns, run.log.evaluations, run.log.references, title=title)
    print("\nThe policy plays greedily:")
    print(f"  {'against':<11}{'moves':<8}{'won':>5}{'drawn':>7}{'lost':>6}{'illegal':>9}{'gave value away':>17}")
    for score in table:
        counts = f"{score.won:>5}{score.drawn:>7}{score.lost:>6}{score.illegal:>9}{score.gave_away:>17.1%}"
        print(f"  {score.opponent:<11}{score.seat:<8}{counts}")
    print(f"It took {seconds['seconds']:.0f} s, {seconds['reading_seconds']:.0f} of them for reading.")
    for what, name in (("table", "scores.csv"), ("curve", "curve.png"), ("adapter", "adapter"),
                       ("metrics", "metrics.jsonl"), ("games", "episodes.jsonl")):  # fmt: skip
        print(f"  {what:<11}{run_dir / name}")
    print(f"\nPlay against it:\n  llm-envs play TicTacToe-v0 --opponent {run_dir / 'adapter'}")


if __name__ == "__main__":
    run_recipe(Config, main, description="Tic-tac-toe by self-play with a pool of opponents.")
