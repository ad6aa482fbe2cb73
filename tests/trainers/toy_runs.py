"""An environment of no package, short runs of it, and what two runs are compared by."""

import json
import string
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, cast

import gymnasium as gym

from trainers.config import TrainConfig

TOY = "Toy-v0"
OTHER = "OtherToy-v0"

TIMES = ("seconds", "sampling_seconds", "env_seconds", "training_seconds", "tokens_per_second")


class Toy(gym.Env[str, str]):
    """Say a number below 50, in so many turns; see the arguments for what may go wrong.

    Args:
        turns: of an episode.
        opening: the first words of every observation.
        constant: whatever is said is worth 1.
        spread_every: only every so many seeds have rewards that differ.
        outage: every third number cannot be judged.
        raises: every third number raises an error.
        refuses: seeds that never begin.
    """

    observation_space = gym.spaces.Text(max_length=1000, min_length=0, charset=string.printable)
    action_space = gym.spaces.Text(max_length=1000, min_length=0, charset=string.printable)
    hook: ClassVar[Callable[[], None] | None] = None
    open_now: ClassVar[int] = 0
    made: ClassVar[int] = 0

    def __init__(
        self, *, turns: int = 1, opening: str = "1", constant: bool = False, spread_every: int = 1,
        outage: bool = False, raises: bool = False, refuses: list[int] | None = None,
    ) -> None:  # fmt: skip
        self.turns, self.opening, self.constant, self.spread_every = turns, opening, constant, spread_every
        self.outage, self.raises, self.refuses = outage, raises, refuses or []
        self.closed = False
        Toy.open_now += 1
        Toy.made += 1

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        if seed in self.refuses:
            raise LookupError(f"no task {seed}")
        self.turn, self.seed = 0, seed
        return f"{self.opening} {int(self.np_random.integers(1, 100))}", {}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        if Toy.hook is not None:
            Toy.hook()
        self.turn += 1
        words = action.split()
        number = int(words[0]) if words and words[0].isdigit() else None
        constant = self.constant or (self.seed or 0) % self.spread_every > 0
        reward = 1.0 if constant else float(number is not None and number < 50)
        verdict = "correct" if reward else "wrong"
        if number is not None and number % 3 == 0:
            if self.raises:
                raise OSError("the grader is gone")
            if self.outage:
                reward, verdict = 1000.0, "unscorable"
        return "Lower!", reward, self.turn == self.turns, False, {"verdict": verdict, "reward_parts": {"small": reward}}

    def close(self) -> None:
        if not self.closed:
            Toy.open_now -= 1
        self.closed = True


class Hook:
    """Does something in the n-th `Toy.step` from now on."""

    def __init__(self, after: int, act: Callable[[], None]) -> None:
        self.left, self.act = after, act

    def __call__(self) -> None:
        self.left -= 1
        if self.left == 0:
            self.act()


def register_toys() -> None:
    """Under two names."""
    for name in (TOY, OTHER):
        if name not in gym.registry:
            gym.register(name, entry_point=cast("Any", Toy))


def toy_config(model: Path, run_dir: Path, **changes: Any) -> TrainConfig:
    """Four updates of 4 groups of 4."""
    settings: dict[str, Any] = {
        "model": str(model), "env": TOY, "run_dir": run_dir, "updates": 4, "groups_per_batch": 4, "group_size": 4,
        "max_tokens": 2, "learning_rate": 1e-2, "lora_rank": 4, "lora_alpha": 4, "eval_every": 2, "eval_size": 3,
        "save_every": 2, "device": "cpu", "dtype": "float32", "tokens_per_microbatch": 64,
    }  # fmt: skip
    return TrainConfig(**{**settings, **changes})


# --- What a run left ---


def rows_of(run_dir: Path, *kinds: str) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl of these kinds, without what depends on the clock."""
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    wanted = kinds or ("update", "evaluation")
    return [{name: value for name, value in row.items() if name not in TIMES} for row in rows if row["kind"] in wanted]


def adapter_bytes(run_dir: Path, folder: str = "adapter") -> bytes:
    return (run_dir / folder / "adapter_model.safetensors").read_bytes()


def assert_same_run(a: Path, b: Path) -> None:
    """The same figures, the same words and the same weights, to the bit."""
    assert rows_of(a) == rows_of(b)
    assert (a / "episodes.jsonl").read_text() == (b / "episodes.jsonl").read_text()
    assert adapter_bytes(a) == adapter_bytes(b)
