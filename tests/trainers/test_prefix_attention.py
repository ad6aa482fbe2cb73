"""Rows that share a prompt, packed into one, are what each of them is alone."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.trainers.packed import assert_same_gradients, gradients, mixed_rows, plain_logprobs, row
from trainers import prefix_attention
from trainers.batching import microbatches
from trainers.prefix_attention import MATMUL, SDPA, kernel

FAMILIES = ["llama", "gqa", "gpt2", "mistral", "qwen2", "qwen3"]
FORMS = {"eager": MATMUL, "sdpa": SDPA}


@pytest.mark.parametrize("attention", FORMS)
@pytest.mark.parametrize("family", FAMILIES)
def test_logprobs_and_gradients_are_those_of_each_row_alone(family_folder, load_policy, family, attention):
    policy = load_policy(family_folder(family), attention=attention)
    rows = mixed_rows()
    [batch] = microbatches(rows, tokens_per_microbatch=1000)
    assert len(batch.segments) == 4
    assert sorted(segment.length for segment in batch.segments) == [0, 0, 2, 7]
    found = policy.logprobs(batch, temperature=0.8)
    expected = plain_logprobs(policy, rows, batch, 0.8)
    assert torch.allclose(found, expected, rtol=0.0, atol=2e-5)
    assert_same_gradients(gradients(policy, found), gradients(policy, expected), tolerance=5e-5)


@pytest.mark.parametrize("attention", FORMS)
@pytest.mark.parametrize("family", ["gqa", "gpt2"])
def test_however_the_rows_are_cut_it_is_the_same(family_folder, load_policy, family, attention):
    policy = load_policy(family_folder(family), attention=attention)
    rows = mixed_rows()
    found: list[tuple[dict[int, list[float]], dict[str, Tensor]]] = []
    for limit, share_prefix in ((1000, True), (1000, False), (14, True), (14, False), (1, True)):
        logprobs: dict[int, list[float]] = {}
        total: dict[str, Tensor] = {}
        for batch in microbatches(rows, tokens_per_microbatch=limit, share_prefix=share_prefix):
            values = policy.logprobs(batch)
            for number, value in zip(batch.rows.tolist(), values.tolist(), strict=True):
                logprobs.setdefault(batch.numbers[number], []).append(value)
            (values * (1 + batch.targets)).sum().backward()
        for name, parameter in policy.trainable.items():
            total[name], parameter.grad = parameter.grad, None
        found.append((logprobs, total))
    first, expected = found[0]
    assert len(first) == len(rows)
    for logprobs, total in found[1:]:
        for number, values in first.items():
            assert logprobs[number] == pytest.approx(values, abs=2e-5)
        assert_same_gradients(total, expected, tolerance=5e-5)


@pytest.mark.parametrize("attention", FORMS)
@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_in_bfloat16_it_is_as_near_as_transformers_own_kernels_are(family_folder, load_policy, family, attention):
    policy = load_policy(family_folder(family), attention=attention, dtype="bfloat16")
    exact = load_policy(family_folder(family), dtype="float32")
    with torch.no_grad():
        for theirs, ours in zip(exact.model.parameters(), policy.model.parameters(), strict=True):
            theirs.copy_(ours)
    generator = torch.Generator().manual_seed(2)

    def draw(count: int) -> list[int]:
        return [int(token) for token in torch.randint(4, 40, (count,), generator=generator)]

    prompts = [draw(20) for _ in range(4)]
    rows = [row(group, prompts[group], draw(10 + 3 * member)) for group in range(4) for member in range(4)]
    [batch] = microbatches(rows, tokens_per_microbatch=10_000)
    with torch.no_grad():
        expected = plain_logprobs(exact, rows, batch)
        noise = []
        for name in ("sdpa", "eager"):
            with policy.attention(name):
                noise.append(float((plain_logprobs(policy, rows, batch) - expected).abs().mean()))
        gap = float((policy.logprobs(batch) - expected).abs().mean())
    assert 0.0 < gap < 1.5 * max(noise)


@pytest.mark.parametrize("attention", FORMS)
def test_a_branch_sees_nothing_but_its_prompt_and_itself(llama_folder, load_policy, attention):
    policy = load_policy(llama_folder, attention=attention)

    def of_first(other: list[int], elsewhere: list[int]) -> list[float]:
        rows = [row(0, [5, 6, 7], [8, 9, 10, 11, 12]), row(0, [5, 6, 7], other), row(1, elsewhere, [9, 8])]
        [batch] = microbatches(rows, tokens_per_microbatch=1000)
        with torch.no_grad():
            values = policy.logprobs(batch)
        return [float(x) for x in values[batch.rows == batch.numbers.index(0)]]

    base = of_first([20, 21, 22], [23])
    assert of_first([30, 31, 32], [23]) == base
    assert of_first([20, 21, 22], [33]) == base
    assert of_first([20], [23, 24, 25, 26]) == pytest.approx(base, abs=1e-5)


@pytest.mark.parametrize("attention", FORMS)
def test_a_prompt_is_computed_once(gqa_folder, load_policy, attention):
    policy = load_policy(gqa_folder, attention=attention)
    rows = [row(0, list(range(5, 25)), [7] * (3 + i)) for i in range(8)]
    seen: list[int] = []
    for module in (policy.decoder.embed_tokens, policy.decoder.layers[0].mlp):
        module.register_forward_hook(lambda module, inputs, output: seen.append(output.shape[:-1].numel()))
    for share_prefix, count in ((True, 20 + 52), (False, 8 * 20 + 52)):
        seen.clear()
        [batch] = microbatches(rows, tokens_per_microbatch=1000, share_prefix=share_prefix)
        policy.logprobs(batch)
        assert seen == [count, count]


@pytest.mark.parametrize("form", [prefix_attention._ByMatmul, prefix_attention._BySdpa])
@pytest.mark.parametrize(("heads", "groups", "shared"), [(4, 4, 6), (6, 2, 6), (3, 1, 0)])
def test_attention_by_itself(form, heads, groups, shared):
    """Against scaled_dot_product_attention of every branch behind its prefix."""
    generator = torch.Generator().manual_seed(0)
    rows = [row(0, list(range(shared)) or [9 + i], [1] * n) for i, n in enumerate((5, 2, 1))]
    [batch] = microbatches(rows, tokens_per_microbatch=1000, share_prefix=bool(shared))
    count = len(batch.tokens)
    q = torch.randn(count, heads, 8, generator=generator)
    k, v = (torch.randn(count, groups, 8, generator=generator) for _ in range(2))
    turned = [x.transpose(0, 1)[None] for x in (q, k, v)]
    found = prefix_attention._over_segments(form, turned[0], turned[1], turned[2], batch, 0.3)[0]
    for segment in batch.segments:
        prefix = torch.arange(segment.start, segment.start + segment.length)
        for places in segment.places:
            seen = torch.cat([prefix, places.unique()])
            a, b, c = (x[:, :, seen] for x in turned)
            expected = F.scaled_dot_product_attention(a, b, c, is_causal=True, scale=0.3, enable_gqa=True)[0]
            assert torch.allclose(found[seen], expected.transpose(0, 1), atol=1e-5)


def test_which_form(llama_folder, monkeypatch):
    [short] = microbatches([row(0, [5] * 10, [6] * 6)], tokens_per_microbatch=100)
    assert [kernel(wanted, short) for wanted in ("eager", "sdpa", "auto")] == [MATMUL, SDPA, MATMUL]
    assert kernel("auto", short.to(torch.device("meta"))) == SDPA  # not a CPU
    monkeypatch.setattr(prefix_attention, "_SHORT", 15)
    assert kernel("auto", short) == SDPA
