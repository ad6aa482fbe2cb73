"""The ledger."""

import json
import random
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

from trainers.trajectories import Completion, Group, Trajectory, Turn, token_record, token_texts


def turn(**changes: Any) -> Turn:
    found: dict[str, Any] = {
        "action": "50", "num_tokens": 2, "reward": 1.0, "stop_reason": "stop", "verdict": "wrong",
        "reward_parts": {"found": 1.0},
    }  # fmt: skip
    return Turn(**{**found, **changes})


def test_the_ledger_only_grows():
    trajectory = Trajectory(seed=7)
    trajectory.append_prompt([5, 6])
    trajectory.append_completion(Completion([8, 9], [-0.1, -0.2], "stop"))
    trajectory.append_prompt((7,))
    trajectory.append_completion(Completion([3], [-0.3], "length"))
    assert trajectory.tokens == [5, 6, 8, 9, 7, 3]
    assert trajectory.logprobs == [0.0, 0.0, -0.1, -0.2, 0.0, -0.3]
    assert trajectory.is_action == [False, False, True, True, False, True]
    assert trajectory.num_action_tokens == 3


def test_a_completion_has_one_logprob_a_token():
    with pytest.raises(ValueError, match="2 tokens but 1 logprobs"):
        Completion([1, 2], [-0.5], "stop")


def test_sums_over_turns():
    trajectory = Trajectory(seed=0)
    assert (trajectory.total_reward, trajectory.verdict, trajectory.is_scorable) == (0.0, "", True)
    trajectory.turns = [
        turn(reward=0.5, reward_parts={"found": 0.75, "format": -0.25}),
        turn(reward=2.0, reward_parts={"found": 2.0}, verdict="correct"),
    ]
    assert trajectory.total_reward == 2.5
    assert trajectory.reward_part("found") == 2.75
    assert trajectory.reward_part("format") == -0.25
    assert trajectory.reward_part("speed") == 0.0
    assert trajectory.verdict == "correct"


def test_one_unscorable_turn_makes_the_episode_unscorable():
    trajectory = Trajectory(seed=0, turns=[turn(verdict="unscorable"), turn()])
    assert not trajectory.is_scorable
    assert Trajectory(seed=0, turns=[turn(), turn()]).is_scorable


@pytest.mark.parametrize(("reason", "truncated"), [("stop", False), ("length", True), ("env", True)])
def test_truncated_where_a_turn_did_not_end_by_itself(reason, truncated):
    assert Trajectory(seed=0, turns=[turn(), turn(stop_reason=reason), turn()]).is_truncated is truncated


def test_an_episode_that_breaks_off():
    trajectory = Trajectory(seed=0, observations=["Guess!", "Higher!"], turns=[turn(reward=0.5)])
    trajectory.break_off("60", 3, "OSError: gone")
    assert trajectory.turns[1] == Turn("60", 3, 0.0, "env", "unscorable", {})
    assert trajectory.observations == ["Guess!", "Higher!", ""]
    assert (trajectory.is_scorable, trajectory.verdict, trajectory.total_reward) == (False, "unscorable", 0.5)
    assert trajectory.as_record()["failure"] == "OSError: gone"
    assert not Trajectory(seed=0, failure="OSError: gone").is_scorable  # before it said anything


def test_the_record_is_json():
    messages = ({"role": "system", "content": "Be brief."}, {"role": "user", "content": "Guess!"})
    trajectory = Trajectory(
        seed=3, observations=["Guess!", "Higher! \ud800"], turns=[turn(reward_parts={"found": 1.5})], messages=messages
    )
    trajectory.append_completion(Completion([1, 2], [-1.0, -1.0], "stop"))
    assert json.loads(json.dumps(trajectory.as_record())) == {
        "seed": 3,
        "return": 1.0,
        "prompt": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Guess!"}],
        "observations": ["Guess!", "Higher! \ud800"],
        "actions": ["50"],
        "rewards": [1.0],
        "verdicts": ["wrong"],
        "stop_reasons": ["stop"],
        "reward_parts": [{"found": 1.5}],
        "action_tokens": 2,
    }


def test_a_groups_records_are_its_episodes_or_the_whole_games():
    rows = [Trajectory(seed=3, observations=[f"try {i}"]) for i in range(2)]
    assert Group(3, rows).as_records() == [row.as_record() for row in rows]
    games = [{"seed": 3, "agents": ["a"]}, {"seed": 3, "agents": ["b"]}]
    assert Group(3, rows, agent="a", opponent="self", games=games).as_records() == games


# --- Tokens as text ---

LETTERS = "abcdefgh"


def decode_letters(tokens: list[int]) -> str:
    return "".join(LETTERS[token] for token in tokens)


def test_the_tokens_of_an_episode_turn_by_turn():
    trajectory = Trajectory(seed=0, turns=[turn(num_tokens=2), turn(num_tokens=1)])
    trajectory.append_prompt([7, 7])
    trajectory.append_completion(Completion([0, 1], [-0.1, -0.2], "stop"))
    trajectory.append_prompt([6])
    trajectory.append_completion(Completion([2], [-0.3], "stop"))
    plain = {"token_texts": [["a", "b"], ["c"]], "token_logprobs": [[-0.1, -0.2], [-0.3]]}
    assert token_record(trajectory, decode_letters) == plain
    learnt = token_record(trajectory, decode_letters, token_advantages=[0.5, 0.25, -1.0], turn_advantages=[0.5, -1.0])
    assert learnt == {**plain, "token_advantages": [[0.5, 0.25], [-1.0]], "advantages": [0.5, -1.0]}
    assert json.loads(json.dumps(learnt)) == learnt
    with pytest.raises(ValueError, match="2 advantages for 3 sampled tokens"):
        token_record(trajectory, decode_letters, token_advantages=[0.5, 0.25])


def byte_tokenizer(*merged: str) -> Tokenizer:
    """A token a byte, and some of several bytes."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {word: i for i, word in enumerate(letters + list(merged))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=letters[0]))
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def bytes_of(tokenizer: Tokenizer, text: str) -> list[int]:
    """`text` in tokens of one byte each."""
    spelled = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(text)[0][0]
    return [int(str(tokenizer.token_to_id(letter))) for letter in spelled]


def test_a_character_of_several_tokens_goes_to_the_one_that_completes_it():
    tokenizer = byte_tokenizer()
    assert token_texts(bytes_of(tokenizer, "a\u00e9b"), tokenizer.decode) == ["a", "", "\u00e9", "b"]
    assert token_texts(bytes_of(tokenizer, "\U0001f600!"), tokenizer.decode) == ["", "", "", "\U0001f600", "!"]
    cut_off = bytes_of(tokenizer, "a\U0001f600")[:3]
    assert "".join(token_texts(cut_off, tokenizer.decode)) == tokenizer.decode(cut_off) == "a\ufffd"
    assert token_texts([], tokenizer.decode) == []


def test_bytes_that_are_no_character_are_shown_as_such():
    tokenizer = byte_tokenizer()
    first, second = bytes_of(tokenizer, "\u00e9")
    broken = [first, *bytes_of(tokenizer, "x"), second, second]
    assert tokenizer.decode(broken) == "\ufffdx\ufffd\ufffd"
    assert token_texts(broken, tokenizer.decode) == ["\ufffd", "x", "\ufffd", "\ufffd"]


def test_pieces_are_the_text_whatever_the_tokens():
    tokenizer = byte_tokenizer()
    chance = random.Random(0)
    for _ in range(50):
        tokens = [chance.randrange(256) for _ in range(chance.randrange(1, 200))]
        pieces = token_texts(tokens, tokenizer.decode)
        assert len(pieces) == len(tokens)
        assert "".join(pieces) == tokenizer.decode(tokens)


def test_long_texts_are_cut_as_short_ones_are():
    tokenizer = byte_tokenizer()
    text = "The \u20ac costs \u00e9\u00e8 \U0001f600. "
    short = token_texts(bytes_of(tokenizer, text), tokenizer.decode)
    assert token_texts(bytes_of(tokenizer, text * 20), tokenizer.decode) == short * 20


def test_a_tokenizer_that_drops_the_space_at_the_beginning():
    """As those of the sentencepiece kind do: nowhere but at the beginning does their text begin anew."""
    tokenizer = Tokenizer(models.WordLevel({"\u2581the": 0, "\u2581cat": 1, "s": 2}, unk_token="s"))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.decoder = decoders.Metaspace()
    assert token_texts([0, 1, 2] * 40, tokenizer.decode) == ["the", " cat", "s", *[" the", " cat", "s"] * 39]


def test_long_texts_take_a_time_that_grows_with_their_length():
    calls = []

    def decode(tokens: list[int]) -> str:
        calls.append(len(tokens))
        return decode_letters(tokens)

    token_texts([i % 8 for i in range(2000)], decode)
    assert max(calls[1:-1]) < 2000
    assert sum(calls) < 2000 * 60  # and not 2000 * 1000


def test_a_text_that_changes_as_it_grows_is_cut_in_order():
    """As where the tokenizer tidies up the space before a mark."""
    by_length = {1: "a", 2: "ab", 3: "x", 4: "abc"}
    assert token_texts([0, 0, 0, 0], lambda tokens: by_length[len(tokens)]) == ["a", "b", "", "c"]
