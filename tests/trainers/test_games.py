"""Games of several players against a sampler that says what the test tells it, in a game that is none of ours."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from pettingzoo import AECEnv

from trainers.environments import Breakage
from trainers.games import SELF, Lineup, make_game, observed, play_games
from trainers.rollouts import EnvPool, RolloutClock, RolloutSettings
from trainers.trajectories import Group

STOP = 3  # <end> of the tiny tokenizer
GAME = Lineup(0)
SETTINGS = RolloutSettings(group_size=2, max_tokens=4, temperature=0.7, context_length=128)


@dataclass(frozen=True)
class Ask:
    """A move of the plot: who is asked what, what everybody is paid for it, and who is out after it."""

    agent: str
    text: str
    pay: dict[str, float] = field(default_factory=dict)
    out: tuple[str, ...] = ()


class Story(AECEnv):  # type: ignore[misc]
    """Follows one of its plots, chosen by the seed, whatever is said. Who waits sees "Lower!"."""

    def __init__(self, *plots: list[Ask], agents: str = "ab", truncates: bool = False, form: str = "str") -> None:
        super().__init__()
        self.plots, self.truncates, self.form = plots, truncates, form
        self.possible_agents = list(agents)
        self.metadata = {"name": "story"}

    def reset(self, seed: int | None = None, options: Any = None) -> None:
        self.plot, self.at = self.plots[(seed or 0) % len(self.plots)], 0
        self.heard: list[tuple[str, str]] = []
        self.agents = self.possible_agents[:]
        self.rewards = dict.fromkeys(self.agents, 0.0)
        self._cumulative_rewards = dict.fromkeys(self.agents, 0.0)
        self.terminations = dict.fromkeys(self.agents, False)
        self.truncations = dict.fromkeys(self.agents, False)
        self.infos: dict[str, Any] = {agent: {} for agent in self.agents}
        self._skip_agent_selection = None
        self.agent_selection = self.plot[0].agent
        self._tell()

    def text(self, agent: str) -> str:
        if self.terminations[agent] or self.truncations[agent]:
            return "Correct!"
        return self.plot[self.at].text if agent == self.agent_selection else "Lower!"

    def observe(self, agent: str) -> Any:
        return {"text": self.text(agent), "action_mask": np.ones(3)} if self.form == "mapping" else self.text(agent)

    def step(self, action: str | None) -> None:
        agent = self.agent_selection
        if self.terminations[agent] or self.truncations[agent]:
            self._was_dead_step(action)
            return
        assert action is not None
        self.heard.append((agent, action))
        ask, self.at = self.plot[self.at], self.at + 1
        over = self.at == len(self.plot)
        self._cumulative_rewards[agent] = 0.0
        self.rewards = {name: ask.pay.get(name, 0.0) for name in self.agents}
        self._accumulate_rewards()
        self.infos[agent] |= {"verdict": f"heard {len(self.heard)}", "reward_parts": {"said": float(len(action))}}
        for name in self.agents:
            self.terminations[name] = name in ask.out or (over and not self.truncates)
            self.truncations[name] = over and self.truncates
        self.agent_selection = agent if over else self.plot[self.at].agent
        self._deads_step_first()
        self._tell()

    def _tell(self) -> None:
        if self.form == "messages":
            for agent in self.agents:
                said = [("system", "Say one"), ("user", self.text(agent))]
                self.infos[agent]["messages"] = [{"role": role, "content": content} for role, content in said]


class Echo:
    """A scripted player: says the last word of what it sees, and remembers how it began."""

    def __init__(self, seed: int) -> None:
        self.seed, self.begun, self.seen = seed, [], []  # type: ignore[var-annotated]

    def reset(self, observation: str, info: Any) -> None:
        self.begun.append((observation, dict(info)))

    def act(self, observation: str) -> str:
        self.seen.append(observation)
        return observation.split()[-1]


class Others:
    """Opponents: `echo` is scripted, any other name a model's."""

    def __init__(self) -> None:
        self.players: list[Echo] = []
        self.now, self.played = SELF, []  # type: ignore[var-annotated]

    def scripted(self, name: str, env: AECEnv, *, seed: int) -> Echo | None:
        if name != "echo":
            return None
        self.players.append(Echo(seed))
        return self.players[-1]

    @contextmanager
    def playing(self, name: str) -> Iterator[None]:
        self.now, before = name, self.now
        self.played.append(name)
        yield
        self.now = before


def asks(*moves: str) -> list[Ask]:
    """A plot out of "a 50": who is asked, and what."""
    return [Ask(move[0], move[2:]) for move in moves]


# a earns 0.25 and 0.5 by its first words and 2 by its second; b is paid 8 before it has said anything.
PLOT = [
    Ask("a", "Higher! 1", {"a": 0.25, "b": 8.0}),
    Ask("b", "Higher! 2", {"a": 0.5, "b": 1.0}),
    Ask("a", "3", {"b": -1.0}),
    Ask("b", "4", {"a": 2.0, "b": 3.0}),
]


@pytest.fixture
def table(scripted, renderer, tokenizer):
    """Play, with a sampler whose rows say what is given; it is left in `table.sampler`, the games in `table.envs`."""

    class Table:
        def __init__(self) -> None:
            self.scripted, self.renderer = scripted, renderer

        def __call__(self, *plots, lineups=(GAME,), said=("50",), settings=SETTINGS, others=None, **game):
            spoken = [self.tokens(text) for text in said]
            self.sampler = scripted(lambda row, call: spoken[row % len(spoken)])
            self.envs: list[Story] = []
            self.others = others or Others()
            pool = EnvPool(lambda: self.keep(Story(*plots, **game)))
            self.groups: list[Group] = list(
                play_games(
                    pool, self.sampler, renderer, self.others, lineups=lineups, settings=settings, sampling_seed=70
                )
            )
            return self.groups

        def keep(self, env: Story) -> Story:
            self.envs.append(env)
            return env

        def tokens(self, text: str) -> list[int]:
            # A text that ends in "..." is cut off; any other ends with <end>.
            spoken = tokenizer.encode(text.removesuffix("..."), add_special_tokens=False)
            return list(spoken) if text.endswith("...") else [*spoken, STOP]

    return Table()


def rewards(group: Group) -> list[list[float]]:
    return [[turn.reward for turn in t.turns] for t in group.trajectories]


@pytest.mark.parametrize("form", ["str", "mapping"])
def test_the_ledger_of_each_seat_and_its_rewards(table, tokenizer, form):
    groups = table(PLOT, said=("50", "51 52...", "53 54", ""), form=form)
    assert [(group.seed, group.agent, group.opponent) for group in groups] == [(0, "a", SELF), (0, "b", SELF)]
    # Rows 0 and 1 are a's of the two games, 2 and 3 are b's. The template ends what was cut off.
    texts = [
        "Higher! 1 <assistant> 50 <end> 3 <assistant> 50 <end>",
        "Higher! 1 <assistant> 51 52 <end> 3 <assistant> 51 52",
        "Higher! 2 <assistant> 53 54 <end> 4 <assistant> 53 54 <end>",
        "Higher! 2 <assistant> <end> 4 <assistant> <end>",
    ]
    rows = [t for group in groups for t in group.trajectories]
    for row, trajectory in enumerate(rows):
        assert tokenizer.decode(trajectory.tokens) == texts[row]
        spoken = table.tokens(("50", "51 52...", "53 54", "")[row])
        assert [t for t, flag in zip(trajectory.tokens, trajectory.is_action, strict=True) if flag] == spoken * 2
        assert trajectory.logprobs == [-0.5 if flag else 0.0 for flag in trajectory.is_action]
        assert trajectory.tokens == table.sampler.sessions[0].ledgers[row]  # fed and sampled, nothing tokenised again
        assert [turn.num_tokens for turn in trajectory.turns] == [len(spoken)] * 2
        assert [turn.action for turn in trajectory.turns] == [("50", "51 52", "53 54", "")[row]] * 2
        assert [turn.stop_reason for turn in trajectory.turns] == ["length" if row == 1 else "stop"] * 2
        assert [turn.verdict for turn in trajectory.turns] == (["heard 1", "heard 3"], ["heard 2", "heard 4"])[row // 2]
        length = float(len(("50", "51 52", "53 54", "")[row]))
        assert [turn.reward_parts for turn in trajectory.turns] == [{"said": length}] * 2
        assert trajectory.observations == (["Higher! 1", "3", "Correct!"], ["Higher! 2", "4", "Correct!"])[row // 2]
    assert rewards(groups[0]) == [[0.75, 2.0]] * 2
    assert rewards(groups[1]) == [[0.0, 3.0]] * 2  # its 8 came before it had said anything
    assert groups[0].games[0]["returns"] == {"a": 2.75, "b": 11.0}


def test_messages_are_what_is_rendered(table, tokenizer):
    [first, _] = table(PLOT, form="messages")
    turn = "Say one {} <assistant> 50 <end>"
    assert tokenizer.decode(first.trajectories[0].tokens) == f"{turn.format('Higher! 1')} {turn.format('3')}"
    opening = [{"role": "system", "content": "Say one"}, {"role": "user", "content": "Higher! 1"}]
    assert [list(trajectory.messages) for trajectory in first.trajectories] == [opening] * 2
    assert first.trajectories[0].observations[:2] == ["Higher! 1", "3"]


def test_everybodys_turn_is_one_pass_of_the_sampler(table):
    """Games at different plies, and a player who moves twice in a row: whoever is to move speaks in the same pass."""
    plots = asks("a 1", "b 2", "a 3"), asks("b 4", "b 5", "a 6"), asks("b 1", "a 2", "b 3", "a 4")
    table(*plots, lineups=[Lineup(seed) for seed in range(3)])
    # Rows in the order in which seats first speak: a of game 0, b of game 1, b of game 2 (two games each); then b, a.
    assert table.sampler.opened == [(6, 1, 70 * 31)]
    assert table.sampler.calls == [
        ({0, 1, 2, 3, 4, 5}, 4, 0.7),
        ({6, 7, 2, 3, 8, 9}, 4, 0.7),  # b of game 0 begins, b of game 1 goes on, a of game 2 begins
        ({0, 1, 10, 11, 4, 5}, 4, 0.7),
        ({8, 9}, 4, 0.7),
    ]
    assert [(group.seed, group.agent) for group in table.groups] == [(s, a) for s in range(3) for a in "ab"]
    assert [len(group.trajectories[0].turns) for group in table.groups] == [2, 1, 1, 2, 2, 2]
    for env, plot in zip(table.envs, np.repeat(np.array(plots, dtype=object), 2), strict=True):
        assert env.heard == [(ask.agent, "50") for ask in plot]


def test_three_players_of_whom_one_is_out_before_it_ever_moved(table):
    plot = [
        Ask("a", "1", {"a": 1.0, "c": -1.0}, out=("c",)),
        Ask("b", "2", {"a": 2.0, "b": 4.0}, out=("a",)),
        Ask("b", "3", {"b": 0.5}),
    ]
    a, b, c = table(plot, agents="abc")
    assert (a.agent, b.agent, c.agent) == ("a", "b", "c")
    assert (rewards(a), rewards(b), rewards(c)) == ([[3.0]] * 2, [[4.0, 0.5]] * 2, [[], []])
    for trajectory in c.trajectories:
        assert (trajectory.tokens, trajectory.observations, trajectory.total_reward) == ([], ["Correct!"], 0.0)
    assert a.games[0]["returns"] == {"a": 3.0, "b": 4.5, "c": -1.0}
    assert [rows for rows, _, _ in table.sampler.calls] == [{0, 1}, {2, 3}, {2, 3}]


def test_a_game_that_is_cut_off_from_outside(table):
    a, b = table(PLOT, truncates=True)
    for trajectory in (*a.trajectories, *b.trajectories):
        assert [turn.stop_reason for turn in trajectory.turns] == ["stop", "env"]
    assert rewards(a) == [[0.75, 2.0]] * 2


def replay(env: AECEnv, record: dict[str, Any]) -> None:
    """Play a record again; all that it says must come true."""
    env.reset(seed=record["seed"])
    returns, endings = dict.fromkeys(env.possible_agents, 0.0), {}
    moves = iter(zip(record["agents"], record["observations"], record["actions"], strict=True))
    while env.agents:
        agent = env.agent_selection
        _, reward, terminated, truncated, _ = env.last()
        returns[agent] += reward
        endings[agent] = observed(env)[0]
        if terminated or truncated:
            env.step(None)
        else:
            mover, observation, action = next(moves)
            assert (mover, observation) == (agent, endings[agent])
            env.step(action)
    assert next(moves, None) is None
    assert record["returns"] == returns
    assert record["endings"] == endings


@pytest.mark.parametrize("opponent", [SELF, "echo", "base"])
def test_records_can_be_played_again(table, opponent):
    [group, *_] = table(PLOT, said=("50", "51", "52"), lineups=[Lineup(0, opponent, 1)])
    assert group.as_records() == group.games
    assert len(group.games) == 2
    for record in group.games:
        assert list(record) == ["seed", "players", "agents", "observations", "actions", "returns", "endings"]
        assert record["players"] == {"a": opponent, "b": SELF}
        assert record["agents"] == ["a", "b", "a", "b"]
        assert record["observations"] == ["Higher! 1", "Higher! 2", "3", "4"]
        replay(Story(PLOT), record)
    assert [record["actions"][0] for record in group.games] == (["1", "1"] if opponent == "echo" else ["50", "51"])


def test_scripted_opponents(table):
    others = Others()
    lineups = [Lineup(0, "echo", seat=0), Lineup(0, "echo", seat=2)]
    plot = [*asks("a 1", "b Higher! 2", "c 3", "a 4", "b 5", "c 6")]
    groups = table(plot, agents="abc", lineups=lineups, others=others)
    assert [(group.agent, group.opponent) for group in groups] == [("a", "echo"), ("c", "echo")]
    assert [rows for rows, _, _ in table.sampler.calls] == [{0, 1, 2, 3}, {0, 1, 2, 3}]  # models only
    assert [env.heard[1] for env in table.envs] == [("b", "2")] * 4
    assert [player.begun for player in others.players[:2]] == [[("Higher! 2", {})], [("3", {})]]
    assert others.players[0].seen == ["Higher! 2", "5"]
    assert len({player.seed for player in others.players}) == len(others.players) == 8  # chances of their own
    again = Others()
    table(plot, agents="abc", lineups=lineups, others=again)
    assert [player.seed for player in again.players] == [player.seed for player in others.players]


def test_each_model_samples_in_a_session_of_its_own(table, scripted, renderer):
    """Their keys and values must never meet; and what they do is done inside of `playing`."""
    others, speakers = Others(), []

    def say(row: int, call: int) -> list[int]:
        speakers.append(others.now)
        return [STOP]

    lineups = [Lineup(0, "base", 0), Lineup(0, SELF), Lineup(0, "past 10", 1), Lineup(0, "base", 1)]
    sampler = scripted(say)
    groups = list(
        play_games(
            EnvPool(lambda: Story(PLOT)), sampler, renderer, others, lineups=lineups, sampling_seed=7,
            settings=replace(SETTINGS, group_size=1, opponent_temperature=0.0),
        )
    )  # fmt: skip
    assert [(g.agent, g.opponent) for g in groups] == [
        ("a", "base"), ("a", SELF), ("b", SELF), ("b", "past 10"), ("b", "base"),
    ]  # fmt: skip
    # Each ply: who plays a in the four games, then who plays b.
    assert sampler.opened == [(2, 1, 7 * 31), (1, 1, 7 * 31 + 1), (1, 1, 7 * 31 + 2)]
    assert [len(session.ledgers) for session in sampler.sessions] == [2 + 3, 1, 1 + 1]
    assert others.played == ["past 10", "base", "base"] * 2
    by_model = [(0.7, 2), (0.0, 1), (0.0, 1), (0.0, 1), (0.7, 3)]
    assert [(temperature, len(rows)) for rows, _, temperature in sampler.calls] == by_model * 2
    assert speakers == [SELF, SELF, "past 10", "base", "base", SELF, SELF, SELF] * 2


def test_a_full_context_falls_silent(table):
    # a: opening "1 <assistant>" is 2 tokens; a turn "50 <end>" and a feed "2 <assistant>" 2 more each.
    plot = [
        Ask("a", "1", {"a": 1.0}), Ask("b", "1"), Ask("a", "2", {"a": 2.0}), Ask("a", "3", {"a": 4.0}), Ask("b", "2"),
    ]  # fmt: skip
    endings = {11: ["stop"] * 3, 10: ["stop", "length"], 7: ["stop", "length"], 6: ["length"], 2: []}
    for context_length, reasons in endings.items():
        turns = len(reasons)
        a, b = table(plot, settings=replace(SETTINGS, context_length=context_length))
        for trajectory, other in zip(a.trajectories, b.trajectories, strict=True):
            assert [turn.stop_reason for turn in trajectory.turns] == reasons
            # What came of its silence is what its last words led to.
            assert trajectory.total_reward == (7.0 if turns else 0.0)
            assert len(trajectory.observations) == 4
            assert trajectory.verdict == ("heard 4" if turns else "")
            assert len(trajectory.tokens) == max(0, 4 * turns)
            assert len(other.turns) == min(2, turns)
        said = ["50"] * turns + [""] * (3 - turns)
        assert [action for agent, action in table.envs[0].heard if agent == "a"] == said
        assert a.games[0]["returns"]["a"] == 7.0
    assert table.sampler.calls == []  # not even the opening left room
    assert table.sampler.opened == []


@pytest.mark.parametrize(
    ("agents", "max_rows", "waves"),
    [("ab", 4, [1] * 5), ("ab", 8, [2, 2, 1]), ("ab", 11, [2, 2, 1]), ("ab", 20, [5]), ("ab", 1, [1] * 5),
     ("abc", 11, [1] * 5), ("abc", 12, [2, 2, 1]), ("abc", 512, [5])],
)  # fmt: skip
def test_waves_give_the_same_games_in_order(table, agents, max_rows, waves):
    plots = [asks("a 1", "b 2", "a 3"), asks("b 4", "a 5")]
    lineups = [Lineup(seed, SELF if seed % 2 else "echo", seed % 2) for seed in range(5)]
    expected = table(*plots, agents=agents, lineups=lineups)
    found = table(*plots, agents=agents, lineups=lineups, settings=replace(SETTINGS, max_rows=max_rows))
    assert found == expected
    # The echo of seeds 0, 2 and 4 leaves one seat in two (or three) to the sampler, whose first pass has all seeds.
    assert [prompts for prompts, _, _ in table.sampler.opened] == [2 * wave for wave in waves]
    assert len({seed for _, _, seed in table.sampler.opened}) == len(waves)  # no wave repeats another's chances
    assert len(table.envs) == 2 * max(waves)  # environments are reused


def test_groups_come_as_soon_as_their_wave_is_played(scripted, renderer):
    clock, sampler = RolloutClock(), scripted(lambda row, call: [STOP])
    groups = play_games(
        EnvPool(lambda: Story(PLOT)), sampler, renderer, Others(), lineups=[Lineup(0), Lineup(1)],
        settings=replace(SETTINGS, max_rows=4), sampling_seed=0, clock=clock,
    )  # fmt: skip
    assert next(groups).agent == "a"
    assert len(sampler.opened) == 1
    assert clock.sampling_seconds > 0.0
    assert clock.env_seconds > 0.0


def test_games_that_begin_differently_are_no_group(scripted, renderer):
    made = iter([Story(asks("a 1", "b 2")), Story(asks("b 1", "a 2"))])
    with pytest.raises(RuntimeError, match="began in two different ways for seed 5: not a group"):
        list(
            play_games(
                EnvPool(lambda: next(made)), scripted(lambda row, call: [STOP]), renderer, Others(),
                lineups=[Lineup(5)], settings=SETTINGS, sampling_seed=0,
            )
        )  # fmt: skip


def test_make_game():
    game = make_game("llm_envs:TicTacToe-v0", illegal_penalty=-3.0)
    assert game.unwrapped.illegal_penalty == -3.0
    game.reset(seed=0)
    text, messages = observed(game)
    assert text.startswith("Tic-tac-toe. You are X.")
    assert messages == [{"role": "user", "content": text}]
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        make_game("no_such_module:X-v0")


def test_a_side_that_cannot_be_judged_says_why(table):
    """The game goes on, and the other side is judged as ever."""

    class Unjudged(Story):
        def step(self, action: str | None) -> None:
            super().step(action)
            if "a" in self.infos:
                self.infos["a"] |= {"verdict": "unscorable", "reason": "no referee"}

    pool = EnvPool(lambda: Unjudged(PLOT))
    breakage = Breakage()
    a, b = play_games(
        pool, table.scripted(lambda row, call: [STOP]), table.renderer, Others(), lineups=[GAME], settings=SETTINGS,
        sampling_seed=0, breakage=breakage,
    )  # fmt: skip
    assert [(t.failure, t.is_scorable) for t in a.trajectories] == [("verdict unscorable: no referee", False)] * 2
    assert [(t.failure, t.is_scorable) for t in b.trajectories] == [("", True)] * 2
    assert rewards(b) == [[0.0, 3.0]] * 2
    assert [broken.reason for broken in breakage.take()] == ["verdict unscorable: no referee"] * 2


def test_the_cut_of_the_distribution_reaches_the_sampler(table):
    table(PLOT, settings=replace(SETTINGS, top_p=0.5, top_k=3))
    assert table.sampler.cuts == {(0.5, 3)}


def test_a_game_that_breaks_is_unscorable_for_who_is_out_already(table):
    class Breaking(Story):
        def step(self, action: str | None) -> None:
            if self.at == 2 and action is not None:
                raise OSError("gone")
            super().step(action)

    plot = [Ask("a", "1", {"a": 1.0}), Ask("b", "2", out=("a",)), Ask("b", "3")]
    a, b = play_games(
        EnvPool(lambda: Breaking(plot)), table.scripted(lambda row, call: [STOP]), table.renderer, Others(),
        lineups=[GAME], settings=SETTINGS, sampling_seed=0,
    )  # fmt: skip
    for trajectory in (*a.trajectories, *b.trajectories):
        assert (trajectory.verdict, trajectory.is_scorable, trajectory.failure) == (
            "unscorable",
            False,
            "OSError: gone",
        )
    assert [len(t.turns) for t in a.trajectories + b.trajectories] == [1, 1, 2, 2]
