"""Episodes of a made-up speaker."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import gymnasium as gym
import pytest

from trainers.chats import chat_groups
from trainers.environments import Breakage, BrokenEnvironmentError, EnvPool
from trainers.evaluation.greedy import summarize
from trainers.rendering import Message
from trainers.rollouts import RolloutClock, RolloutSettings
from trainers.sampling.endpoint import EndpointError, EndpointRefusedError
from trainers.sampling.openai_sampler import Reply

Answer = Reply | EndpointError
SETTINGS = RolloutSettings(group_size=1, max_tokens=9, temperature=0.0, context_length=0)


class MadeUpSpeaker:
    """Answers by `answer(chat)`; writes down what it was asked."""

    def __init__(self, answer: Callable[[Sequence[Message]], Answer] = lambda _: said("hello")) -> None:
        self.answer = answer
        self.chats: list[list[Message]] = []
        self.calls: list[tuple[int, dict[str, Any]]] = []

    def speak(self, chats: Sequence[Sequence[Message]], **options: Any) -> list[Answer]:
        self.calls.append((len(chats), options))
        self.chats += [list(chat) for chat in chats]
        return [self.answer(chat) for chat in chats]


def said(text: str) -> Reply:
    return Reply(text, 2, "stop")


def guessing(**options: Any) -> EnvPool[Any]:
    return EnvPool(lambda: gym.make("llm_envs:GuessNumber-v0", low=1, high=6, max_guesses=3, **options), "guess")


def halving(chat: Sequence[Message]) -> Answer:
    """Guesses 4, then 2 or 6: what an assistant said before stands in the chat."""
    guesses = [m["content"] for m in chat if m["role"] == "assistant"]
    if not guesses:
        return said("4")
    return said({"low": "6", "high": "2"}["low" if "higher" in chat[-1]["content"].lower() else "high"])


def test_episodes_are_chats():
    speaker, clock = MadeUpSpeaker(halving), RolloutClock()
    groups = chat_groups(
        guessing(), speaker, seeds=[0] * 3, settings=SETTINGS, options=[{"index": i} for i in (3, 1, 5)], clock=clock
    )
    played = [trajectory for group in groups for trajectory in group.trajectories]
    assert [[turn.action for turn in t.turns] for t in played] == [["4"], ["4", "2"], ["4", "6"]]
    assert [t.verdict for t in played] == ["correct"] * 3
    assert [[turn.num_tokens for turn in t.turns] for t in played] == [[2], [2, 2], [2, 2]]
    assert [len(t.observations) for t in played] == [2, 3, 3]
    assert played[0].tokens == []
    opening = [dict(message) for message in played[1].messages]
    assert speaker.chats[1] == opening
    assert speaker.chats[3] == [
        *opening, {"role": "assistant", "content": "4"}, {"role": "user", "content": played[1].observations[1]}
    ]  # fmt: skip
    assert speaker.calls == [
        (3, {"max_tokens": 9, "temperature": 0.0, "top_p": 1.0, "top_k": 0, "seed": 0}),
        (2, {"max_tokens": 9, "temperature": 0.0, "top_p": 1.0, "top_k": 0, "seed": 1}),
    ]
    assert summarize(played)["verdict_correct"] == 1.0
    assert clock.sampling_seconds > 0
    assert clock.env_seconds > 0


def test_groups_and_waves():
    speaker = MadeUpSpeaker(halving)
    settings = RolloutSettings(group_size=2, max_tokens=9, temperature=1.0, context_length=0, max_rows=4, top_p=0.9)
    groups = list(
        chat_groups(
            guessing(), speaker, seeds=[5, 6, 7], settings=settings, options=[{"index": 3}] * 3, sampling_seed=1
        )
    )
    assert [(g.seed, g.task, len(g.trajectories)) for g in groups] == [(s, "guess", 2) for s in (5, 6, 7)]
    assert [size for size, _ in speaker.calls] == [4, 2]
    assert len({options["seed"] for _, options in speaker.calls}) == 2
    assert {options["top_p"] for _, options in speaker.calls} == {0.9}


def test_an_answer_that_does_not_come_is_nobodys_mistake():
    answers: Iterator[Answer] = iter([said("4"), EndpointError("HTTP 400: no"), said("4")])
    breakage = Breakage()
    groups = chat_groups(
        guessing(), MadeUpSpeaker(lambda _: next(answers)), seeds=[0, 1, 2], settings=SETTINGS,
        options=[{"index": 3}] * 3, breakage=breakage,
    )  # fmt: skip
    played = [trajectory for group in groups for trajectory in group.trajectories]
    assert [t.is_scorable for t in played] == [True, False, True]
    assert played[1].failure == "EndpointError: HTTP 400: no"
    assert [broken.seed for broken in breakage.take()] == [1]
    assert summarize(played)["unscorable_share"] == pytest.approx(1 / 3)
    assert summarize(played)["return_mean"] == played[0].total_reward


def test_an_outage_ends_it_with_the_reason():
    down = MadeUpSpeaker(lambda _: EndpointError("on fire"))
    with pytest.raises(BrokenEnvironmentError, match=r"10 problems in a row.*EndpointError: on fire"):
        list(chat_groups(guessing(), down, seeds=range(12), settings=SETTINGS))

    def refuse(chat: Sequence[Message]) -> Answer:
        raise EndpointRefusedError("no such model")

    with pytest.raises(EndpointRefusedError, match="no such model"):
        list(chat_groups(guessing(), MadeUpSpeaker(refuse), seeds=range(12), settings=SETTINGS))


class Fragile(gym.Env[str, str]):
    """Breaks where it is told to; hears beforehand what is coming."""

    def __init__(self, where: str) -> None:
        self.where, self.heard = where, []  # type: ignore[var-annotated]

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        if self.where == "reset":
            raise OSError("broken")
        return "say something", {}

    def prepare(self, action: str) -> None:
        self.heard.append(action)
        if self.where == "prepare":
            raise OSError("broken")

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        assert self.heard == [action]
        if self.where == "step":
            raise OSError("broken")
        reward = float("nan") if self.where == "reward" else 1.0
        return (
            "",
            reward,
            True,
            self.where == "truncated",
            {"verdict": "unscorable" if self.where == "verdict" else "correct"},
        )


@pytest.mark.parametrize(
    ("where", "failure"),
    [
        ("prepare", "OSError: broken"),
        ("step", "OSError: broken"),
        ("reward", "ValueError: step gave the reward nan"),
        ("verdict", "verdict unscorable: the environment could not judge the action"),
    ],
)
def test_an_environment_that_breaks_ends_its_episode(where, failure):
    [group] = chat_groups(EnvPool(lambda: Fragile(where)), MadeUpSpeaker(), seeds=[0], settings=SETTINGS)
    [trajectory] = group.trajectories
    assert not trajectory.is_scorable
    assert trajectory.failure == failure
    assert [turn.action for turn in trajectory.turns] == ["hello"]


def test_an_environment_that_does_not_begin_gives_no_group():
    breakage = Breakage()
    speaker = MadeUpSpeaker()
    pool: EnvPool[Any] = EnvPool(lambda: Fragile("reset"))
    assert list(chat_groups(pool, speaker, seeds=[0], settings=SETTINGS, breakage=breakage)) == []
    assert [broken.reason for broken in breakage.take()] == ["OSError: broken"]
    assert speaker.calls == []


def test_an_end_from_outside_is_told_apart():
    [group] = chat_groups(EnvPool(lambda: Fragile("truncated")), MadeUpSpeaker(), seeds=[0], settings=SETTINGS)
    assert [turn.stop_reason for turn in group.trajectories[0].turns] == ["env"]
