"""Batches: which problems, what is learnt from, and what is counted."""

import dataclasses
import math
from typing import Any

import pytest

from tests.trainers.toy_runs import OTHER, TOY, Toy, register_toys, rows_of, toy_config
from trainers.collect import Batch, Collector, _by_problem
from trainers.config import TrainConfig
from trainers.environments import Breakage, EnvMix, Problem
from trainers.learn import Learned
from trainers.logs.metrics import update_metrics
from trainers.rendering import Renderer
from trainers.rollouts import RolloutSettings
from trainers.train import train
from trainers.trajectories import Completion, Group, Trajectory, Turn


@pytest.fixture(autouse=True)
def _toy(monkeypatch):
    monkeypatch.setattr(Toy, "hook", None)
    register_toys()


@pytest.fixture
def config(tiny_folder, tmp_path):
    return toy_config(tiny_folder, tmp_path / "run", group_size=2, env_args='{"spread_every": 4}')


@pytest.fixture
def collector_of(scripted, tokenizer):
    """A collector whose sampler says a small number in every even row and a large one in the others."""
    renderer = Renderer(tokenizer)
    small, large, end = (tokenizer.convert_tokens_to_ids(word) for word in ("7", "70", "<end>"))
    assert len({small, large, end}) == 3

    def make(config: TrainConfig) -> Collector:
        sampler: Any = scripted(lambda row, _: [large if row % 2 else small, end])
        settings = RolloutSettings(config.group_size, config.max_tokens, config.temperature, context_length=128)
        return Collector(config, EnvMix.of(config), sampler, renderer, settings, None, Breakage())

    return make


def drawn_in(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    counts: list[int] = []
    inner = EnvMix.draw

    def draw(self: EnvMix, count: int) -> list[Problem]:
        counts.append(count)
        return inner(self, count)

    monkeypatch.setattr(EnvMix, "draw", draw)
    return counts


def seeds_of(batch: Batch) -> list[int]:
    return [group.seed for group in batch.groups]


def taught_of(batch: Batch) -> list[int]:
    return list(dict.fromkeys(t.seed for t in batch.credit.trajectories))


def test_without_it_a_batch_is_what_was_drawn(collector_of, config, monkeypatch):
    collector = collector_of(config)
    counts = drawn_in(collector, monkeypatch)
    batch = collector.collect(0)
    assert counts == [4]
    assert (seeds_of(batch), taught_of(batch)) == ([0, 1, 2, 3], [0])
    assert batch.credit.has_spread == [True, False, False, False]
    assert (batch.episodes, batch.drawn) == (8, {"drawn": {"Toy-v0": 4}})
    assert seeds_of(collector.collect(1)) == [4, 5, 6, 7]


def test_it_draws_until_the_batch_is_full(collector_of, config, monkeypatch):
    # One seed in four has spread: after 4 one group, so 3 more need 12, at most 4 at a time, and so on.
    collector = collector_of(dataclasses.replace(config, dynamic_sampling=9))
    counts = drawn_in(collector, monkeypatch)
    batch = collector.collect(0)
    assert counts == [4, 4, 4, 4]
    assert (seeds_of(batch), taught_of(batch)) == (list(range(16)), [0, 4, 8, 12])
    assert sum(batch.credit.has_spread) == 4
    assert len(batch.credit.has_spread) == 16
    assert batch.credit.group_numbers == [0, 0, 1, 1, 2, 2, 3, 3]
    assert batch.episodes == 32
    # The order of problems goes on behind what was drawn; each update samples with seeds of its own.
    assert batch.drawn == {"drawn": {"Toy-v0": 16}}
    following = collector.collect(1)
    assert seeds_of(following) == list(range(16, 32))
    sampler: Any = collector.sampler
    seeds = [seed for _, _, seed in sampler.opened]
    assert len(set(seeds)) == len(seeds) == 8


@pytest.mark.parametrize("most", [1, 2])
def test_it_is_bounded(collector_of, config, monkeypatch, most):
    collector = collector_of(dataclasses.replace(config, dynamic_sampling=most))
    counts = drawn_in(collector, monkeypatch)
    batch = collector.collect(0)
    assert counts == [4] * (1 + most)
    assert taught_of(batch) == [0, 4, 8][: 1 + most]


def test_it_asks_for_as_many_as_are_missing(collector_of, config, monkeypatch):
    # Three of five have spread at first, so that two are missing, at a rate of 3/5.
    changed = dataclasses.replace(config, groups_per_batch=5, dynamic_sampling=9, env_args='{"spread_every": 2}')
    collector = collector_of(changed)
    counts = drawn_in(collector, monkeypatch)
    batch = collector.collect(0)
    assert counts == [5, math.ceil(2 / (3 / 5))]
    assert taught_of(batch) == [0, 2, 4, 6, 8]


def test_no_more_than_a_batch_is_learnt_from(collector_of, config):
    changed = dataclasses.replace(config, groups_per_batch=3, dynamic_sampling=9, env_args='{"spread_every": 2}')
    batch = collector_of(changed).collect(0)
    # 0 and 2 of the first three; one more at a rate of 2/3 is two; seeds 3 and 4.
    assert (seeds_of(batch), taught_of(batch)) == ([0, 1, 2, 3, 4], [0, 2, 4])
    following = collector_of(dataclasses.replace(changed, groups_per_batch=2)).collect(0)
    assert (seeds_of(following), taught_of(following)) == ([0, 1, 2, 3], [0, 2])


@pytest.mark.parametrize("every", [4, 1000])
def test_with_a_price_on_leaving_the_base_what_has_no_spread_fills_the_batch(collector_of, config, every):
    changed = dataclasses.replace(
        config, dynamic_sampling=1, kl_coef=0.1, env_args=f'{{"spread_every": {every}}}', seed=0
    )
    batch = collector_of(changed).collect(0)
    assert len(batch.groups) == 8
    assert taught_of(batch) == ([0, 1, 2, 4] if every == 4 else [0, 1, 2, 3])  # those with spread first


def test_nothing_with_spread_is_nothing_to_learn_from(collector_of, config):
    changed = dataclasses.replace(config, dynamic_sampling=2, env_args='{"constant": true}')
    batch = collector_of(changed).collect(0)
    assert (len(batch.groups), batch.credit.trajectories, sum(batch.credit.has_spread)) == (12, [], 0)


def test_figures_are_of_all_that_was_drawn(collector_of, config):
    batch = collector_of(dataclasses.replace(config, dynamic_sampling=9)).collect(0)
    found = update_metrics(batch, Learned(), group_size=2)
    assert found["constant_groups_share"] == 12 / 16
    assert found["return_mean"] == (12 * 1.0 + 4 * 0.5) / 16
    assert (found["groups"], found["action_tokens"], found["action_tokens_mean"]) == (16.0, 64.0, 2.0)
    assert found["broken_share"] == 0.0


def test_what_was_masked_is_counted_over_all(scripted, tokenizer, collector_of, config):
    small, large, end = (tokenizer.convert_tokens_to_ids(word) for word in ("7", "70", "<end>"))
    changed = dataclasses.replace(config, dynamic_sampling=9, overlong="mask", group_size=4)
    collector = collector_of(changed)
    # Of every four answers the last is cut off.
    collector.sampler = scripted(lambda row, _: [[small, end], [large, end], [large, end], [small, small]][row % 4])
    batch = collector.collect(0)
    assert (len(batch.groups), batch.credit.masked) == (16, 16)
    assert update_metrics(batch, Learned(), group_size=4)["masked_share"] == 1 / 4
    assert len(batch.credit.trajectories) == 4 * 3


def test_environments_are_mixed(collector_of, config, monkeypatch):
    mixed = dataclasses.replace(config, env=(TOY, OTHER), env_weights=(1.0, 1.0), dynamic_sampling=9)
    batch = collector_of(mixed).collect(0)
    assert [(group.task, group.seed) for group in batch.groups[:4]] == [
        ("Toy-v0", 0), ("OtherToy-v0", 0), ("Toy-v0", 1), ("OtherToy-v0", 1)
    ]  # fmt: skip
    assert [(g.task, g.seed) for g, spread in zip(batch.groups, batch.credit.has_spread, strict=True) if spread] == [
        ("Toy-v0", 0), ("OtherToy-v0", 0), ("Toy-v0", 4), ("OtherToy-v0", 4)
    ]  # fmt: skip
    drawn = batch.drawn["drawn"]
    assert drawn["Toy-v0"] + drawn["OtherToy-v0"] == len(batch.groups)
    found = update_metrics(batch, Learned(), group_size=2)
    assert {"Toy-v0/return_mean", "OtherToy-v0/return_mean", "return_mean"} <= found.keys()


def test_what_breaks_is_counted_once(collector_of, config):
    broken = dataclasses.replace(config, env_args='{"refuses": [1, 6], "spread_every": 4}')
    collector = collector_of(broken)
    batch = collector.collect(0)
    assert seeds_of(batch) == [0, 2, 3]
    assert [(b.task, b.seed, b.began) for b in batch.broken] == [("Toy-v0", 1, False)]
    assert update_metrics(batch, Learned(), group_size=2)["broken_share"] == 2 / 8
    following = collector.collect(1)
    assert [b.seed for b in following.broken] == [6]


def test_what_breaks_is_drawn_again_with_dynamic_sampling(collector_of, config):
    broken = dataclasses.replace(config, env_args='{"refuses": [0, 4], "spread_every": 4}', dynamic_sampling=9)
    batch = collector_of(broken).collect(0)
    assert taught_of(batch) == [8, 12, 16, 20]
    assert batch.episodes == 2 * (len(batch.groups) + 2)


def test_any_seed_can_be_sampled_with(collector_of, config):
    for seed in (0, 20_260_101, 2**31 - 1):
        collector = collector_of(dataclasses.replace(config, seed=seed))
        collector.collect(10**6)
        sampler: Any = collector.sampler
        assert all(0 <= number < 2**63 for _, _, number in sampler.opened)


def test_a_whole_run_with_it(config):
    train(dataclasses.replace(config, dynamic_sampling=3, group_size=4, updates=3, eval_every=0))
    rows = rows_of(config.run_dir)
    assert all(4 < row["groups"] <= 16 for row in rows)
    for row in rows:
        assert row["constant_groups_share"] >= 0.7
        assert row["action_tokens"] == row["action_tokens_mean"] * row["groups"] * 4


def test_seats_of_one_game_are_one_problem():
    one: list[Any] = [{}]
    other: list[Any] = [{}]  # equal, and not the same
    nothing: list[Any] = []
    games = [one, one, other, other, other, nothing, nothing]
    groups = [Group(0, [], games=played) for played in games]
    assert _by_problem(groups) == [[0, 1], [2, 3, 4], [5], [6]]


def test_dynamic_sampling_counts_games_and_keeps_every_seat(collector_of, config, monkeypatch):
    """Two seats a game: of games 0 to 3 the second and the fourth have spread, each in one seat."""
    changed = dataclasses.replace(config, groups_per_batch=4, dynamic_sampling=9)
    collector = collector_of(changed)
    asked: list[int] = []

    def play(self: Any, problems: Any, *_: Any) -> Any:
        asked.append(len(problems))
        for problem in problems:
            records: list[Any] = [{}]
            for seat in range(2):
                spread = problem.seed % 2 and not seat
                trajectories = [one_turn(problem.seed, float(spread and i)) for i in range(2)]
                yield Group(problem.seed, trajectories, agent=f"player_{seat}", games=records)

    monkeypatch.setattr(Collector, "_play", play)
    batch = collector.collect(0)
    assert asked == [4, 4]
    assert taught_of(batch) == [1, 3, 5, 7]


def one_turn(seed: int, reward: float) -> Trajectory:
    trajectory = Trajectory(seed=seed, observations=["s"])
    trajectory.append_completion(Completion([1], [-1.0], "stop"))
    trajectory.turns.append(Turn("x", 1, reward, "stop", "wrong", {}))
    return trajectory
