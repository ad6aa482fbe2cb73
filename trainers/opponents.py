"""Who sits in the other seats: the policy itself, what it was before, the base model, or the game's own players."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from trainers.games import SELF, Lineup
from trainers.policy import Policy
from trainers.reading import Player

if TYPE_CHECKING:
    from pettingzoo import AECEnv

BASE, PAST = "base", "past"
MODELS = (SELF, BASE, PAST)


class OpponentPool:
    """Draws opponents by their shares, and keeps adapters of the past.

    Against nobody but itself a policy forgets what it no longer meets, and may end in a corner where neither side plays
    well; a pool with the past in it is the cure of fictitious self-play (Heinrich et al., 2015) and of the league of
    AlphaStar (Vinyals et al., 2019).

    Args:
        policy: whose adapters are kept.
        shares: weights of `self`, `past`, `base` and names of the game's solvers; they need not sum to 1.
        kept: how many adapters of the past are kept: the newest.
    """

    def __init__(self, policy: Policy, shares: Mapping[str, float], *, kept: int) -> None:
        self._policy = policy
        self._names = list(shares)
        weights = np.array([shares[name] for name in self._names], dtype=np.float64)
        self._chances = weights / weights.sum()
        self._kept = kept
        self._past: dict[int, dict[str, Tensor]] = {}

    def draw(self, seeds: Sequence[int], *, num_seats: int, rng: np.random.Generator) -> list[Lineup]:
        """One lineup a seed; the policy's seat goes round with the seeds, so that no seat is favoured."""
        lineups = []
        for seed in seeds:
            name = self._names[int(rng.choice(len(self._names), p=self._chances))]
            if name == PAST:  # before there is one, it is what the policy is now
                name = f"{PAST} {rng.choice(list(self._past))}" if self._past else SELF
            lineups.append(Lineup(seed, name, seed % num_seats))
        return lineups

    def remember(self, updates_done: int) -> None:
        """Keep the adapter as it is now."""
        if PAST in self._names:
            self._past[updates_done] = self._policy.snapshot()
            for old in sorted(self._past)[: -self._kept]:
                del self._past[old]

    def scripted(self, name: str, env: AECEnv, *, seed: int) -> Player | None:
        """A player that ships with the game; None where the name is a model's."""
        if name.partition(" ")[0] in MODELS:
            return None
        player: Player = env.unwrapped.solver(name, seed=seed)
        return player

    def playing(self, name: str) -> AbstractContextManager[None]:
        """The policy computes as that model while the context lasts."""
        return self._policy.playing_as(None if name == BASE else self._past[int(name.removeprefix(PAST))])

    def state_dict(self) -> dict[str, Any]:
        """The adapters of the past, for `torch.save`."""
        return {"past": self._past}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore them."""
        device = self._policy.device
        self._past = {
            int(number): {name: tensor.to(device) for name, tensor in adapter.items()}
            for number, adapter in state["past"].items()
        }
