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
            held = cache._keys[layer][slot, :length]  # [T, H, D]
            assert torch.equal(held, held[:, :1, :1].expand_as(held))
            assert torch.equal(cache._values[layer][slot, :length], -held)
            assert torch.equal(held - layer / 8, cache._keys[0][slot, :length])
        rows.append([int(x) for x in cache._keys[0][slot, :length, 0, 0]])
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
    assert mask.shape == (2, 1, 2, 5)
    assert mask.dtype == torch.float32
    visible = (mask[:, 0] == 0).tolist()
    assert ((mask == 0) | (mask == low)).all()
    # Row 0 holds 3 positions before, row 1 one: each token sees its own row up to itself.
    assert visible[0][0] == [True, True, True, True, False]
    assert visible[1] == [[True, True, False, False, False], [True, True, True, False, False]]
    assert positions[0, 0].item() == 3
    assert positions[1].tolist() == [1, 2]
    keys, values = found[1]
    assert keys.shape == values.shape == (2, HEADS, 5, SIZE)
    assert keys[1, :, :3, 0].tolist() == [[11.125, 12.125, 13.125]] * 2


def test_growing_keeps_what_is_there(cache):
    before = contents(cache)
    append(cache, [list(range(100, 140)), [12], [23]])
    assert contents(cache) == [before[0] + list(range(100, 140)), [11, 12], [21, 22, 23]]
    assert cache._keys[0].shape[1] >= 43


def test_growing_is_rare():
    cache = RaggedCache(torch.float32)
    cache.allocate(rows=1, capacity=4)
    capacities = set()
    for i in range(200):
        append(cache, [[i]])
        capacities.add(cache._keys[0].shape[1])
    assert contents(cache) == [list(range(200))]
    assert len(capacities) < 13  # log(200 / 4) / log(1.5) = 9.6


def test_swap_exchanges_pairs(cache):
    cache.swap(torch.tensor([0]), torch.tensor([2]))
    assert contents(cache) == [[21, 22], [11], [1, 2, 3]]
    append(cache, [[23]])
    assert contents(cache) == [[21, 22, 23], [11], [1, 2, 3]]


def test_swap_of_several(cache):
    cache.expand(torch.tensor([0, 1, 2, 1]))
    cache.swap(torch.tensor([0, 1]), torch.tensor([3, 2]))
    assert contents(cache) == [[11], [21, 22], [11], [1, 2, 3]]


def test_expand_copies_slots_that_then_part_ways(cache):
    cache.expand(torch.tensor([2, 2, 0, 1]))
    append(cache, [[31], [32], [33], [34]])
    assert contents(cache) == [[21, 22, 31], [21, 22, 32], [1, 2, 3, 33], [11, 34]]


def test_only_the_first_slots_are_touched(cache):
    append(cache, [[4]])
    append(cache, [[24, 25]], first_slot=2)
    assert contents(cache) == [[1, 2, 3, 4], [11], [21, 22, 24, 25]]


def test_the_mask_has_the_dtype_of_the_model():
    cache = RaggedCache(torch.bfloat16)
    cache.allocate(rows=1, capacity=1)
    mask, _ = cache.begin(torch.tensor([2]), width=2, first_slot=0)
    assert mask.dtype == torch.bfloat16
    assert mask[0, 0, 0].tolist() == [0.0, torch.finfo(torch.bfloat16).min]
