"""Tic-tac-toe in words: for two agents (`env`, `raw_env`: PettingZoo) and for one (`TicTacToeEnv`: Gymnasium).

What stands here is imported when it is first used: the game for one agent needs no PettingZoo.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llm_envs.games.tic_tac_toe.aec import env, raw_env
    from llm_envs.games.tic_tac_toe.single import TicTacToeEnv

__all__ = ["TicTacToeEnv", "env", "raw_env"]

_HOMES = {"TicTacToeEnv": "single", "env": "aec", "raw_env": "aec"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
