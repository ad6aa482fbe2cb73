"""The estimators of the divergence from the base model: their values, and which gradient each has where."""

import math
from typing import get_args

import pytest
import torch
from torch import Tensor

from trainers.config import ConfigError
from trainers.config.loss import KLEstimator
from trainers.losses import kl_estimate, reinforce


def test_divergence_by_hand():
    # Log-ratios 1, -1 and 0: k2 is half their square; k3 is 1/e - 1 + 1, e - 1 - 1 and 1 - 1.
    logprobs, base = torch.tensor([-1.0, -2.0, -0.5], requires_grad=True), torch.tensor([-2.0, -1.0, -0.5])
    expected: dict[KLEstimator, tuple[list[float], list[float]]] = {  # values, and their derivatives: 1, r, 1 - e^-r
        "k1": ([1.0, -1.0, 0.0], [1.0, 1.0, 1.0]),
        "k2": ([0.5, 0.5, 0.0], [1.0, -1.0, 0.0]),
        "k3": ([1 / math.e, math.e - 2, 0.0], [1 - 1 / math.e, 1 - math.e, 0.0]),
    }
    for estimator, (values, slopes) in expected.items():
        found = kl_estimate(logprobs, base, estimator)
        assert found.tolist() == pytest.approx(values, abs=1e-6)
        assert torch.autograd.grad(found.sum(), logprobs)[0].tolist() == pytest.approx(slopes, abs=1e-6)
    with pytest.raises(ValueError, match="differ in shape"):
        kl_estimate(logprobs, base[:2], "k1")
    with pytest.raises(ConfigError, match="kl_estimator must be k1, k2 or k3, not 'k4'"):
        kl_estimate(torch.zeros(1), torch.zeros(1), "k4")  # type: ignore[arg-type]


def test_k3_is_never_negative():
    generator = torch.Generator().manual_seed(0)
    log_ratio = torch.cat([torch.randn(1000, generator=generator) * 10.0**-k for k in range(-3, 9)])
    found = kl_estimate(log_ratio, torch.zeros_like(log_ratio), "k3")
    assert found.min() >= 0
    assert found.isfinite().all()


@pytest.fixture
def categorical() -> tuple[Tensor, Tensor]:
    """Logits, with gradient, of a policy over five words, and the base model's log probabilities."""
    generator = torch.Generator().manual_seed(0)
    logits, base = torch.randn(2, 5, generator=generator, dtype=torch.float64)
    return logits.requires_grad_(), base.log_softmax(0)


def divergence(of: Tensor, to: Tensor) -> Tensor:
    summed: Tensor = (of.exp() * (of - to)).sum()
    return summed


def test_which_divergence_the_estimators_mean(categorical):
    logits, base = categorical
    logprobs = logits.log_softmax(0)
    exact = divergence(logprobs, base).item()
    mean = {k: (logprobs.exp() * kl_estimate(logprobs, base, k)).sum().item() for k in get_args(KLEstimator)}
    assert mean["k1"] == pytest.approx(exact)
    assert mean["k3"] == pytest.approx(exact)
    assert abs(mean["k2"] - exact) > 0.01 * exact


def test_which_gradient_the_estimators_have_as_a_loss(categorical):
    # The expected gradient over all words, as if each had been sampled so often as it is probable.
    logits, base = categorical
    logprobs = logits.log_softmax(0)
    chance = logprobs.detach().exp()

    def gradient(loss: Tensor) -> Tensor:
        found: Tensor = torch.autograd.grad(loss, logits, retain_graph=True)[0]
        return found

    forth, back = gradient(divergence(logprobs, base)), gradient(divergence(base, logprobs))
    assert (forth - back).abs().max() > 0.05
    assert gradient((chance * kl_estimate(logprobs, base, "k1")).sum()).abs().max() < 1e-12
    assert torch.allclose(gradient((chance * kl_estimate(logprobs, base, "k2")).sum()), forth)
    assert torch.allclose(gradient((chance * kl_estimate(logprobs, base, "k3")).sum()), back)


def test_which_gradient_the_estimators_have_as_a_reward(categorical):
    logits, base = categorical
    logprobs = logits.log_softmax(0)
    chance = logprobs.detach().exp()
    [exact] = torch.autograd.grad(divergence(logprobs, base), logits, retain_graph=True)
    found = {}
    for estimator in get_args(KLEstimator):
        cost = reinforce(logprobs, -kl_estimate(logprobs, base, estimator).detach()).terms
        [found[estimator]] = torch.autograd.grad((chance * cost).sum(), logits, retain_graph=True)
    assert torch.allclose(found["k1"], exact)
    assert (found["k2"] - exact).abs().max() > 0.05
    assert (found["k3"] - exact).abs().max() > 0.05
