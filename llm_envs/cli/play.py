"""``llm-envs play``: a person at the keyboard in place of a policy."""

import argparse
import io
import secrets
import sys
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import gymnasium as gym
from gymnasium.utils.seeding import np_random

from llm_envs import episodes
from llm_envs.cli.shared import add_env_args, complain, printable
from llm_envs.cli.showing import observation_text, result_text, shown_number
from llm_envs.datasets import DataUnavailableError
from llm_envs.episodes import Heard, Record
from llm_envs.registration import REGISTRY
from llm_envs.solvers import Solver
from llm_envs.text_env import TextEnv

__all__ = ["add_parser"]

_INTERRUPTED = 130
_BOARD_GAME = "TicTacToe-v0"
_OPPONENTS = ("random", "optimal", "mixed")
_SEATS = {"first": "player_1", "second": "player_2"}
_PLAYERS = "llm_envs.players"  # the group of entry points
_END_OF_ANSWER = "."


def add_parser(commands: Any) -> None:
    """The arguments of ``llm-envs play``."""
    parser = commands.add_parser(
        "play",
        help="play an environment yourself",
        description="Plays one episode with you, line by line: in a game a line is an action, elsewhere an answer has "
        "any number of lines and ends with one that holds a single dot. Ctrl-D (or the end of the input) ends the "
        "play, and so does Ctrl-C; what was played until then is recorded.",
    )
    parser.add_argument("env", help="an id, such as GuessNumber-v0, or module:id of any environment of texts")
    add_env_args(parser)
    parser.add_argument("--seed", type=int, help="of the episode (default: another one each time)")
    parser.add_argument("--index", type=int, help="which task, where they are finitely many")
    parser.add_argument(
        "--opponent",
        metavar="X",
        help=f"of {_BOARD_GAME}: {', '.join(_OPPONENTS)}, or the folder of a trained adapter",
    )
    parser.add_argument("--record", metavar="FILE", help="append the episode to a JSONL file; see `llm-envs replay`")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    for stream in (sys.stdin, sys.stdout):  # any bytes can be typed, and any text can be said
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="surrogateescape" if stream is sys.stdin else "backslashreplace")
    try:
        table = _Table.laid(options)
    except (DataUnavailableError, ImportError, OSError, TypeError, ValueError, gym.error.Error) as error:
        return complain(error)
    code = 0
    try:
        episodes.play(table.env, table.record, table.answer)
    except KeyboardInterrupt:
        code = _INTERRUPTED
        if sys.stdin.isatty():
            print()  # behind the ^C
    except (IndexError, TypeError, ValueError, gym.error.Error) as error:
        if table.is_open:
            raise
        return complain(error)  # the reset refuses the seed or the index, say
    finally:
        table.env.close()
    table.say_goodbye()
    try:
        if options.record and table.record.get("actions"):
            episodes.append_episode(options.record, table.record)
    except OSError as error:
        return complain(error)
    return code


class _Table:
    """The environment, the person before it, and maybe somebody opposite."""

    def __init__(self, env_id: str, env: Any, record: Record) -> None:
        self.env_id, self.env, self.record = env_id, env, record
        self.opponents: dict[str, Solver] = {}
        entry = REGISTRY.get(env_id)
        self._is_long = entry is not None and not entry.entry_point.startswith("llm_envs.games.")
        self._met: set[str] = set()
        self._is_over = False
        self.is_open = False

    @classmethod
    def laid(cls, options: argparse.Namespace) -> "_Table":
        env_id = options.env.removeprefix("llm_envs:")
        full_id = f"llm_envs:{env_id}" if env_id in REGISTRY else options.env
        seed = secrets.randbelow(1 << 31) if options.seed is None else options.seed
        reset = None if options.index is None else {"index": options.index}
        args = dict(options.env_args)
        if options.opponent is not None:
            if env_id != _BOARD_GAME:
                raise ValueError(f"--opponent goes with {_BOARD_GAME}, not with {env_id}")
            if options.opponent not in _OPPONENTS:
                return cls._opposite(options.opponent, args, seed, reset)
            args["opponent"] = options.opponent
        env = gym.make(full_id, **args)
        return cls(env_id, env, episodes.new_record(full_id, args, seed=seed, options=reset))

    @classmethod
    def _opposite(cls, path: str, args: dict[str, Any], seed: int, reset: dict[str, Any] | None) -> "_Table":
        """The game for two, with somebody else's policy in one seat: its moves are recorded, too."""
        if reset is not None:
            raise ValueError(f"unknown option 'index' of {_BOARD_GAME}")
        seat = args.pop("seat", None) or tuple(_SEATS)[int(np_random(seed)[0].integers(2))]
        if seat not in tuple(_SEATS):  # not the dict: it may be any JSON value
            raise ValueError(f"seat must be None or one of {tuple(_SEATS)}, got {seat!r}")
        opponent = _load_player(path)
        args.setdefault("illegal_other", 1.0)  # an opponent without a legal move loses, as in the game for one
        record = episodes.new_record(f"llm_envs:{_BOARD_GAME}", args, seed=seed)
        env = episodes.make_recorded({**record, "agents": []})
        table = cls(_BOARD_GAME, env, record)
        table.opponents = {agent: opponent for name, agent in _SEATS.items() if name != seat}
        return table

    def answer(self, heard: Heard) -> str | None:
        """The next action of whoever is to move; what the person should see is shown."""
        if not isinstance(heard.text, str):
            raise TypeError(f"{self.env_id} is no environment of texts: it says {heard.text!r:.100}")
        self.is_open = True
        opponent = self.opponents.get(heard.agent)
        if opponent is None:
            self._show(heard)
            self._is_over = heard.is_over
            return None if heard.is_over else self._read()
        if heard.is_over:
            return None
        if heard.agent not in self._met:
            self._met.add(heard.agent)
            opponent.reset(heard.text, heard.info)
        return opponent.act(heard.text)

    def _show(self, heard: Heard) -> None:
        shown = observation_text(heard.text, is_board_game=self.env_id == _BOARD_GAME)
        result = "" if heard.reward is None else result_text(heard.verdict, heard.reward)
        if heard.reward is None:
            print(f"{self.env_id}, seed {self.record['seed']}")
            if self._is_long:
                print(f"An answer ends with a line that holds a single {_END_OF_ANSWER!r}.")
            print()
        print("\n".join(part for part in (shown, result) if part), flush=True)

    def _read(self) -> str | None:
        lines: list[str] = []
        while True:
            line = _read_line()
            if line is None:
                return "\n".join(lines) if lines else None
            if not self._is_long:
                return line
            if line == _END_OF_ANSWER:
                return "\n".join(lines)
            lines.append(line)

    def say_goodbye(self) -> None:
        """The return, and what others get."""
        if "actions" not in self.record:
            return
        if self.opponents:
            mine = (agent for agent in self.record["returns"] if agent not in self.opponents)
            total = self.record["returns"][next(mine)]
        else:
            total = sum(self.record["rewards"])
        known = "" if self.opponents else _known_returns(self.env)
        print(f"{'' if self._is_over else 'The episode was left. '}Return {shown_number(total)}{known}")


def _read_line() -> str | None:
    """A line of the input; None at its end. A terminal is asked with a prompt, other input is shown in its place."""
    if sys.stdin.isatty():
        try:
            return input("> ")
        except EOFError:
            print()
            return None
    line = sys.stdin.readline()
    if not line:
        return None
    line = line.removesuffix("\n").removesuffix("\r")
    print(f"> {printable(line)}")
    return line


def _known_returns(env: Any) -> str:
    """What random and the best known player can expect; empty where it is not known, or takes all rows to know."""
    made = env.unwrapped
    entry = None if env.spec is None else REGISTRY.get(env.spec.id)
    if not isinstance(made, TextEnv) or (entry is not None and entry.data is not None):
        return ""
    found = {name: made.solver_return(name) for name in made.solvers}
    known = {name: value for name, value in found.items() if value is not None}
    best = max(known, key=lambda name: (known[name], name == made.best_solver), default=None)
    named = [name for name in dict.fromkeys(["random", best]) if name in known]
    return f" ({', '.join(f'{name} {shown_number(known[name])}' for name in named)})" if named else ""


def _load_player(path: str) -> Solver:
    """A player from the folder of an adapter, by whoever is installed to read such.

    Raises:
        ValueError: If there is no such folder, or nobody reads it.
    """
    if not Path(path).is_dir():
        raise ValueError(f"--opponent must be one of {', '.join(_OPPONENTS)} or a folder; there is no folder {path}")
    found = entry_points(group=_PLAYERS, name="adapter")
    if not found:
        raise ValueError(f"nobody here plays adapters: no entry point 'adapter' in the group {_PLAYERS}")
    try:
        make: Callable[[str], Solver] = next(iter(found)).load()
    except ImportError as error:
        raise ValueError(f"playing against an adapter needs llm-envs[train]: {error}") from error
    return make(path)
