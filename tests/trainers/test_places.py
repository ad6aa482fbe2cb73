"""More rows than places to sample in: who ends makes room, who waits loses nothing, and memory is bounded."""

import pytest

from tests.trainers.sampled import NO_SUCH_TOKEN, STOP, Watched, largest_gap, many_rows, recompute
from trainers.sampling import TorchSampler


@pytest.mark.parametrize("max_rows", [1, 5, 7, 39, 40, 512])
@pytest.mark.parametrize("family", ["gqa", "gpt2"])
def test_more_rows_than_places(family_folder, load_policy, family, max_rows):
    policy = load_policy(family_folder(family))
    watched = Watched(policy, stop_tokens=[STOP, 7, 9, 11], max_rows=max_rows)
    session, ledgers, is_action, logprobs = many_rows(watched, rows=40, max_tokens=5, turns=3)
    assert max(watched.decoded) <= max_rows
    assert session._cache._keys[0].shape[0] <= max_rows
    assert len(session._known) <= max_rows
    assert largest_gap(logprobs, recompute(policy, ledgers, is_action, 1.0)) < 1e-4


def test_nobody_waits_for_the_slowest(folders, load_policy):
    watched = Watched(load_policy(folders["llama"]), stop_tokens=[STOP, *range(4, 16)], max_rows=5)
    _, _, is_action, _ = many_rows(watched, rows=40, max_tokens=30, turns=1)
    lengths = [sum(flags) for flags in is_action]
    assert max(lengths) > 3 * sum(lengths) / 40, "some should speak much longer than others"
    # A place is free for no step but the last ones: 5 rows at a time as long as there are others to come.
    decoded = watched.decoded
    assert sum(decoded) == sum(lengths) - 40  # the last token of a row is no input
    in_waves = sum(max(lengths[i : i + 5]) for i in range(0, 40, 5))
    assert len(decoded) < 0.6 * in_waves
    assert len(decoded) <= (sum(lengths) - 40) / 5 + max(lengths) + 8


def test_who_was_begun_again_is_where_it_was(folders, load_policy):
    """Rows give way, and later go on from what they said."""
    policy = load_policy(folders["llama"])
    prompts = [[5], [6, 7], [8, 9, 10], [11]]
    wide, narrow = (TorchSampler(policy, stop_tokens=[NO_SUCH_TOKEN], max_rows=n).open(prompts) for n in (4, 2))
    turns: list[dict[int, list[int]]] = [
        {0: [], 1: []},
        {2: [], 3: []},
        {0: [20], 3: [21, 22]},
        {1: [23], 2: [24], 0: [], 3: [25]},
    ]
    for feeds in turns:
        expected, found = (session.sample(feeds, max_tokens=3, temperature=0.0) for session in (wide, narrow))
        assert list(found) == list(feeds)
        for row in feeds:
            assert found[row].tokens == expected[row].tokens
            assert found[row].logprobs == pytest.approx(expected[row].logprobs, abs=1e-4)


def test_kept_rows_are_not_computed_again(folders, load_policy):
    watched = Watched(load_policy(folders["llama"]), stop_tokens=[NO_SUCH_TOKEN], max_rows=4)
    session = watched.sampler.open([[5, 6, 7], [8, 9, 10]])
    session.sample({0: [], 1: []}, max_tokens=4)
    watched.shapes.clear()
    session.add([[11, 12, 13]])
    session.sample({2: []}, max_tokens=2)
    session.sample({0: [20, 21], 1: [22]}, max_tokens=2)
    # A prompt, its second token; then the last token and what was told (of the other less), and a token each.
    assert watched.shapes == [(1, 3), (1, 1), (2, 3), (2, 1)]
    watched.shapes.clear()
    session.add([[14], [15]])
    session.sample({3: [], 4: []}, max_tokens=2)  # five rows in four places
    assert len(session._known) == 4
    again = [row for row in range(3) if row not in session._known]
    assert len(again) == 1
    watched.shapes.clear()
    session.sample({again[0]: [16]}, max_tokens=1)
    assert watched.shapes == [(1, len(session._ledgers[again[0]]) - 1)]
