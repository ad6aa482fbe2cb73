"""Drawing tokens: frequencies, what is cut away, and the logprobs that go with them."""

import math
from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor

from trainers.sampling import draw as module
from trainers.sampling.draw import sample_tokens


def draw(logits: Tensor, count: int, **options: Any) -> list[int]:
    tokens, logprobs = sample_tokens(logits.expand(count, -1), generator=torch.Generator().manual_seed(0), **options)
    assert torch.isfinite(logprobs).all()
    return [int(token) for token in tokens]


@pytest.mark.parametrize("temperature", [1.0, 0.5, 2.0])
def test_frequencies_are_those_of_softmax(temperature):
    logits = torch.tensor([[1.0, -torch.inf, 0.0, -1.0, 2.5, -3.0, -torch.inf]])
    count = 40_000
    found = Counter(draw(logits, count, temperature=temperature))
    expected = (logits[0].double() / temperature).softmax(-1) * count
    assert found[1] == found[6] == 0
    chi_square = sum((found[i] - float(e)) ** 2 / float(e) for i, e in enumerate(expected) if e > 0)
    assert chi_square < 18.5  # 4 degrees of freedom: 99.9 %


def test_what_has_probability_zero_is_never_drawn(monkeypatch):
    # Whatever uniform numbers come, the least and the greatest among them.
    logits = torch.tensor([[-torch.inf, 0.0, -torch.inf, 0.3, -200.0, -torch.inf]])
    for uniform in (0.0, 1e-45, 0.4255, 0.5, 1.0 - 2**-24, 1.0):
        monkeypatch.setattr(torch, "rand", lambda *size, u=uniform, **_: torch.full(size, u))
        token, logprob = sample_tokens(logits)
        assert int(token) in (1, 3)
        assert logprob.item() == pytest.approx(logits.log_softmax(-1)[0, int(token)].item())


def test_temperature_zero_takes_the_most_probable():
    logits = torch.tensor([[0.0, 2.0, 1.0], [5.0, -1.0, 4.0]])
    tokens, logprobs = sample_tokens(logits, temperature=0.0)
    assert tokens.tolist() == [1, 0]
    first = 2 - math.log(1 + math.e**2 + math.e)
    second = -math.log(1 + math.e**-6 + math.e**-1)
    assert logprobs.tolist() == pytest.approx([first, second], abs=1e-6)


def test_logprobs_are_those_at_the_temperature():
    tokens, logprobs = sample_tokens(torch.tensor([[2.0, 0.0]]), temperature=0.5)
    expected = [-math.log(1 + math.exp(-4)), -4 - math.log(1 + math.exp(-4))]
    assert logprobs.item() == pytest.approx(expected[int(tokens)], abs=1e-6)


def test_a_negative_temperature_is_refused():
    with pytest.raises(ValueError, match="temperature must not be negative, not -1"):
        sample_tokens(torch.zeros(1, 2), temperature=-1.0)


@pytest.mark.parametrize("temperature", [0.0, 0.01, 1.0, 100.0])
def test_extreme_logits(temperature):
    logits = torch.full((1, 50_000), -1e4)
    logits[0, 31_000] = 1e4
    assert set(draw(logits, 20, temperature=temperature)) == {31_000}
    only = torch.full((1, 5), -torch.inf)
    only[0, 4] = -1e4
    assert set(draw(only, 100, temperature=temperature)) == {4}


def test_a_large_vocabulary_is_sampled_to_its_ends():
    # Half of the mass stands in the very last entry, behind 50,000 that share the rest.
    logits = torch.zeros(1, 50_001)
    logits[0, -1] = math.log(50_000)
    drawn = draw(logits, 300)
    assert 110 < drawn.count(50_000) < 190
    assert min(drawn) < 5_000


@pytest.mark.parametrize("size", [1, 255, 256, 257, 511, 1000, 49_152])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_vocabularies_around_the_size_of_a_block(size, dtype):
    # Half of the mass on a few tokens at the ends and the seams, the rest spread evenly; every third has none.
    logits = torch.zeros(size)
    logits[2::3] = -torch.inf
    special = sorted({0, size - 1, *(i for i in (254, 255, 256, 257, 511, 512) if i < size)})
    logits[special] = math.log(max(2, size)) - math.log(len(special))
    logits = logits.to(dtype)
    count = 20_000 if size < 10_000 else 5_000
    generator = torch.Generator().manual_seed(0)
    tokens = torch.cat([sample_tokens(logits.expand(1000, -1), generator=generator)[0] for _ in range(count // 1000)])
    assert 0 <= int(tokens.min()) <= int(tokens.max()) < size
    expected = logits.double().softmax(-1)
    assert not bool((expected[tokens] == 0).any())
    # Chi-square over the special tokens and the rest in up to 8 bins.
    bins = torch.arange(size) * 8 // size + len(special)
    bins[special] = torch.arange(len(special))
    mass = torch.zeros(len(special) + 8, dtype=torch.float64).index_add(0, bins, expected) * count
    seen = torch.bincount(bins[tokens], minlength=len(mass)).double()
    used = mass > 0
    assert int(seen[~used].sum()) == 0
    chi_square = float(((seen - mass)[used] ** 2 / mass[used]).sum())
    freedom = int(used.sum()) - 1
    assert chi_square <= freedom + 4 * math.sqrt(2 * freedom) + 1e-9


@pytest.mark.parametrize("uniform", [0.0, 1e-45, 0.3, 1.0 - 2**-24, 1.0])
def test_nothing_of_probability_zero_in_any_block(monkeypatch, uniform):
    monkeypatch.setattr(torch, "rand", lambda *size, **_: torch.full(size, uniform))
    for size in (256, 257, 600, 1000):
        for only in ([0], [size - 1], [size // 2], [3, 255], [255, size - 2]):
            logits = torch.full((1, size), -torch.inf)
            logits[0, only] = 0.0
            token, logprob = sample_tokens(logits)
            assert int(token) in only
            assert logprob.item() == pytest.approx(-math.log(len(set(only))), abs=1e-6)
    by_hand = torch.log(torch.tensor([[0.2, 0.3, 0.0, 0.5]]))
    token, _ = sample_tokens(by_hand)
    assert int(token) == (0 if uniform < 0.2 else 1 if uniform < 0.5 else 3)


# In order: tokens 4, 1, 3, 0, 2, 5.
PROBABILITIES = torch.tensor([0.1, 0.25, 0.06, 0.15, 0.4, 0.04])


@pytest.mark.parametrize(
    ("top_p", "top_k", "kept"),
    [
        (1.0, 0, {0, 1, 2, 3, 4, 5}),
        (0.95, 0, {0, 1, 2, 3, 4}),
        (0.9, 0, {0, 1, 3, 4}),
        (0.79, 0, {1, 3, 4}),
        (0.66, 0, {1, 3, 4}),
        (0.6, 0, {1, 4}),
        (0.3, 0, {4}),
        (1e-9, 0, {4}),
        (1.0, 1, {4}),
        (1.0, 3, {1, 3, 4}),
        (1.0, 99, {0, 1, 2, 3, 4, 5}),
        (0.6, 3, {1, 4}),
        (0.95, 2, {1, 4}),
    ],
)
def test_what_top_p_and_top_k_leave(top_p, top_k, kept):
    cut = module._cut(PROBABILITIES[None], top_p, top_k)[0]
    assert {i for i, p in enumerate(cut.tolist()) if p > 0} == kept
    count = 20_000
    logits = PROBABILITIES.log()[None]
    found = Counter(draw(logits, count, top_p=top_p, top_k=top_k))
    assert found.keys() == kept
    total = sum(float(PROBABILITIES[i]) for i in kept)
    expected = {i: float(PROBABILITIES[i]) / total * count for i in kept}
    chi_square = sum((found[i] - e) ** 2 / e for i, e in expected.items())
    assert chi_square < len(kept) - 1 + 4 * math.sqrt(2 * len(kept))


@pytest.mark.parametrize("cut", [{"top_p": 0.6}, {"top_k": 2}])
def test_logprobs_are_those_before_the_cut(cut: Any):
    logits = PROBABILITIES.log()[None].expand(50, -1)
    for temperature in (1.0, 0.5):
        tokens, logprobs = sample_tokens(logits, temperature=temperature, **cut)
        assert set(tokens.tolist()) <= {1, 4}
        expected = torch.log_softmax(logits / temperature, -1).gather(1, tokens[:, None]).squeeze(1)
        assert torch.allclose(logprobs, expected, atol=1e-6)


def test_the_cut_is_of_the_distribution_at_the_temperature():
    # At temperature 1 two tokens are needed for 0.6; at 0.25 the first alone has 0.85.
    assert set(draw(PROBABILITIES.log()[None], 200, top_p=0.6, temperature=0.25)) == {4}


def test_of_equal_tokens_no_more_than_k():
    logits = torch.zeros(1, 700)
    assert set(draw(logits, 500, top_k=3)) == {0, 1, 2}


def test_in_slices_the_same_tokens_are_drawn(monkeypatch):
    logits = torch.randn(13, 300, generator=torch.Generator().manual_seed(3))
    several: list[dict[str, Any]] = [{}, {"temperature": 0.0}, {"temperature": 0.7, "top_p": 0.8}]
    for options in several:
        whole = sample_tokens(logits, generator=torch.Generator().manual_seed(0), **options)
        monkeypatch.setattr(module, "_ENTRIES_AT_A_TIME", 1000)  # three rows
        sliced = sample_tokens(logits, generator=torch.Generator().manual_seed(0), **options)
        monkeypatch.undo()
        assert torch.equal(whole[0], sliced[0])
        assert torch.equal(whole[1], sliced[1])


def test_one_uniform_number_a_row():
    generator, other = torch.Generator().manual_seed(0), torch.Generator().manual_seed(0)
    sample_tokens(torch.randn(5, 1000), generator=generator)
    torch.rand(5, 1, generator=other)
    assert torch.equal(generator.get_state(), other.get_state())


def test_where_sums_are_not_monotone_a_token_is_drawn_all_the_same(monkeypatch):
    """On a GPU the last sum may lie below one before it; then what is searched for lies behind the end."""
    monkeypatch.setattr(torch, "searchsorted", lambda sums, *_, **__: torch.full((len(sums), 1), sums.shape[1]))
    for size in (3, 256, 600):
        tokens, _ = sample_tokens(torch.zeros(4, size))
        assert int(tokens.max()) < size
