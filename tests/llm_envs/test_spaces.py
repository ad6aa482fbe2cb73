import copy
import json
import pickle
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import utils
from hypothesis import given
from hypothesis import strategies as st

from llm_envs import AnyText

vectors: Any = utils  # typed for arrays only
ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=40)  # surrogates and null bytes, too


def test_membership():
    space = AnyText(3)
    assert all(text in space for text in ("", "abc", "\0", "\ud800", "\U0001f98a" * 3))
    assert not any(thing in space for thing in ("abcd", b"abc", 5, None))


def test_equality_and_repr():
    assert AnyText(3) == AnyText(3, seed=1)
    assert AnyText(3) != AnyText(4)
    assert AnyText(3) != gym.spaces.Text(3)
    assert hash(AnyText(3)) == hash(AnyText(3))
    assert repr(AnyText(3)) == "AnyText(3)"
    assert AnyText().max_length == 262_144


@pytest.mark.parametrize(
    ("max_length", "error"), [("3", TypeError), (3.0, TypeError), (-1, ValueError), (2**30, ValueError)]
)
def test_bad_lengths(max_length, error):
    with pytest.raises(error, match="max_length"):
        AnyText(max_length)


def test_samples_are_seeded_members():
    space = AnyText(50)
    space.seed(0)
    samples = [space.sample() for _ in range(200)]
    space.seed(0)
    assert [space.sample() for _ in range(200)] == samples
    assert all(sample in space for sample in samples)
    assert {len(sample) for sample in samples} == set(range(51))
    assert any("\ud800" <= char <= "\udfff" for char in "".join(samples))
    assert AnyText(0, seed=0).sample() == ""
    with pytest.raises(ValueError, match="mask"):
        space.sample(mask=(3, None))


def test_a_pickle_is_small():
    space = AnyText(seed=0)
    data = pickle.dumps(space)
    assert len(data) < 1_000
    copied = pickle.loads(data)
    assert copied == space
    assert copied.sample() == space.sample()


@given(st.lists(ANY_TEXT, max_size=3))
def test_json_round_trip(texts):
    space = AnyText()
    assert space.from_jsonable(json.loads(json.dumps(space.to_jsonable(texts)))) == texts


def test_a_surrogate_pair_survives_json():
    pair = "\ud83e\udd8a"  # two code points; JSON alone would make them one
    space = AnyText()
    assert json.loads(json.dumps(pair)) != pair
    assert space.from_jsonable(json.loads(json.dumps(space.to_jsonable([pair])))) == [pair]


@given(st.lists(ANY_TEXT, min_size=1, max_size=4))
def test_shared_memory_round_trip(texts):
    space = AnyText(40)
    memory = vectors.create_shared_memory(space, n=len(texts))
    view = vectors.read_from_shared_memory(space, memory, n=len(texts))
    assert copy.deepcopy(view) == ("",) * len(texts)
    for index in reversed(range(len(texts))):
        vectors.write_to_shared_memory(space, index, texts[index], memory)
    copied = copy.deepcopy(view)
    assert type(copied) is tuple
    assert copied == tuple(texts)


def test_the_view_is_live_and_its_copy_is_not():
    space = AnyText(10)
    memory = vectors.create_shared_memory(space, n=2)
    view = vectors.read_from_shared_memory(space, memory, n=2)
    vectors.write_to_shared_memory(space, 1, "old text", memory)
    before = copy.deepcopy(view)
    vectors.write_to_shared_memory(space, 1, "new", memory)
    assert before == ("", "old text")
    assert view == ("", "new")
    assert view[-1] == "new"
    assert view[:] == ("", "new")
    assert len(view) == 2
    assert repr(view) == "('', 'new')"
    with pytest.raises(IndexError):
        view[2]


def test_a_recycled_block_starts_empty():
    space = AnyText(1_000)
    for _ in range(5):
        memory = vectors.create_shared_memory(space, n=2)
        view = vectors.read_from_shared_memory(space, memory, n=2)
        assert copy.deepcopy(view) == ("", "")
        vectors.write_to_shared_memory(space, 0, "x" * 1_000, memory)
        vectors.write_to_shared_memory(space, 1, "\U0001f98a" * 1_000, memory)
        assert copy.deepcopy(view) == ("x" * 1_000, "\U0001f98a" * 1_000)


def test_what_does_not_fit_is_refused():
    memory = vectors.create_shared_memory(AnyText(3), n=1)
    with pytest.raises(ValueError, match=r"4 code points does not fit into AnyText\(3\).*observation_space"):
        vectors.write_to_shared_memory(AnyText(3), 0, "four", memory)
    with pytest.raises(TypeError, match="holds str, got int"):
        vectors.write_to_shared_memory(AnyText(3), 0, 5, memory)


def test_the_other_vector_functions():
    space = AnyText(5, seed=0)
    batched = vectors.batch_space(space, 2)
    assert ("a", "b") in batched
    assert batched.sample() in batched
    assert list(vectors.iterate(batched, ("a", "b"))) == ["a", "b"]
    assert vectors.concatenate(space, ["a", "b"], vectors.create_empty_array(space, 2)) == ("a", "b")


class Nested(gym.Env):
    """Text inside a dictionary, beside a number."""

    observation_space = gym.spaces.Dict(text=AnyText(20), number=gym.spaces.Discrete(10))
    action_space = AnyText(20)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return {"text": f"seed {seed}", "number": 3}, {}

    def step(self, action):
        return {"text": action * 2, "number": 4}, 0.0, False, False, {}


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_async_vectors_of_nested_text(context):
    env = gym.vector.AsyncVectorEnv([Nested, Nested], context=context)
    try:
        first, _ = env.reset(seed=5)
        second = env.step(("a", "\ud800"))[0]
        assert first["text"] == ("seed 5", "seed 6")
        assert second["text"] == ("aa", "\ud800\ud800")
        assert np.array_equal(second["number"], [4, 4])
    finally:
        env.close()
