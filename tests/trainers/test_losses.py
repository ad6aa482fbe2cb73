"""Losses and their gradients: by hand, by their laws, and against a reference without padding or batches."""

import math
from collections.abc import Callable
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from trainers.batching import Row, microbatches
from trainers.config import ConfigError, LossOptions
from trainers.config.loss import LossName
from trainers.losses import (
    MAX_LOG_RATIO,
    LossTerms,
    cispo,
    gspo,
    importance_sampling,
    make_loss,
    ppo,
    reinforce,
    sequence_weights,
)
from trainers.policy import Policy
from trainers.trajectories import Trajectory

NAMES = get_args(LossName)
OLD = torch.tensor([-2.0, -1.0, -0.5, -3.0, -0.1, -1.5])


def at_ratios(*ratios: float) -> tuple[Tensor, Tensor]:
    """Logprobs, with gradient, and old ones that they have these ratios to."""
    old = OLD[: len(ratios)]
    return (old + torch.tensor(ratios).log()).requires_grad_(), old


def checked(
    found: LossTerms, logprobs: Tensor, *, terms: list[float], slopes: list[float], clipped: list[bool]
) -> None:
    """Compare the terms, and the gradient of their sum for each logprob."""
    [gradient] = torch.autograd.grad(found.terms.sum(), logprobs)
    assert found.terms.tolist() == pytest.approx(terms, abs=1e-5)
    assert gradient.tolist() == pytest.approx(slopes, abs=1e-5)
    assert found.clipped.tolist() == clipped


def test_importance_sampling_by_hand():
    # Ratios 2, 1/2 and 1 times advantages 1, 1 and -3: -(2 + 0.5 - 3) = 0.5.
    logprobs, old = at_ratios(2.0, 0.5, 1.0)
    found = importance_sampling(logprobs, old, torch.tensor([1.0, 1.0, -3.0]))
    assert found.terms.sum().item() == pytest.approx(0.5, abs=1e-6)
    # d/dlogprob of -ratio * advantage is itself.
    checked(found, logprobs, terms=[-2.0, -0.5, 3.0], slopes=[-2.0, -0.5, 3.0], clipped=[False] * 3)


def test_reinforce_by_hand():
    logprobs = torch.tensor([-2.0, -0.5], requires_grad=True)
    found = reinforce(logprobs, torch.tensor([3.0, -1.0]))
    checked(found, logprobs, terms=[6.0, -0.5], slopes=[-3.0, 1.0], clipped=[False] * 2)


def test_ppo_by_hand():
    # Bounds 0.8 and 1.3. A good token that grew enough, and one that shrank; a bad one that grew, and one that shrank
    # enough; one of no advantage; one within the bounds.
    logprobs, old = at_ratios(1.5, 0.5, 1.5, 0.5, 1.5, 1.1)
    found = ppo(logprobs, old, torch.tensor([2.0, 2.0, -2.0, -2.0, 0.0, -1.0]), clip_low=0.2, clip_high=0.3)
    checked(
        found, logprobs,
        terms=[-1.3 * 2, -0.5 * 2, 1.5 * 2, 0.8 * 2, 0.0, 1.1],
        slopes=[0.0, -0.5 * 2, 1.5 * 2, 0.0, 0.0, 1.1],
        clipped=[True, False, False, True, False, False],
    )  # fmt: skip


def test_dual_clip_by_hand():
    # Above 3 a bad token is held too; a good one is held at 1.2 anyway.
    logprobs, old = at_ratios(5.0, 2.9, 5.0, 5.0)
    advantages = torch.tensor([-2.0, -2.0, 2.0, 0.0])
    found = ppo(logprobs, old, advantages, clip_low=0.2, clip_high=0.2, dual_clip=3.0)
    checked(
        found, logprobs,
        terms=[6.0, 5.8, -2.4, 0.0], slopes=[0.0, 5.8, 0.0, 0.0], clipped=[True, False, True, False],
    )  # fmt: skip
    without = ppo(logprobs, old, advantages, clip_low=0.2, clip_high=0.2)
    checked(
        without, logprobs,
        terms=[10.0, 5.8, -2.4, 0.0], slopes=[10.0, 5.8, 0.0, 0.0], clipped=[False, False, True, False],
    )  # fmt: skip


@pytest.mark.parametrize("dual_clip", [None, 1.5])
def test_ppo_is_the_minimum_of_the_papers(dual_clip):
    generator = torch.Generator().manual_seed(0)
    old = -torch.rand(500, generator=generator) * 3
    logprobs = (old + torch.randn(500, generator=generator) / 2).requires_grad_()
    advantages = torch.randn(500, generator=generator)
    found = ppo(logprobs, old, advantages, clip_low=0.2, clip_high=0.28, dual_clip=dual_clip)
    ratio = (logprobs - old).exp()
    surrogate = torch.minimum(ratio * advantages, ratio.clamp(0.8, 1.28) * advantages)
    if dual_clip is not None:
        surrogate = torch.where(advantages < 0, torch.maximum(surrogate, dual_clip * advantages), surrogate)
    [ours] = torch.autograd.grad(found.terms.sum(), logprobs)
    [theirs] = torch.autograd.grad(-surrogate.sum(), logprobs)
    assert torch.allclose(found.terms, -surrogate, atol=1e-6)
    assert torch.allclose(ours, theirs, atol=1e-6)
    assert torch.equal(found.clipped, ours == 0)  # the gradient vanishes exactly there
    assert 100 < int(found.clipped.sum()) < 400


def test_cispo_by_hand():
    # Weights 1.3, 0.8 and 1.1, times -advantage * logprob; the gradient is never dropped.
    logprobs, old = at_ratios(1.5, 0.5, 1.1)
    new = logprobs.tolist()
    found = cispo(logprobs, old, torch.tensor([2.0, 1.0, -1.0]), clip_low=0.2, clip_high=0.3)
    checked(
        found, logprobs,
        terms=[-2.6 * new[0], -0.8 * new[1], 1.1 * new[2]], slopes=[-2.6, -0.8, 1.1], clipped=[True, True, False],
    )  # fmt: skip
    # The paper's has no lower bound.
    logprobs, old = at_ratios(0.01, 6.0)
    found = cispo(logprobs, old, torch.tensor([1.0, 1.0]), clip_low=1.0, clip_high=4.0)
    [gradient] = torch.autograd.grad(found.terms.sum(), logprobs)
    assert gradient.tolist() == pytest.approx([-0.01, -5.0])
    assert found.clipped.tolist() == [False, True]


def test_gspo_by_hand():
    # Row 1 has the ratios 4 and 1, geometric mean 2; row 0 has 1.21 and 1, and its mean is 1.1.
    logprobs, old = at_ratios(4.0, 1.21, 1.0, 1.0)
    rows = torch.tensor([1, 0, 0, 1])
    found = gspo(logprobs, old, torch.tensor([1.0, 3.0, -1.0, -1.0]), rows, clip_low=0.2, clip_high=0.2)
    # In row 1 the good token is held at 1.2, the bad one is not: 2 is not below 0.8. Row 0 is within.
    checked(
        found, logprobs,
        terms=[-1.2, -3.3, 1.1, 2.0], slopes=[0.0, -3.3, 1.1, 2.0], clipped=[True, False, False, False],
    )  # fmt: skip


def test_the_token_form_of_gspo_has_the_gradient_of_the_sequence_form():
    generator = torch.Generator().manual_seed(0)
    rows = torch.tensor([0] * 3 + [1] * 7 + [2] * 2 + [3] * 4)
    lengths = torch.bincount(rows)
    old = -torch.rand(16, generator=generator) * 3
    logprobs = (old + torch.randn(16, generator=generator) / 10).requires_grad_()
    advantages = torch.tensor([-1.0, 0.5, 2.0, -1.0])  # of sequences
    means = torch.stack([(logprobs - old)[rows == row].mean() for row in range(4)])
    assert (means.detach().exp() - 1).abs().max() > 0.02
    ratio = means.exp()
    sequence_form = -torch.minimum(ratio * advantages, ratio.clamp(0.98, 1.02) * advantages).mean()
    found = gspo(logprobs, old, advantages[rows], rows, clip_low=0.02, clip_high=0.02)
    token_form = (found.terms * sequence_weights(lengths, "sequence", max_tokens=9)[rows]).sum()
    assert token_form.item() == pytest.approx(sequence_form.item())
    [ours], [theirs] = (torch.autograd.grad(loss, logprobs) for loss in (token_form, sequence_form))
    assert torch.allclose(ours, theirs, atol=1e-7)
    assert torch.equal(found.clipped, theirs == 0)
    assert 0 < int(found.clipped.sum()) < 16


def loss_named(name: str) -> Callable[[Tensor, Tensor, Tensor, Tensor], LossTerms]:
    return make_loss(LossOptions(loss=name, clip_low=0.2, clip_high=0.3, dual_clip=3.0))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", NAMES)
def test_at_ratio_one_the_gradient_is_that_of_reinforce(name):
    logits = torch.randn(5, 7, generator=torch.Generator().manual_seed(0), requires_grad=True)
    targets, advantages = torch.tensor([0, 3, 6, 6, 1]), torch.tensor([1.0, -0.5, 0.25, 2.0, 0.0])
    logprobs = logits.log_softmax(-1)[torch.arange(5), targets]
    found = loss_named(name)(logprobs, logprobs.detach(), advantages, torch.tensor([0, 0, 1, 1, 1]))
    [ours] = torch.autograd.grad(found.terms.sum(), logits)
    by_hand = advantages[:, None] * (logits.detach().softmax(-1) - torch.eye(7)[targets])
    assert torch.allclose(ours, by_hand, atol=1e-6)
    assert not found.clipped.any()


def test_the_settings_reach_the_loss():
    logprobs, old = at_ratios(1.5, 0.5, 5.0, 1.1)
    advantages, rows = torch.tensor([1.0, -1.0, -1.0, 2.0]), torch.tensor([0, 1, 2, 0])
    bounds = {"clip_low": 0.2, "clip_high": 0.3}
    expected = {
        "importance_sampling": importance_sampling(logprobs, old, advantages),
        "ppo": ppo(logprobs, old, advantages, **bounds, dual_clip=3.0),
        "cispo": cispo(logprobs, old, advantages, **bounds),
        "gspo": gspo(logprobs, old, advantages, rows, **bounds),
        "reinforce": reinforce(logprobs, advantages),
    }
    assert set(expected) == set(NAMES)
    for name, terms in expected.items():
        found = loss_named(name)(logprobs, old, advantages, rows)
        assert torch.equal(found.terms, terms.terms)
        assert torch.equal(found.clipped, terms.clipped)
    assert len({tuple(terms.terms.tolist()) for terms in expected.values()}) == len(NAMES)
    with pytest.raises(
        ConfigError, match="loss must be one of importance_sampling, ppo, cispo, gspo, reinforce, not 'dpo'"
    ):
        loss_named("dpo")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("far", [30.0, 1000.0, 1e30])
def test_policies_far_apart_give_numbers(name, far):
    old = torch.tensor([-1.0, -far, -1.0, -far, -1.0, -far])
    logprobs = torch.tensor([-far, -1.0, -far, -1.0, -far, -1.0], requires_grad=True)
    advantages = torch.tensor([1.0, 1.0, -1.0, -1.0, 0.0, 0.0])
    found = loss_named(name)(logprobs, old, advantages, torch.arange(6))
    [gradient] = torch.autograd.grad(found.terms.sum(), logprobs)
    assert found.terms.isfinite().all()
    assert gradient.isfinite().all()
    assert gradient.abs().max() <= math.exp(MAX_LOG_RATIO)
    if name in ("importance_sampling", "ppo", "gspo"):
        assert found.clipped.all()
        assert (gradient == 0).all()


@pytest.mark.parametrize("name", NAMES)
def test_no_tokens_no_terms(name):
    nothing = torch.zeros(0, requires_grad=True)
    found = loss_named(name)(nothing, torch.zeros(0), torch.zeros(0), torch.zeros(0, dtype=torch.int64))
    assert found.terms.shape == found.clipped.shape == (0,)
    assert found.terms.sum().item() == 0.0


@pytest.mark.parametrize("name", NAMES)
def test_no_gradient_flows_into_sampler_or_advantages(name):
    old, advantages = torch.zeros(2, requires_grad=True), torch.ones(2, requires_grad=True)
    logprobs = torch.zeros(2, requires_grad=True)
    loss_named(name)(logprobs, old, advantages, torch.tensor([0, 0])).terms.sum().backward()  # type: ignore[no-untyped-call]
    assert old.grad is None
    assert advantages.grad is None
    assert logprobs.grad is not None


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("wrong", range(4))
def test_unequal_shapes_are_refused(name, wrong):
    arguments = [torch.zeros(4), torch.zeros(4), torch.zeros(4), torch.zeros(4, dtype=torch.int64)]
    arguments[wrong] = arguments[wrong][:, None]
    if (wrong == 1 and name == "reinforce") or (wrong == 3 and name != "gspo"):
        loss_named(name)(*arguments)  # does not read it
    else:
        with pytest.raises(ValueError, match=r"differ in shape|rows must be \[4\] like logprobs, not \[4, 1\]"):
            loss_named(name)(*arguments)


def test_weights_by_hand():
    lengths = torch.tensor([4, 1, 5])
    assert sequence_weights(lengths, "token", max_tokens=20).tolist() == pytest.approx([0.1, 0.1, 0.1])
    assert sequence_weights(lengths, "sequence", max_tokens=20).tolist() == pytest.approx([1 / 12, 1 / 3, 1 / 15])
    assert sequence_weights(lengths, "constant", max_tokens=20).tolist() == pytest.approx([1 / 60] * 3)


@pytest.mark.parametrize("aggregation", ["token", "sequence", "constant"])
def test_rows_of_no_tokens_weigh_nothing(aggregation):
    found = sequence_weights(torch.tensor([0, 2]), aggregation, max_tokens=20)
    assert found.tolist() == pytest.approx([0.0, {"token": 1 / 2, "sequence": 1 / 4, "constant": 1 / 40}[aggregation]])
    assert sequence_weights(torch.tensor([0, 0]), aggregation, max_tokens=20).tolist() == [0.0, 0.0]
    assert sequence_weights(torch.zeros(0, dtype=torch.int64), aggregation, max_tokens=20).shape == (0,)


def test_an_unknown_aggregation_is_refused():
    with pytest.raises(ConfigError, match="aggregation must be token, sequence or constant, not 'mean'"):
        sequence_weights(torch.tensor([1]), "mean", max_tokens=20)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("aggregation", ["token", "sequence", "constant"])
def test_cut_into_microbatches_it_is_the_same_loss(name, aggregation):
    generator = torch.Generator().manual_seed(0)
    lengths = torch.tensor([3, 1, 7, 2, 4])
    rows = torch.arange(5).repeat_interleave(lengths)
    old = -torch.rand(17, generator=generator) * 3
    logprobs = (old + torch.randn(17, generator=generator) / 4).requires_grad_()
    advantages = torch.randn(17, generator=generator)
    weights = sequence_weights(lengths, aggregation, max_tokens=8)
    loss = loss_named(name)
    whole = (loss(logprobs, old, advantages, rows).terms * weights[rows]).sum()
    [expected] = torch.autograd.grad(whole, logprobs)
    for parts in ([[0], [1], [2], [3], [4]], [[4, 1], [2, 0, 3]]):
        value, gradient = 0.0, torch.zeros(17)
        for part in parts:
            here = torch.isin(rows, torch.tensor(part))
            renumbered = torch.tensor([part.index(row) for row in rows[here].tolist()])
            terms = loss(logprobs[here], old[here], advantages[here], renumbered).terms
            summed = (terms * weights[rows[here]]).sum()
            value += summed.item()
            gradient += torch.autograd.grad(summed, logprobs)[0]
        assert value == pytest.approx(whole.item(), rel=1e-5)
        assert torch.allclose(gradient, expected, atol=1e-7)


ADVANTAGES = [[0.5, -0.25], [-1.5], [2.0, 0.0, 1.0], [-0.5], [0.75]]


@pytest.fixture
def rows(make_trajectory) -> list[Trajectory]:
    """Five episodes of one to three turns and of 3 to 19 tokens, with the logprobs of a sampler that lags behind."""
    return [
        make_trajectory([5, 6, 7], [8, 9, 3], [10, 11], [12, 3], logprobs=[-1.0, -2.5, -0.3, -4.0, -0.1]),
        make_trajectory([20], [21, 22], logprobs=[-3.0, -3.5]),
        make_trajectory(
            [5, 6], [30], [31], [32, 3], [33], list(range(4, 16)), logprobs=[-2.0 - i / 7 for i in range(15)]
        ),
        make_trajectory([0, 0, 1], [0, 39, 1, 0], logprobs=[-5.0, -2.0, -3.0, -1.0]),  # token 0 is not padding
        make_trajectory(list(range(10, 22)), [3], logprobs=[-3.3]),
    ]


def naive_loss(policy: Policy, rows: list[Trajectory], temperature: float, aggregation: str) -> Tensor:
    """One forward pass a row, one token at a time."""
    loss, total = torch.zeros(()), sum(row.num_action_tokens for row in rows)
    for row, advantages in zip(rows, ADVANTAGES, strict=True):
        logits = policy.model(input_ids=torch.tensor([row.tokens])).logits[0]  # [T, V]
        of_token = [a for turn, a in zip(row.turns, advantages, strict=True) for _ in range(turn.num_tokens)]
        divisor = {"token": total, "sequence": 5 * len(of_token), "constant": 5 * 12}[aggregation]
        for t, token in enumerate(row.tokens):
            if row.is_action[t]:
                scaled = logits[t - 1] / temperature
                logprob = scaled[token] - scaled.exp().sum().log()
                loss = loss - torch.exp(logprob - row.logprobs[t]) * of_token.pop(0) / divisor
        assert not of_token
    return loss


def sampled_logprobs(policy: Policy, trajectories: list[Trajectory], temperature: float) -> Tensor:
    """Of the sampled tokens, row after row; how a policy does it faster is tested with the policy."""
    found = []
    for row in trajectories:
        logprobs = (policy.model(input_ids=torch.tensor([row.tokens])).logits[0] / temperature).log_softmax(-1)
        chosen = torch.tensor(row.is_action).nonzero()[:, 0]
        found.append(logprobs[chosen - 1, torch.tensor(row.tokens)[chosen]])
    return torch.cat(found)


def our_loss(policy: Policy, rows: list[Trajectory], temperature: float, aggregation: Any, limit: int) -> float:
    weights = sequence_weights(torch.tensor([row.num_action_tokens for row in rows]), aggregation, max_tokens=12)
    given = [Row(*row, group=0) for row in zip(rows, ADVANTAGES, weights.tolist(), strict=True)]
    loss_sum = 0.0
    for part in microbatches(given, tokens_per_microbatch=limit):
        logprobs = sampled_logprobs(policy, [rows[number] for number in part.numbers], temperature)
        loss = (importance_sampling(logprobs, part.sampled_logprobs, part.advantages).terms * part.weights).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        loss_sum += float(loss.detach())
    return loss_sum


def take_gradients(policy: Policy) -> dict[str, Tensor]:
    found = {}
    for name, parameter in policy.trainable.items():
        assert parameter.grad is not None, name
        found[name], parameter.grad = parameter.grad, None
    return found


@pytest.mark.parametrize(
    ("model", "temperature", "aggregation"),
    [("llama", 1.0, "token"), ("gqa", 0.7, "sequence"), ("gpt2", 0.7, "token"), ("llama", 0.7, "constant")],
)
def test_loss_and_gradient_equal_the_naive_reference(folders, load_policy, rows, model, temperature, aggregation):
    policy = load_policy(folders[model])
    expected = naive_loss(policy, rows, temperature, aggregation)
    expected.backward()  # type: ignore[no-untyped-call]
    gradients = take_gradients(policy)
    assert all(float(g.abs().max()) > 1e-4 for g in gradients.values())  # A and B of every layer take part
    scale = max(float(g.abs().max()) for g in gradients.values())
    for tokens_per_microbatch in (1, 20, 45, 10_000):
        found = our_loss(policy, rows, temperature, aggregation, tokens_per_microbatch)
        assert found == pytest.approx(float(expected.detach()), rel=1e-5)
        ours = take_gradients(policy)
        for name, gradient in gradients.items():
            assert float((ours[name] - gradient).abs().max()) < 1e-5 * scale, name
