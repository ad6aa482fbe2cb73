"""Rollouts against a sampler that says what the test tells it, and environments that are none of ours."""

import dataclasses
import string
from functools import partial
from typing import Any, cast

import gymnasium as gym
import pytest

from trainers.environments import Problem
from trainers.rendering import Renderer
from trainers.rollouts import EnvPool, RolloutClock, RolloutSettings, messages_of, roll_out, rollout_groups
from trainers.sampling import TorchSampler
from trainers.trajectories import Group

STOP = 3  # <end> of the tiny tokenizer


class CountDown(gym.Env[str, str]):
    """Not from llm_envs: the opening is a number; every action takes one off; no messages, no verdict."""

    observation_space = gym.spaces.Text(max_length=100, min_length=0, charset=string.printable)
    action_space = gym.spaces.Text(max_length=100, min_length=0, charset=string.printable)

    def __init__(self, *, longest: int = 4, truncates: bool = False) -> None:
        self.longest, self.truncates = longest, truncates
        self.heard: list[str] = []

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        self.left = options["left"] if options else int(self.np_random.integers(1, self.longest, endpoint=True))
        self.heard = []
        return str(self.left), {}

    def step(self, action):
        self.heard.append(action)
        self.left -= 1
        over = self.left == 0
        return str(self.left), 0.25, over and not self.truncates, over and self.truncates, {}


class Chat(gym.Env[str, str]):
    """Three turns with messages, verdicts and parts of the reward; it fails to judge the word `60`."""

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        self.turn = 0
        text = f"Higher! {20 + (seed or 0) % 50}"
        return text, {"messages": [{"role": "user", "content": text}]}

    def step(self, action):
        self.turn += 1
        over = self.turn == 3
        return (
            "Lower!",
            1.5 if over else 0.0,
            over,
            False,
            {
                "messages": [{"role": "user", "content": "Lower!"}],
                "verdict": "unscorable" if "60" in action else "wrong",
                "reward_parts": {"found": 1.5 if over else 0.0},
            },
        )


@pytest.fixture
def words(tokenizer):
    def to_tokens(text: str) -> list[int]:
        found = tokenizer.encode(text, add_special_tokens=False)
        assert tokenizer.unk_token_id not in found
        return list(found)

    return to_tokens


def rollouts(pool, sampler, renderer, **options) -> list[Group]:
    settings = RolloutSettings(
        group_size=options.pop("group_size", 2),
        max_tokens=options.pop("max_tokens", 4),
        temperature=options.pop("temperature", 1.0),
        context_length=options.pop("context_length", 128),
        max_rows=options.pop("max_rows", 512),
    )
    options.setdefault("seeds", range(3))
    return list(rollout_groups(pool, sampler, renderer, settings=settings, sampling_seed=70, **options))


def test_the_ledger_of_a_game_of_many_turns(scripted, renderer, tokenizer, words):
    # Rows 0 and 2 stop by themselves; row 1 is cut off; row 3 says nothing but <end>.
    said = [[*words("50 51"), STOP], words("52 53"), [*words("54"), STOP], [STOP]]
    sampler = scripted(lambda row, turn: said[row])
    pool = EnvPool(Chat)
    groups = rollouts(pool, sampler, renderer, seeds=[5, 7])
    assert [group.seed for group in groups] == [5, 7]
    rows = [t for group in groups for t in group.trajectories]
    texts = ["50 51", "52 53", "54", ""]
    for row, trajectory in enumerate(rows):
        assert trajectory.seed == (5, 5, 7, 7)[row]
        opening = f"Higher! {20 + trajectory.seed}"
        spoken = (texts[row] + " <end>").strip()
        one_turn = f"{spoken} Lower! <assistant> "
        assert tokenizer.decode(trajectory.tokens) == f"{opening} <assistant> {one_turn * 2}" + (
            spoken if row != 1 else texts[row]
        )
        # Exactly what was sampled is marked: the <end> that the template adds to the cut-off row is not.
        marked = [t for t, flag in zip(trajectory.tokens, trajectory.is_action, strict=True) if flag]
        assert marked == said[row] * 3
        assert trajectory.logprobs == [-0.5 if flag else 0.0 for flag in trajectory.is_action]
        assert trajectory.tokens == sampler.sessions[0].ledgers[row]
        assert [turn.action for turn in trajectory.turns] == [texts[row]] * 3
        assert [turn.num_tokens for turn in trajectory.turns] == [len(said[row])] * 3
        assert [turn.reward for turn in trajectory.turns] == [0.0, 0.0, 1.5]
        assert [turn.stop_reason for turn in trajectory.turns] == ["length" if row == 1 else "stop"] * 3
        assert trajectory.observations == [opening, "Lower!", "Lower!", "Lower!"]
        assert trajectory.reward_part("found") == 1.5
        assert trajectory.verdict == "wrong"
        assert trajectory.as_record()["prompt"] == [{"role": "user", "content": opening}]
    assert [group.task for group in groups] == ["", ""]
    assert sampler.calls == [({0, 1, 2, 3}, 4, 1.0)] * 3
    assert sampler.opened == [(2, 2, 70)]


def test_environments_without_messages_or_verdicts(scripted, renderer, words):
    sampler = scripted(lambda row, turn: [*words("50"), STOP])
    pool = EnvPool(CountDown)
    groups = rollouts(pool, sampler, renderer, seeds=range(6), group_size=3)
    lefts = [int(gym.utils.seeding.np_random(seed)[0].integers(1, 4, endpoint=True)) for seed in range(6)]
    assert len(set(lefts)) > 2
    for group, left in zip(groups, lefts, strict=True):
        for trajectory in group.trajectories:
            assert trajectory.observations == [str(n) for n in range(left, -1, -1)]
            assert trajectory.total_reward == 0.25 * left
            assert (trajectory.verdict, trajectory.is_scorable) == ("", True)
            assert [turn.action for turn in trajectory.turns] == ["50"] * left
    # A row leaves with the end of its episode.
    expected = [{3 * i + g for i in range(6) for g in range(3) if lefts[i] > turn} for turn in range(max(lefts))]
    assert [rows for rows, _, _ in sampler.calls] == expected
    assert pool.take(1)[0].unwrapped.heard == ["50"] * lefts[0]  # type: ignore[attr-defined]


def test_text_environments_of_gymnasium_work_through_make(scripted, renderer, words):
    gym.register("test_rollouts/CountDown-v0", entry_point=cast("Any", CountDown))
    pool = EnvPool(lambda: gym.make("test_rollouts/CountDown-v0", longest=2))
    [group] = rollouts(pool, scripted(lambda row, turn: [*words("50"), STOP]), renderer, seeds=[3])
    assert [t.total_reward for t in group.trajectories] == [0.25 * len(t.turns) for t in group.trajectories]
    pool.close()


def test_an_environment_that_truncates(scripted, renderer, words):
    pool = EnvPool(lambda: CountDown(truncates=True))
    sampler = scripted(lambda row, turn: [*words("50"), STOP])
    [group] = rollouts(pool, sampler, renderer, seeds=[0], options=[{"left": 2}])
    for trajectory in group.trajectories:
        assert [turn.stop_reason for turn in trajectory.turns] == ["stop", "env"]
        assert trajectory.total_reward == 0.5


class Whimsical(CountDown):
    """Draws from a source that the seed does not reach."""

    made = 0

    def __init__(self, *, in_info: bool) -> None:
        super().__init__()
        Whimsical.made += 1
        self.number, self.in_info = Whimsical.made, in_info

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        return ("1", {"secret": self.number}) if self.in_info else (str(self.number), {})


@pytest.mark.parametrize("in_info", [False, True])
def test_different_problems_for_one_seed_are_refused(scripted, renderer, words, in_info):
    pool = EnvPool(lambda: Whimsical(in_info=in_info))
    with pytest.raises(RuntimeError, match="two different problems for seed 11: not a group"):
        rollouts(pool, scripted(lambda row, turn: [STOP]), renderer, seeds=[11])


def test_waves_give_all_groups_in_order(scripted, renderer, words):
    made = []

    def make():
        made.append(CountDown())
        return made[-1]

    for max_rows, waves in ((4, [2, 2, 2, 1]), (5, [2, 2, 2, 1]), (1, [1] * 7), (100, [7])):
        sampler = scripted(lambda row, turn: [*words("50"), STOP])
        made.clear()
        groups = rollouts(
            EnvPool(make), sampler, renderer, seeds=range(20, 27), max_rows=max_rows,
            options=[{"left": n} for n in range(1, 8)],
        )  # fmt: skip
        assert [group.seed for group in groups] == list(range(20, 27))
        assert [[t.total_reward for t in group.trajectories] for group in groups] == [[n / 4] * 2 for n in range(1, 8)]
        assert [prompts for prompts, _, _ in sampler.opened] == waves
        assert len({seed for _, _, seed in sampler.opened}) == len(waves)  # no wave repeats another's chances
        assert len(made) == 2 * max(waves)  # environments are reused


def test_groups_come_as_soon_as_their_wave_is_played(scripted, renderer, words):
    sampler = scripted(lambda row, turn: [*words("50"), STOP])
    settings = RolloutSettings(group_size=2, max_tokens=4, temperature=1.0, context_length=128, max_rows=2)
    groups = rollout_groups(
        EnvPool(CountDown), sampler, renderer, seeds=range(3), settings=settings, sampling_seed=0, clock=RolloutClock()
    )
    assert next(groups).seed == 0
    assert len(sampler.opened) == 1


def test_a_full_context_ends_the_episode(scripted, renderer, words):
    # Opening "4" and <assistant>: 2 tokens. A turn: "50 <end>" and the feed "3 <assistant>": 4 more.
    sampler = scripted(lambda row, turn: [*words("50"), STOP])
    lengths = {}
    for context_length in (4, 6, 7, 10, 11, 15):
        [group] = rollouts(
            EnvPool(CountDown), sampler, renderer, seeds=[0], options=[{"left": 4}], context_length=context_length
        )
        for trajectory in group.trajectories:
            reasons = [turn.stop_reason for turn in trajectory.turns]
            lengths[context_length] = len(reasons)
            assert (
                reasons == ["stop"] * len(reasons) if len(reasons) == 4 else ["stop"] * (len(reasons) - 1) + ["length"]
            )
            assert trajectory.is_truncated == (len(reasons) < 4)
            assert trajectory.total_reward == 0.25 * len(reasons)
    # After n turns and feeds 2 + 4n tokens stand there; one more must fit.
    assert lengths == {4: 1, 6: 1, 7: 2, 10: 2, 11: 3, 15: 4}


def test_an_unscorable_episode_says_so(scripted, renderer, words):
    said = [[*words("60"), STOP], [*words("61"), STOP]]
    [group] = rollouts(EnvPool(Chat), scripted(lambda row, turn: said[row]), renderer, seeds=[0])
    assert [t.is_scorable for t in group.trajectories] == [False, True]
    assert [t.verdict for t in group.trajectories] == ["unscorable", "wrong"]
    assert [t.failure for t in group.trajectories] == [
        "verdict unscorable: the environment could not judge what was said",
        "",
    ]


def test_messages_or_the_observation():
    messages = [{"role": "system", "content": "x"}]
    assert messages_of("text", {"messages": messages}) == messages
    assert messages_of("text", {"messages": []}) == []
    assert messages_of("text", {}) == [{"role": "user", "content": "text"}]


def test_the_clock_counts_both_sides(scripted, renderer, words):
    clock = RolloutClock()
    rollouts(EnvPool(Chat), scripted(lambda row, turn: [STOP]), renderer, clock=clock)
    assert clock.sampling_seconds > 0.0
    assert clock.env_seconds > 0.0


def test_several_environments_in_one_batch(scripted, renderer, words):
    """Rows of all of them are sampled at once; each has environments and a name of its own."""
    made: list[str] = []

    def pool(name: str, longest: int) -> EnvPool[Any]:
        def make() -> CountDown:
            made.append(name)
            return CountDown(longest=longest)

        return EnvPool(make, name)

    problems = [Problem(0, 5), Problem(1, 5), Problem(1, 6, {"left": 3}), Problem(0, 7)]
    settings = RolloutSettings(2, 4, 1.0, 128)
    for max_rows, waves in ((512, 1), (4, 2)):
        sampler = scripted(lambda row, turn: [*words("50"), STOP])
        made.clear()
        pools = [pool("Short", 1), pool("Long", 4)]
        groups = list(
            roll_out(
                pools, sampler, renderer, problems=problems, sampling_seed=0,
                settings=dataclasses.replace(settings, max_rows=max_rows),
            )
        )  # fmt: skip
        assert [(group.task, group.seed) for group in groups] == [("Short", 5), ("Long", 5), ("Long", 6), ("Short", 7)]
        assert [len(t.turns) for t in groups[0].trajectories + groups[3].trajectories] == [1] * 4
        assert [len(t.turns) for t in groups[2].trajectories] == [3, 3]
        assert len(sampler.opened) == waves
        assert sorted(made) == (["Long"] * 4 + ["Short"] * 4 if waves == 1 else ["Long"] * 2 + ["Short"] * 2)


def test_the_cut_of_the_distribution_reaches_the_sampler(scripted, renderer, words):
    sampler = scripted(lambda row, turn: [STOP])
    settings = RolloutSettings(2, 4, 1.0, 128, top_p=0.9, top_k=7)
    list(rollout_groups(EnvPool(CountDown), sampler, renderer, seeds=[0], settings=settings, sampling_seed=0))
    assert sampler.cuts == {(0.9, 7)}
    rollouts(EnvPool(CountDown), sampler, renderer)
    assert sampler.cuts == {(0.9, 7), (1.0, 0)}


def test_how_far_it_is_is_told(scripted, renderer, words):
    told: list[tuple[str, int, int]] = []
    rollouts(
        EnvPool(CountDown), scripted(lambda row, turn: [STOP]), renderer, seeds=[1, 2], max_rows=2,
        options=[{"left": 2}, {"left": 1}], progress=lambda *now: told.append(now),
    )  # fmt: skip
    # Two episodes of two turns, then two of one. What the sampler says counts in an episode's first turn.
    assert told == [
        ("sampling", 0, 4), ("sampling", 2, 4), ("sampling", 0, 4),
        ("sampling", 0, 4), ("grading", 1, 4), ("grading", 2, 4), ("sampling", 2, 4),
        ("sampling", 2, 4), ("sampling", 4, 4), ("grading", 3, 4), ("grading", 4, 4), ("sampling", 4, 4),
    ]  # fmt: skip


def test_with_the_real_sampler_the_ledger_holds_its_logprobs(tiny_folder, load_policy, renderer):
    """Several turns of GuessNumber by a model that plays at random: what is trained on is what was sampled."""
    import torch

    policy = load_policy(tiny_folder)
    pool = EnvPool(lambda: gym.make("llm_envs:GuessNumber-v0", max_guesses=4))
    sampler = TorchSampler(policy, stop_tokens=renderer.stop_tokens)
    groups = rollouts(pool, sampler, renderer, group_size=3, max_rows=6)
    rows = [t for group in groups for t in group.trajectories]
    assert [len(group.trajectories) for group in groups] == [3, 3, 3]
    assert rows == [
        t for g in rollouts(pool, sampler, renderer, group_size=3, max_rows=6) for t in g.trajectories
    ]  # the same seeds give the same episodes
    for row in rows:
        assert sum(turn.num_tokens for turn in row.turns) == row.num_action_tokens > 0
    for row in rows:
        tokens = torch.tensor(row.tokens)
        with torch.no_grad():
            logprobs = policy.model(tokens[None]).logits[0].float().log_softmax(-1)  # [T, V]
        found = logprobs[:-1].gather(1, tokens[1:, None])[:, 0]  # of token t + 1
        sampled = torch.tensor(row.is_action[1:])
        assert float((found - torch.tensor(row.logprobs[1:]))[sampled].abs().max()) < 1e-4
    pool.close()


def test_the_renderer_is_asked_once_for_what_a_turn_left(renderer: Renderer, words):
    # A turn that was cut off gets the template's <end>; one that stopped does not get a second.
    cut = renderer.continuation([{"role": "user", "content": "Lower!"}], stopped=False)
    stopped = renderer.continuation([{"role": "user", "content": "Lower!"}], stopped=True)
    assert cut == [STOP, *stopped]


class Preparing(Chat):
    """Writes down when it is told what is coming, and when that comes."""

    log: list[tuple[str, str]] = []  # noqa: RUF012

    def prepare(self, action: str) -> None:
        Preparing.log.append(("prepare", action))

    def step(self, action):
        Preparing.log.append(("step", action))
        return super().step(action)  # type: ignore[no-untyped-call]


def test_all_are_told_what_is_coming_before_the_first_is_stepped(scripted, renderer, words):
    said = [[*words("50"), STOP], [*words("51"), STOP]]
    Preparing.log.clear()
    gym.register("test_rollouts/Preparing-v0", entry_point=cast("Any", Preparing))
    make = partial(gym.make, "test_rollouts/Preparing-v0", disable_env_checker=True)
    found = rollouts(EnvPool(make), scripted(lambda row, turn: said[row % 2]), renderer, seeds=[5])
    assert Preparing.log == [("prepare", "50"), ("prepare", "51"), ("step", "50"), ("step", "51")] * 3
    plain = rollouts(EnvPool(Chat), scripted(lambda row, turn: said[row % 2]), renderer, seeds=[5])
    assert found == plain
