"""Which trajectories of a batch there is something to learn from, and the advantage of each of their turns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from trainers.advantages import ESTIMATORS, group_mean, has_spread, overlong_penalty, returns, state_advantages
from trainers.config import CreditOptions
from trainers.trajectories import Group, Trajectory, Turn

# Differences of returns that are smaller than this share of the largest are rounding.
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Credit:
    """What to train on.

    Args:
        trajectories: those with something to learn from, those of a group side by side.
        advantages: for each of them, one number a turn.
        group_numbers: for each of them, which group of the batch it is of.
        has_spread: for each group of the batch, whether anything that counts in it differs.
        masked: how many trajectories were left out because an answer of theirs was cut off.
        compared: how many trajectories were compared at all, those without anything to learn from included.
    """

    trajectories: list[Trajectory]
    advantages: list[list[float]]
    group_numbers: list[int]
    has_spread: list[bool]
    masked: int
    compared: int = 0


def assign_credit(
    groups: Sequence[Group], options: CreditOptions, *, max_tokens: int, keep_all: bool = False
) -> Credit:
    """Compare every trajectory or turn with its like.

    Left out are

    - episodes that the environment failed to judge, or that were over before the policy said anything;
    - with overlong=mask, those of which an answer was cut off (stop reason `length`);
    - groups in which all that is compared is equal, for their advantages are 0: the returns, or by turn what was to
      come in each of them. Two settings look further than the group: with credit=state every trajectory with an
      advantage other than 0 stays, and with advantage=none every group with one, for without a baseline equal returns
      push all the same.

    What is left out counts in no mean. With overlong=penalize the returns are those after the penalty, though the
    recorded rewards stay as they are; a cut answer loses all of it, wherever the cut was.

    Args:
        groups: the batch; all of one size.
        options: which comparison.
        max_tokens: most tokens sampled in one turn.
        keep_all: keep groups without spread, too: where not only the reward teaches something.
    """
    if len({len(group.trajectories) for group in groups}) > 1:
        raise ValueError(f"groups must be of one size, not {sorted({len(group.trajectories) for group in groups})}")
    rewards, num_turns, judged, overlong = _tabulate(groups, options, max_tokens)
    counted = judged & ~overlong if options.overlong == "mask" else judged
    by: Literal["trajectory", "turn"] = "trajectory" if options.credit == "trajectory" else "turn"
    values, present = returns(rewards, num_turns, counted, credit=by, discount=options.discount)  # [P, G, 1 or K]
    spread = torch.stack([has_spread(v, p) for v, p in zip(values.unbind(2), present.unbind(2), strict=True)]).any(
        0
    )  # [P]
    if options.credit == "state":
        advantages = _by_state(groups, values, group_mean(values, present), counted)
        largest = max([0.0, *values.abs().flatten().tolist()])
        teaches = (advantages.abs() > _ROUNDING * largest).any(2)
    elif options.advantage == "none":
        advantages = ESTIMATORS["none"](values, present)
        teaches = (advantages != 0).any(2).any(1, keepdim=True)
    else:
        # What is not trained on does not count in the deviation of the batch, either.
        trained = present if keep_all else present & spread[:, None, None]
        advantages = ESTIMATORS[options.advantage](values, trained)
        teaches = spread[:, None]
    places = (counted if keep_all else counted & teaches).nonzero().tolist()
    numbers = advantages.expand(-1, -1, rewards.shape[2]).tolist()
    trajectories = [groups[p].trajectories[g] for p, g in places]
    return Credit(
        trajectories=trajectories,
        advantages=[numbers[p][g][: len(t.turns)] for (p, g), t in zip(places, trajectories, strict=True)],
        group_numbers=[p for p, _ in places],
        has_spread=spread.tolist(),
        masked=int((judged & ~counted).sum()),
        compared=int(counted.sum()),
    )


def _tabulate(
    groups: Sequence[Group], options: CreditOptions, max_tokens: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Rewards `[P, G, K]` as they count; and `[P, G]`: how many turns, whether there is a judgement, whether cut off.

    In double precision: sums of few numbers cost nothing, and equal returns are to stay equal.
    """
    everything = [trajectory for group in groups for trajectory in group.trajectories]
    rewards = _by_turn(everything, lambda turn: turn.reward)
    if options.overlong == "penalize":
        lengths = _by_turn(everything, lambda turn: max_tokens if _is_cut(turn) else turn.num_tokens)
        rewards -= overlong_penalty(lengths, max_tokens, options.overlong_buffer, options.overlong_penalty)
    num_turns = torch.tensor([len(t.turns) for t in everything], dtype=torch.int64)
    judged = torch.tensor([t.is_scorable and bool(t.turns) for t in everything], dtype=torch.bool)
    overlong = torch.tensor([any(map(_is_cut, t.turns)) for t in everything], dtype=torch.bool)
    shape = (len(groups), len(groups[0].trajectories) if groups else 1)
    return (
        rewards.reshape(*shape, rewards.shape[1]),
        num_turns.reshape(shape),
        judged.reshape(shape),
        overlong.reshape(shape),
    )


def _by_turn(trajectories: Sequence[Trajectory], number_of: Callable[[Turn], float]) -> Tensor:
    """A number of every turn, `[B, K]`; 0 after a trajectory's last."""
    width = max([1, *(len(trajectory.turns) for trajectory in trajectories)])
    numbers = torch.zeros(len(trajectories), width, dtype=torch.float64)
    for row, trajectory in zip(numbers, trajectories, strict=True):
        row[: len(trajectory.turns)] = torch.tensor(list(map(number_of, trajectory.turns)), dtype=torch.float64)
    return numbers


def _is_cut(turn: Turn) -> bool:
    return turn.stop_reason == "length"


def _by_state(groups: Sequence[Group], to_go: Tensor, of_turn: Tensor, counted: Tensor) -> Tensor:
    """`state_advantages` of all turns of the batch, with the group's baseline for the turn as the prior: `[P, G, K]`.

    The same words in another environment, in another seat or against another opponent are another state.
    """
    numbers: dict[tuple[str, str, str, str], int] = {}
    states = torch.full(to_go.shape, -1)
    for p, group in enumerate(groups):
        for g, trajectory in enumerate(group.trajectories):
            if counted[p, g]:
                for k, observation in enumerate(trajectory.observations[: len(trajectory.turns)]):
                    state = (group.task, group.agent, group.opponent, observation)
                    states[p, g, k] = numbers.setdefault(state, len(numbers))
    taken = states >= 0
    advantages = torch.zeros_like(to_go)
    advantages[taken] = state_advantages(to_go[taken], states[taken], (to_go - of_turn)[taken])
    return advantages
