"""The cache by itself: what was stored is what is found, whatever was moved, grown or copied since."""

import pytest
import torch

from trainers.sampling.ragged_cache import RaggedCache

HEADS, SIZE, LAYERS = 2, 3, 2


def append(cache: RaggedCache, numbers: list[list[int]], *, first_slot: int = 0):
    """Append to each slot one position a number; keys hold the number (+ layer / 8), values its negative."""
    width = max(map(len, numbers))
    lengths = torch.tensor([len(row) for row in numbers])
    mask, positions = cache.begin(lengths, width=width, first_slot=first_slot)
    padded = torch.tensor([row + [999] * (width - len(row)) for row in numbers], dtype=torch.float32)
    keys = padded[:, None, :, None].expand(-1, HEADS, -1, SIZE)
    found = [cache.update(keys + layer / 8, -keys - layer / 8, layer) for layer in range(LAYERS)]
    cache.end(lengths, first_slot=first_slot)
    return mask, positions, found


def contents(cache: RaggedCache) -> list[list[int]]:
    """What the slots hold, in layer 0, after checking that all heads, layers and values agree."""
    rows = []
    for slot, length in enumerate(cache.lengths.tolist()):
        for layer in range(LAYERS):
            held = cache._keys[layer][slot, :, :length]  # [H, T, D]
            assert torch.equal(held, held[:1, :, :1].expand_as(held))
            assert torch.equal(cache._values[layer][slot, :, :length], -held)
            assert torch.equal(held - layer / 8, cache._keys[0][slot, :, :length])
        rows.append([int(x) for x in cache._keys[0][slot, 0, :length, 0]])
    return rows


@pytest.fixture
def cache():
    found = RaggedCache(torch.float32)
    found.allocate(rows=3, capacity=4)
    append(found, [[1, 2, 3], [11], [21, 22]])
    return found


def test_rows_of_unequal_length(cache):
    assert cache.lengths.tolist() == [3, 1, 2]
    assert contents(cache) == [[1, 2, 3], [11], [21, 22]]
    assert cache.get_seq_length() == 3
    assert RaggedCache(torch.float32).get_seq_length() == 0


def test_appending_overwrites_the_padding(cache):
    append(cache, [[4], [12, 13], [23]])
    assert contents(cache) == [[1, 2, 3, 4], [11, 12, 13], [21, 22, 23]]


def test_mask_and_positions(cache):
    mask, positions, found = append(cache, [[4], [12, 13]])
    low = torch.finfo(torch.float32).min
    capacity = cache._keys[0].shape[2]
    assert mask.shape == (2, 1, 2, capacity)
    assert mask.dtype == torch.float32
    assert ((mask == 0) | (mask == low)).all()
    # Row 0 holds 3 positions before, row 1 one: each token sees its own row up to itself.
    visible = [[int((row == 0).sum()) for row in mask[i, 0]] for i in range(2)]
    assert visible[0][0] == 4
    assert visible[1] == [2, 3]
    assert bool((mask.diff(dim=-1) <= 0).all())  # what is visible comes first
    assert positions.tolist() == [[3, 3], [1, 2]]  # padding repeats the last position
    keys, values = found[1]
    assert keys.shape == values.shape == (2, HEADS, capacity, SIZE)
    assert keys[1, :, :3, 0].tolist() == [[11.125, 12.125, 13.125]] * 2


def test_what_attention_gets_is_a_view(cache):
    _, _, found = append(cache, [[4], [12], [23]])
    for layer, (keys, values) in enumerate(found):
        assert keys.data_ptr() == cache._keys[layer].data_ptr()
        assert values.data_ptr() == cache._values[layer].data_ptr()
        assert keys.is_contiguous()
        assert values.is_contiguous()


def test_growing_keeps_what_is_there(cache):
    before = contents(cache)
    append(cache, [list(range(100, 140)), [12], [23]])
    assert contents(cache) == [before[0] + list(range(100, 140)), [11, 12], [21, 22, 23]]
    assert cache._keys[0].shape[2] >= 43


def test_growing_is_rare():
    cache = RaggedCache(torch.float32)
    cache.allocate(rows=1, capacity=4)
    capacities = []
    for i in range(400):
        append(cache, [[i]])
        capacities.append(cache._keys[0].shape[2])
    assert contents(cache) == [list(range(400))]
    assert len(set(capacities)) < 11  # 32 more each time, and from 128 on a quarter
    assert all(capacity < 1.25 * (i + 1) + 33 for i, capacity in enumerate(capacities))


def test_swap_exchanges_pairs(cache):
    cache.swap(torch.tensor([0]), torch.tensor([2]))
    assert contents(cache) == [[21, 22], [11], [1, 2, 3]]
    append(cache, [[23]])
    assert contents(cache) == [[21, 22, 23], [11], [1, 2, 3]]


def test_swap_of_several(cache):
    append(cache, [[4], [12], [23]])
    cache.swap(torch.tensor([0, 1]), torch.tensor([2, 1]))
    assert contents(cache) == [[21, 22, 23], [11, 12], [1, 2, 3, 4]]


@pytest.fixture
def prompts():
    found = RaggedCache(torch.float32)
    found.allocate(rows=2, capacity=6)
    append(found, [[51, 52, 53, 54, 55, 56], [61]])
    return found


def test_put_into_an_empty_cache(prompts):
    cache = RaggedCache(torch.float32)
    cache.put(prompts, torch.tensor([1, 0, 0]), first_slot=0)
    assert contents(cache) == [[61], [51, 52, 53, 54, 55, 56], [51, 52, 53, 54, 55, 56]]
    append(cache, [[71], [72], [73, 74]])  # copies that part ways
    ledger = [51, 52, 53, 54, 55, 56]
    assert contents(cache) == [[61, 71], [*ledger, 72], [*ledger, 73, 74]]
    assert contents(prompts) == [ledger, [61]]


def test_put_over_slots_and_behind_them(cache, prompts):
    # Slot 2 was in use, 3 is new; the capacity of 4 must grow to 6.
    cache.put(prompts, torch.tensor([0, 1]), first_slot=2)
    assert contents(cache) == [[1, 2, 3], [11], [51, 52, 53, 54, 55, 56], [61]]
    append(cache, [[4], [12], [57], [62]])
    assert contents(cache) == [[1, 2, 3, 4], [11, 12], [51, 52, 53, 54, 55, 56, 57], [61, 62]]


def test_put_of_shorter_rows_into_longer_slots(cache, prompts):
    append(cache, [list(range(100, 120)), [12], [23]])
    cache.put(prompts, torch.tensor([1]), first_slot=0)
    append(cache, [[62], [13], [24]])
    assert contents(cache) == [[61, 62], [11, 12, 13], [21, 22, 23, 24]]
    assert len(cache._keys[0]) == 3  # no slot more


def test_only_the_first_slots_are_touched(cache):
    append(cache, [[4]])
    append(cache, [[24, 25]], first_slot=2)
    assert contents(cache) == [[1, 2, 3, 4], [11], [21, 22, 24, 25]]


def test_the_mask_has_the_dtype_of_the_model():
    cache = RaggedCache(torch.bfloat16)
    cache.allocate(rows=1, capacity=1)
    mask, _ = cache.begin(torch.tensor([2]), width=2, first_slot=0)
    assert mask.dtype == torch.bfloat16
    assert mask[0, 0, 0, :2].tolist() == [0.0, torch.finfo(torch.bfloat16).min]
