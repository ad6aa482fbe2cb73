"""TicTacToe for two agents who take turns, as a PettingZoo environment."""

import math
import sys
from collections.abc import Mapping
from typing import Any, ClassVar, cast

import numpy as np
from gymnasium import spaces
from gymnasium.error import ResetNeeded
from pettingzoo import AECEnv  # type: ignore[import-untyped]
from pettingzoo.utils.wrappers import OrderEnforcingWrapper  # type: ignore[import-untyped]

from llm_envs.games.tic_tac_toe import texts
from llm_envs.games.tic_tac_toe.rules import Position, read_move, start
from llm_envs.grading import Verdict
from llm_envs.spaces import AnyText, text_from_jsonable, text_to_jsonable
from llm_envs.text_env import user_message

__all__ = ["MoveText", "env", "raw_env"]

_AGENTS = ("player_1", "player_2")
_MARKS = dict(zip(_AGENTS, "XO", strict=True))
_NUM_CELLS = 9


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
    """Tic-tac-toe between ``player_1``, who plays X and begins, and ``player_2``, who plays O.

    Observation: ``{"text": str, "action_mask": int8 array of 9}``.

    - The text is what `TicTacToeEnv` says to its one agent: at a player's first move who they are and the board, then
      just the board, in which a free cell is its number, and at the end the result. A player who waits sees the board.
    - The mask holds 1 for the cells that may be played (cell 1 at index 0), and only 0 for a player who waits. After
      the end it holds only 1: nothing is asked any more, and a row of zeros would turn a masked softmax into NaN.

    Action: any `str`; `read_move` says what can be read. Once the game is over, each agent steps with None.

    Reward: 1 for a win, 0 for a draw, -1 for a loss. A move that is illegal or cannot be read ends the game at once:
    the mover gets ``illegal_penalty`` and the other ``illegal_other``.

    Info: ``"messages"``, the text as chat messages; and from an agent's first action on ``"verdict"``, the judgement on
    its latest action: ``correct`` if that won the game, ``wrong`` if not (yet), ``unparsed`` if no legal move could be
    read. No legal move ever gets ``unparsed``.

    There is no chance in it: a seed, and any option of `reset`, change nothing. There is no parallel form, either: the
    players never move at the same time, so half of the actions of a parallel step would have to be thrown away.
    ``metadata["is_parallelizable"]`` says so.

    Args:
        illegal_penalty: The mover's reward for a move that is illegal or unreadable.
        illegal_other: The other's reward then.
        render_mode: ``"ansi"``: `render` returns the board; ``"human"``: every board is printed; or None.

    Raises:
        ValueError: If a reward is not finite, or ``render_mode`` is not known.
    """

    metadata: ClassVar[dict[str, Any]] = {
        "name": "tic_tac_toe_v0",
        "render_modes": ["human", "ansi"],
        "is_parallelizable": False,
        "render_fps": 1,
    }

    def __init__(
        self, illegal_penalty: float = -1.0, illegal_other: float = 0.0, render_mode: str | None = None
    ) -> None:
        super().__init__()
        for name, value in (("illegal_penalty", illegal_penalty), ("illegal_other", illegal_other)):
            if not math.isfinite(value):
                raise ValueError(f"{name} must be finite, got {value}")
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
        self._position = start()
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
        """Clear the board; ``player_1`` is to move. Neither a seed nor an option changes anything."""
        self.agents = self.possible_agents[:]
        self.rewards = dict.fromkeys(_AGENTS, 0.0)
        self._cumulative_rewards = dict.fromkeys(_AGENTS, 0.0)
        self.terminations = dict.fromkeys(_AGENTS, False)
        self.truncations = dict.fromkeys(_AGENTS, False)
        self.infos: dict[str, dict[str, Any]] = {agent: {} for agent in _AGENTS}
        self.agent_selection = _AGENTS[0]
        self._skip_agent_selection = None  # of the last game's end; PettingZoo sets it when agents leave
        self._position, self._ending, self._actions = start(), {}, []
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

    # --- States ---

    def get_state(self) -> dict[str, Any]:
        """The game so far as JSON values: all actions since the reset; None before the first one."""
        said = None if self._actions is None else [a if a is None else text_to_jsonable(a) for a in self._actions]
        return {"env": self.metadata["name"], "rules": [self.illegal_penalty, self.illegal_other], "actions": said}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Continue from a state of a game with the same arguments, by playing it again.

        Raises:
            ValueError: If it is no such state; nothing is changed then.
        """
        name, rules = self.metadata["name"], [self.illegal_penalty, self.illegal_other]
        if not isinstance(state, dict) or state.get("env") != name or state.get("rules") != rules:
            raise ValueError(f"not a state of {name} with [illegal_penalty, illegal_other] = {rules}: {state!r:.200}")
        game = raw_env(self.illegal_penalty, self.illegal_other)
        try:
            if state["actions"] is not None:
                game.reset()
                for action in state["actions"]:
                    game.step(action if action is None else text_from_jsonable(action))
        except (KeyError, TypeError, ValueError, ResetNeeded) as error:
            raise ValueError(f"broken state of {name}: {error!r}") from error
        kept = {"observation_spaces", "action_spaces", "render_mode"}  # whose random numbers go on
        self.__dict__.update({key: value for key, value in vars(game).items() if key not in kept})

    # --- Help ---

    def _move(self, agent: str, action: str) -> None:
        other = _AGENTS[agent == _AGENTS[0]]
        cell = read_move(action)
        following = None if cell is None else self._position.after.get(cell)
        verdict, is_over = Verdict.WRONG, following is None or following.is_over
        self.rewards = dict.fromkeys(_AGENTS, 0.0)
        self._cumulative_rewards[agent] = 0.0
        if following is None:
            verdict = Verdict.UNPARSED
            self.rewards = {agent: self.illegal_penalty, other: self.illegal_other}
            said = texts.NO_CELL if cell is None else texts.taken(cell)
            self._ending = {agent: said, other: texts.forfeited(_MARKS[agent])}
        else:
            self._position = following
            if following.winner is not None:  # only who has just moved can have three in a line
                verdict = Verdict.CORRECT
                self.rewards = {agent: 1.0, other: -1.0}
        self.terminations = dict.fromkeys(_AGENTS, is_over)
        self.infos[agent] = {"verdict": verdict.value}
        self._accumulate_rewards()
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
        return texts.asking(position) if position.mark == mark else position.text

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
