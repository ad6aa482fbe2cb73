"""TicTacToe for two agents who take turns, as a PettingZoo environment."""

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from operator import index as as_index
from typing import Any, ClassVar, cast

import numpy as np
from gymnasium import spaces
from gymnasium.error import ResetNeeded
from gymnasium.utils.seeding import np_random
from pettingzoo import AECEnv
from pettingzoo.utils.wrappers import OrderEnforcingWrapper

from llm_envs.games.tic_tac_toe import texts
from llm_envs.games.tic_tac_toe.rules import Position, given_away, positions, quiet_moves, read_move, start
from llm_envs.grading import Verdict
from llm_envs.solvers.base import Solver
from llm_envs.solvers.tic_tac_toe import MinimaxPlayer, RandomPlayer
from llm_envs.spaces import AnyText, text_from_jsonable, text_to_jsonable
from llm_envs.text_env import user_message

__all__ = ["MoveText", "env", "raw_env"]

_AGENTS = ("player_1", "player_2")
_MARKS = dict(zip(_AGENTS, "XO", strict=True))
_NUM_CELLS = 9
_MAX_OPENING_MOVES = 8  # after which one cell is left


def env(**kwargs: Any) -> OrderEnforcingWrapper:
    """The game of `raw_env`, with its arguments, in the wrapper that watches over the order of calls.

    It is the only one of PettingZoo's usual wrappers that fits: the others need actions that are numbers.
    """
    return OrderEnforcingWrapper(raw_env(**kwargs))


class MoveText(AnyText):
    """Every `str`, as any text is a legal action; but what is drawn from it is the text of a move."""

    def sample(self, mask: Any | None = None, probability: Any | None = None) -> str:
        """Draw a cell, ``"1"`` to ``"9"``, all equally likely.

        Args:
            mask: Nine numbers, such as an observation's ``"action_mask"``: 0 rules out a cell. None: any cell.
            probability: Not supported.

        Raises:
            ValueError: If ``mask`` has another shape or rules out every cell, or a probability is given.
        """
        if probability is not None:
            raise ValueError("MoveText draws all cells with equal probability")
        allowed = np.ones(_NUM_CELLS) if mask is None else np.asarray(mask)
        if allowed.shape != (_NUM_CELLS,) or not allowed.any():
            raise ValueError(f"a mask holds {_NUM_CELLS} numbers, not all of them 0; got {mask!r:.100}")
        indices = np.flatnonzero(allowed)
        return str(1 + int(indices[self.np_random.integers(len(indices))]))

    def __eq__(self, other: object) -> bool:
        return type(other) is MoveText and self.max_length == other.max_length

    def __hash__(self) -> int:
        return hash((MoveText, self.max_length))

    def __repr__(self) -> str:
        return f"MoveText({self.max_length})"


class raw_env(AECEnv):  # type: ignore[misc]  # noqa: N801 (PettingZoo's name for it)
    """Tic-tac-toe between ``player_1``, who plays X, and ``player_2``, who plays O. X moves first.

    Observation: ``{"text": str, "action_mask": int8 array of 9}``.

    - The text is what `TicTacToeEnv` says to its one agent: at a player's first move who they are and the board, then
      just the board, in which a free cell is its number, and at the end the result. A player who waits sees the board.
    - The mask holds 1 for the cells that may be played (cell 1 at index 0), and only 0 for a player who waits. After
      the end it holds only 1: nothing is asked any more, and a row of zeros would turn a masked softmax into NaN.

    Action: any `str`; `read_move` says what can be read. Once the game is over, each agent steps with None.

    Reward: 1 for a win, 0 for a draw, -1 for a loss. A move that is illegal or cannot be read ends the game at once:
    the mover gets ``illegal_penalty`` and the other ``illegal_other``.

    Info: ``"messages"``, the text as chat messages; and from an agent's first action on ``"verdict"``, the judgement on
    its latest action: ``correct`` if that won the game, ``wrong`` if not (yet), ``illegal`` if the cell was taken,
    ``unparsed`` if no cell could be read.

    The first ``opening_moves`` moves are made by nobody: `reset` draws them, by its seed, among the moves that do not
    end the game and leave room for the rest of them. After an odd number of them ``player_2`` is the first to be asked.
    There is no other chance in the game.

    There is no parallel form: the players never move at the same time, so half of the actions of a parallel step would
    have to be thrown away. ``metadata["is_parallelizable"]`` says so.

    Solvers, for either seat: ``random``, and ``minimax``, which never gives away any of a position's value.

    Args:
        illegal_penalty: The mover's reward for a move that is illegal or unreadable.
        illegal_other: The other's reward then.
        opening_moves: How many moves are made before the first player is asked, 0 to 8; or the least and the most, of
            which range the seed draws a number.
        render_mode: ``"ansi"``: `render` returns the board; ``"human"``: every board is printed; or None.

    Raises:
        TypeError: If ``opening_moves`` is neither an `int` nor two.
        ValueError: If a reward is not finite, ``opening_moves`` is out of range, or ``render_mode`` is not known.
    """

    solvers: ClassVar[Mapping[str, Callable[["raw_env", int], Solver]]] = {
        "random": RandomPlayer,
        "minimax": MinimaxPlayer,
    }
    gave_away = staticmethod(given_away)
    metadata: ClassVar[dict[str, Any]] = {
        "name": "tic_tac_toe_v0",
        "render_modes": ["human", "ansi"],
        "is_parallelizable": False,
        "render_fps": 1,
    }

    def __init__(
        self,
        illegal_penalty: float = -1.0,
        illegal_other: float = 0.0,
        render_mode: str | None = None,
        *,
        opening_moves: int | Sequence[int] = 0,
    ) -> None:
        super().__init__()
        for name, value in (("illegal_penalty", illegal_penalty), ("illegal_other", illegal_other)):
            if not math.isfinite(value):
                raise ValueError(f"{name} must be finite, got {value}")
        self.opening_moves = _read_range(opening_moves)
        if render_mode is not None and render_mode not in self.metadata["render_modes"]:
            raise ValueError(f"render_mode must be None or one of {self.metadata['render_modes']}, got {render_mode!r}")
        self.illegal_penalty, self.illegal_other = float(illegal_penalty), float(illegal_other)
        self.render_mode = render_mode
        self.possible_agents = list(_AGENTS)
        self.observation_spaces = {
            agent: spaces.Dict({"text": AnyText(), "action_mask": spaces.MultiBinary(_NUM_CELLS)}) for agent in _AGENTS
        }
        self.action_spaces = {agent: MoveText() for agent in _AGENTS}
        self.agents: list[str] = []
        self._rng: np.random.Generator | None = None  # from the first reset on, where there is anything to draw
        self._opening: list[int] = []
        self._position = start()
        self._silent = set(_AGENTS)  # who have not acted yet
        self._ending: dict[str, str] = {}  # what each player is told after an illegal move
        self._actions: list[str | None] | None = None  # all since the reset

    # --- PettingZoo ---

    def observation_space(self, agent: str) -> spaces.Dict:
        """The space of an agent's observations: always the same object."""
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> MoveText:
        """The space of an agent's actions: always the same object."""
        return self.action_spaces[agent]

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> None:  # noqa: ARG002
        """Clear the board and make the opening moves.

        Args:
            seed: Decides them. Without a seed the random numbers go on, at the first reset from a seed of the system's.
            options: There are none. PettingZoo's own test passes one that nobody knows, so any is overlooked.
        """
        least, most = self.opening_moves
        if most and (seed is not None or self._rng is None):
            self._rng = np_random(seed)[0]
        rng = cast("np.random.Generator", self._rng)  # which is there, if anything is drawn
        count = least if least == most else int(rng.integers(least, most, endpoint=True))
        position, opening = start(), []
        for moves_left in range(count, 0, -1):
            moves = quiet_moves(position, moves_left)
            opening.append(moves[int(rng.integers(len(moves)))])
            position = position.after[opening[-1]]
        self._begin(opening)

    def _begin(self, opening: list[int]) -> None:
        self.agents = self.possible_agents[:]
        self.rewards = dict.fromkeys(_AGENTS, 0.0)
        self._cumulative_rewards = dict.fromkeys(_AGENTS, 0.0)
        self.terminations = dict.fromkeys(_AGENTS, False)
        self.truncations = dict.fromkeys(_AGENTS, False)
        self.infos: dict[str, dict[str, Any]] = {agent: {} for agent in _AGENTS}
        self._skip_agent_selection = None  # of the last game's end; PettingZoo sets it when agents leave
        self._position, self._opening = start(), opening
        for move in opening:
            self._position = self._position.after[move]
        self.agent_selection = _AGENTS["XO".index(self._position.mark)]
        self._silent, self._ending, self._actions = set(_AGENTS), {}, []
        self._tell()
        self._show()

    def step(self, action: str | None) -> None:
        """Play for `agent_selection`.

        Raises:
            TypeError: If ``action`` is not a `str` in a running game.
            ValueError: If it is not None once the game is over.
            ResetNeeded: Before the first `reset`, or when both agents have left.
        """
        if not self.agents:
            raise ResetNeeded("step() was called without an agent in the game: call reset() first")
        agent = self.agent_selection
        if self.terminations[agent]:
            self._was_dead_step(action)
        elif isinstance(action, str):
            self._move(agent, action)
            self._show()
        else:
            raise TypeError(f"an action is a str, got {type(action).__name__}")
        cast("list[str | None]", self._actions).append(action)

    def observe(self, agent: str) -> dict[str, Any]:
        """What an agent sees now, to move or not."""
        return {"text": self._text(agent), "action_mask": self._mask(agent)}

    def render(self) -> str | None:
        """The board as text; None in the mode ``"human"``, which prints it, and without a render mode."""
        self._show()
        return self._position.text if self.render_mode == "ansi" else None

    def close(self) -> None:
        """Nothing is open."""

    # --- What is known about it ---

    def solver(self, name: str, seed: int = 0) -> Solver:
        """Make a player for one seat; its ``act`` takes the text of an observation.

        Raises:
            ValueError: If there is no solver of that name.
        """
        if name not in self.solvers:
            raise ValueError(f"unknown solver {name!r} of {self.metadata['name']}; known: {sorted(self.solvers)}")
        return self.solvers[name](self, seed)

    def vocabulary(self) -> list[str]:
        """Every text that the players are told, also while they wait, and the nine cells."""
        said = texts.vocabulary(self.opening_moves[1], can_forfeit=True)
        waiting = [position.text for position in positions().values() if len(position.moves) > 7]
        return list(dict.fromkeys([*said, *waiting]))

    # --- States ---

    def get_state(self) -> dict[str, Any]:
        """The game so far as JSON values: the opening, all actions since (None before the first reset), and chance."""
        said = None if self._actions is None else [a if a is None else text_to_jsonable(a) for a in self._actions]
        rng = None if self._rng is None else self._rng.bit_generator.state
        return {
            "env": self.metadata["name"],
            "rules": self._rules(),
            "opening": self._opening,
            "actions": said,
            "rng": rng,
        }

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Continue from a state of a game with the same arguments, by playing it again.

        Raises:
            ValueError: If it is no such state; nothing is changed then.
        """
        name = self.metadata["name"]
        if not isinstance(state, dict) or state.get("env") != name or state.get("rules") != self._rules():
            raise ValueError(
                f"not a state of {name} with [illegal_penalty, illegal_other, opening_moves] = {self._rules()}: "
                f"{state!r:.200}"
            )
        game = raw_env(self.illegal_penalty, self.illegal_other, opening_moves=self.opening_moves)
        try:
            if state["rng"] is not None:
                game._rng = np.random.Generator(np.random.PCG64())
                game._rng.bit_generator.state = state["rng"]
            if state["actions"] is not None:
                game._begin(_legal_opening(state["opening"], self.opening_moves))
                for action in state["actions"]:
                    game.step(action if action is None else text_from_jsonable(action))
        except (KeyError, TypeError, ValueError, ResetNeeded) as error:
            raise ValueError(f"broken state of {name}: {error!r}") from error
        kept = {"observation_spaces", "action_spaces", "render_mode"}  # whose random numbers go on
        self.__dict__.update({key: value for key, value in vars(game).items() if key not in kept})

    # --- Help ---

    def _rules(self) -> list[Any]:
        return [self.illegal_penalty, self.illegal_other, list(self.opening_moves)]

    def _move(self, agent: str, action: str) -> None:
        other = _AGENTS[agent == _AGENTS[0]]
        cell = read_move(action)
        following = None if cell is None else self._position.after.get(cell)
        verdict, is_over = Verdict.WRONG, following is None or following.is_over
        self.rewards = dict.fromkeys(_AGENTS, 0.0)
        self._cumulative_rewards[agent] = 0.0
        if following is None:
            self.rewards = {agent: self.illegal_penalty, other: self.illegal_other}
            said, verdict = texts.no_move(cell)
            self._ending = {agent: said, other: texts.forfeited(_MARKS[agent])}
        else:
            self._position = following
            if following.winner is not None:  # only who has just moved can have three in a line
                verdict = Verdict.CORRECT
                self.rewards = {agent: 1.0, other: -1.0}
        self.terminations = dict.fromkeys(_AGENTS, is_over)
        self.infos[agent] = {"verdict": verdict.value}
        self._accumulate_rewards()
        self._silent.discard(agent)
        self.agent_selection = other
        self._tell()

    def _tell(self) -> None:
        for agent in _AGENTS:
            self.infos[agent] = {**self.infos[agent], "messages": [user_message(self._text(agent))]}

    def _text(self, agent: str) -> str:
        position, mark = self._position, _MARKS[agent]
        if self._ending:
            return self._ending[agent]
        if position.is_over:
            return texts.result(position, mark)
        return texts.opening(position, mark) if position.mark == mark and agent in self._silent else position.text

    def _mask(self, agent: str) -> "np.ndarray[Any, np.dtype[np.int8]]":
        position: Position = self._position
        if self._ending or position.is_over:
            return np.ones(_NUM_CELLS, np.int8)
        mask = np.zeros(_NUM_CELLS, np.int8)
        if position.mark == _MARKS[agent]:
            mask[[move - 1 for move in position.moves]] = 1
        return mask

    def _show(self) -> None:
        if self.render_mode == "human":
            sys.stdout.write(self._position.text + "\n\n")


def _read_range(opening_moves: int | Sequence[int]) -> tuple[int, int]:
    """The least and the greatest number of opening moves."""
    both = [opening_moves] * 2 if type(opening_moves) is int else opening_moves
    if not isinstance(both, list | tuple) or len(both) != 2 or any(type(number) is not int for number in both):
        raise TypeError(f"opening_moves must be an int or two, got {opening_moves!r}")
    if not 0 <= both[0] <= both[1] <= _MAX_OPENING_MOVES:
        raise ValueError(f"opening_moves must lie in 0..{_MAX_OPENING_MOVES}, got {opening_moves}")
    return both[0], both[1]


def _legal_opening(moves: list[Any], counts: tuple[int, int]) -> list[int]:
    """The moves, checked.

    Raises:
        TypeError: If a move is no integer.
        ValueError: If they are not as many legal moves as there may be, after which the game goes on.
    """
    position, opening = start(), [as_index(move) for move in moves]
    for move in opening:
        position = position.after.get(move, position)
    count, (least, most) = len(opening), counts
    if not least <= count <= most or position.is_over or len(position.moves) != _NUM_CELLS - count:
        raise ValueError(f"no opening of {least} to {most} moves: {opening}")
    return opening
