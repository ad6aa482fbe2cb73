"""Attention over a cache, against torch's own."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from trainers.sampling import attention
from trainers.sampling.attention import attend


def states(n: int, heads: int, groups: int, t: int, length: int, size: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Queries, keys, values and a mask in which each of the t tokens sees one position more."""
    generator = torch.Generator().manual_seed(0)
    queries = torch.randn(n, heads, t, size, generator=generator)
    keys, values = (torch.randn(n, groups, length, size, generator=generator) for _ in range(2))
    seen = torch.arange(1, n + 1)[:, None] + torch.arange(t)  # [n, t]
    mask = torch.zeros(n, 1, t, length).masked_fill_(torch.arange(length) >= seen[:, None, :, None], -torch.inf)
    return queries, keys, values, mask.clamp(min=torch.finfo(torch.float32).min)


def expected(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor, scale: float) -> Tensor:
    return F.scaled_dot_product_attention(queries, keys, values, mask, scale=scale, enable_gqa=True).transpose(1, 2)


@pytest.mark.parametrize("at_a_time", [1, 700, 10**9])
@pytest.mark.parametrize(("heads", "groups"), [(4, 4), (9, 3), (4, 1)])
@pytest.mark.parametrize("t", [1, 5])
def test_it_is_scaled_dot_product_attention(monkeypatch, heads, groups, t, at_a_time):
    monkeypatch.setattr(attention, "_SCORES_AT_A_TIME", at_a_time)
    given = states(7, heads, groups, t, 20, 12)
    found = attend(*given, scale=0.3)
    assert found.shape == (7, t, heads, 12)
    assert torch.allclose(found, expected(*given, 0.3), atol=1e-6)


def test_keys_that_are_a_slice_of_a_cache():
    queries, keys, values, mask = states(3, 4, 2, 1, 20, 8)
    room = torch.full((5, 2, 20, 8), 7.0)
    more_keys, more_values = room.clone(), room.clone()
    more_keys[:3], more_values[:3] = keys, values
    found = attend(queries, more_keys[:3], more_values[:3], mask, scale=0.5)
    assert torch.equal(found, attend(queries, keys, values, mask, scale=0.5))


def test_no_more_scores_are_held_than_allowed(monkeypatch):
    shapes = []
    inner = torch.softmax

    def watch(scores: Tensor, dim: int) -> Tensor:
        shapes.append(scores.numel())
        assert scores.dtype == torch.float32
        return inner(scores, dim)

    monkeypatch.setattr(torch, "softmax", watch)
    monkeypatch.setattr(attention, "_SCORES_AT_A_TIME", 3 * 4 * 2 * 20)
    queries, keys, values, mask = states(7, 4, 2, 2, 20, 8)
    attend(queries, keys, values, mask, scale=0.3)
    assert shapes == [480, 480, 160]


@pytest.mark.parametrize("size", [8, 12, 64])
def test_bfloat16_is_as_near_to_float32_as_torch_s_own_kernel(size):
    *whole, mask = states(20, 4, 2, 3, 60, size)
    queries, keys, values = (x.bfloat16() for x in whole)
    exact = expected(queries.float(), keys.float(), values.float(), mask, size**-0.5)
    mask = mask.clamp(min=torch.finfo(torch.bfloat16).min).bfloat16()
    ours = attend(queries, keys, values, mask, scale=size**-0.5)
    theirs = expected(queries, keys, values, mask, size**-0.5)
    assert ours.dtype == torch.bfloat16
    gaps = [float((x.float() - exact).norm() / exact.norm()) for x in (ours, theirs)]
    assert 0.0 < gaps[0] < 2.0 * gaps[1]
    assert gaps[0] < 0.01


@pytest.mark.parametrize(("heads", "groups"), [(4, 4), (9, 3), (4, 1)])
@pytest.mark.parametrize("t", [1, 5])
def test_folded_for_the_kernels_of_a_gpu_it_is_the_same(heads, groups, t):
    given = states(7, heads, groups, t, 20, 12)
    found = attention._attend_by_torch(*given, 0.3)
    assert found.shape == (7, t, heads, 12)
    assert torch.allclose(found, expected(*given, 0.3), atol=1e-6)
