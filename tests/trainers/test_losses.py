"""The loss and its gradient, against a reference that knows neither padding nor batches."""

import math

import pytest
import torch
from torch import Tensor

from trainers.batching import microbatches
from trainers.losses import importance_sampling_loss
from trainers.policy import Policy
from trainers.trajectories import Trajectory


def test_three_tokens_by_hand():
    # Ratios 2, 1/2 and 1 times advantages 1, 1 and -3: -(2 + 0.5 - 3) = 0.5.
    sampled = torch.tensor([-2.0, -1.0, -0.5])
    logprobs = (sampled + torch.tensor([math.log(2.0), -math.log(2.0), 0.0])).requires_grad_()
    advantages = torch.tensor([1.0, 1.0, -3.0])
    loss = importance_sampling_loss(logprobs, sampled, advantages)
    assert loss.shape == ()
    assert loss.item() == pytest.approx(0.5, abs=1e-6)
    # d/dlogprob of -ratio * advantage is itself.
    [gradient] = torch.autograd.grad(loss, logprobs)
    assert gradient.tolist() == pytest.approx([-2.0, -0.5, 3.0], abs=1e-6)


def test_at_ratio_one_the_gradient_is_that_of_reinforce():
    logits = torch.randn(5, 7, generator=torch.Generator().manual_seed(0), requires_grad=True)
    targets, advantages = torch.tensor([0, 3, 6, 6, 1]), torch.tensor([1.0, -0.5, 0.25, 2.0, 0.0])
    logprobs = logits.log_softmax(-1)[torch.arange(5), targets]
    [ours] = torch.autograd.grad(importance_sampling_loss(logprobs, logprobs.detach(), advantages), logits)
    by_hand = advantages[:, None] * (logits.detach().softmax(-1) - torch.eye(7)[targets])
    assert torch.allclose(ours, by_hand, atol=1e-6)


def test_no_gradient_flows_into_sampler_or_advantages():
    sampled, advantages = torch.zeros(2, requires_grad=True), torch.ones(2, requires_grad=True)
    logprobs = torch.zeros(2, requires_grad=True)
    importance_sampling_loss(logprobs, sampled, advantages).backward()  # type: ignore[no-untyped-call]
    assert sampled.grad is None
    assert advantages.grad is None
    assert logprobs.grad is not None


@pytest.mark.parametrize("wrong", range(3))
def test_unequal_shapes_are_refused(wrong):
    arguments = [torch.zeros(4) for _ in range(3)]
    arguments[wrong] = torch.zeros(4, 1)
    with pytest.raises(ValueError, match="differ in shape"):
        importance_sampling_loss(*arguments)


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


def naive_loss(policy: Policy, rows: list[Trajectory], temperature: float) -> Tensor:
    """One forward pass a row, one token at a time."""
    total = 0
    loss = torch.zeros(())
    for row, advantages in zip(rows, ADVANTAGES, strict=True):
        logits = policy.model(input_ids=torch.tensor([row.tokens])).logits[0]  # [T, V]
        of_token = [a for turn, a in zip(row.turns, advantages, strict=True) for _ in range(turn.num_tokens)]
        for t, token in enumerate(row.tokens):
            if row.is_action[t]:
                scaled = logits[t - 1] / temperature
                logprob = scaled[token] - scaled.exp().sum().log()
                loss = loss - torch.exp(logprob - row.logprobs[t]) * of_token.pop(0)
                total += 1
        assert not of_token
    return loss / total


def our_loss(policy: Policy, rows: list[Trajectory], temperature: float, tokens_per_microbatch: int) -> float:
    total = sum(row.num_action_tokens for row in rows)
    loss_sum = 0.0
    for part in microbatches(rows, ADVANTAGES, tokens_per_microbatch=tokens_per_microbatch):
        logprobs = policy.logprobs(part.tokens, part.is_action, temperature=temperature)
        loss = importance_sampling_loss(logprobs, part.sampled_logprobs, part.advantages) / total
        loss.backward()  # type: ignore[no-untyped-call]
        loss_sum += float(loss.detach())
    return loss_sum


def take_gradients(policy: Policy) -> dict[str, Tensor]:
    found = {}
    for name, parameter in policy.trainable.items():
        assert parameter.grad is not None, name
        found[name], parameter.grad = parameter.grad, None
    return found


@pytest.mark.parametrize("model", ["llama", "gqa", "gpt2"])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_loss_and_gradient_equal_the_naive_reference(folders, load_policy, rows, model, temperature):
    policy = load_policy(folders[model])
    expected = naive_loss(policy, rows, temperature)
    expected.backward()  # type: ignore[no-untyped-call]
    gradients = take_gradients(policy)
    assert all(float(g.abs().max()) > 1e-4 for g in gradients.values())  # A and B of every layer take part
    scale = max(float(g.abs().max()) for g in gradients.values())
    for tokens_per_microbatch in (1, 20, 45, 10_000):
        found = our_loss(policy, rows, temperature, tokens_per_microbatch)
        assert found == pytest.approx(float(expected.detach()), rel=1e-5)
        ours = take_gradients(policy)
        for name, gradient in gradients.items():
            assert float((ours[name] - gradient).abs().max()) < 1e-5 * scale, name
