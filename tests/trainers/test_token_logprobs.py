"""Log probabilities and their slopes, against torch's own derivative of log_softmax."""

import math

import pytest
import torch
from torch import Tensor, nn

from trainers import token_logprobs as module
from trainers.token_logprobs import token_logprobs

VOCABULARY, WIDTH, COUNT = 37, 8, 23


def head(*, bias: bool = False, dtype: torch.dtype = torch.float32) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(WIDTH, VOCABULARY, bias=bias).to(dtype).requires_grad_(requires_grad=False)


def inputs(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    hidden = (3 * torch.randn(COUNT, WIDTH, generator=generator)).to(dtype).requires_grad_()
    return hidden, torch.randint(0, VOCABULARY, (COUNT,), generator=generator), torch.linspace(-1.0, 2.0, COUNT)


def by_hand(lm_head: nn.Linear, hidden: Tensor, targets: Tensor, temperature: float) -> Tensor:
    return torch.log_softmax(lm_head(hidden) / temperature, -1).gather(1, targets[:, None]).squeeze(1)


def take_grad(tensor: Tensor) -> Tensor:
    assert tensor.grad is not None
    found, tensor.grad = tensor.grad, None
    return found


@pytest.mark.parametrize("at_a_time", [1, VOCABULARY, 5 * VOCABULARY + 3, 10**6])
@pytest.mark.parametrize("temperature", [1.0, 0.7, 2.0])
@pytest.mark.parametrize("bias", [False, True])
def test_values_and_slopes(monkeypatch, bias, temperature, at_a_time):
    monkeypatch.setattr(module, "_LOGITS_AT_A_TIME", {"cpu": at_a_time, "cuda": at_a_time})
    lm_head = head(bias=bias)
    hidden, targets, weights = inputs()
    found = token_logprobs(lm_head, hidden, targets, temperature=temperature)
    (found * weights).sum().backward()  # type: ignore[no-untyped-call]
    ours = take_grad(hidden)
    expected = by_hand(lm_head, hidden, targets, temperature)
    (expected * weights).sum().backward()  # type: ignore[no-untyped-call]
    assert found.dtype == torch.float32
    assert torch.allclose(found, expected, atol=1e-5)
    assert torch.allclose(ours, take_grad(hidden), atol=1e-6)
    assert lm_head.weight.grad is None


def test_two_words_by_hand():
    # Logits (0, h): p(1) = sigmoid(h), and d log p(1) / d h = 1 - p(1).
    lm_head = nn.Linear(1, 2, bias=False)
    with torch.no_grad():
        lm_head.weight.copy_(torch.tensor([[0.0], [1.0]]))
    hidden = torch.tensor([[3.0], [1.0]], requires_grad=True)
    for temperature in (1.0, 2.0):
        found = token_logprobs(lm_head, hidden, torch.tensor([1, 0]), temperature=temperature)
        found.sum().backward()  # type: ignore[no-untyped-call]
        first, second = 3 / temperature, 1 / temperature
        values = [-math.log(1 + math.exp(-first)), -math.log(1 + math.exp(second))]
        slopes = [1 / (1 + math.exp(first)) / temperature, -1 / (1 + math.exp(-second)) / temperature]
        assert found.tolist() == pytest.approx(values, abs=1e-6)
        assert take_grad(hidden).flatten().tolist() == pytest.approx(slopes, abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_of_a_probability_that_underflows_the_logarithm_is_right(dtype):
    lm_head = nn.Linear(1, 3, bias=False).to(dtype)
    with torch.no_grad():
        lm_head.weight.copy_(torch.tensor([[0.0], [1.0], [-1.0]]))
    hidden = torch.full((2, 1), 400.0, dtype=dtype, requires_grad=True)
    found = token_logprobs(lm_head, hidden, torch.tensor([0, 2]))
    assert found.tolist() == [-400.0, -800.0]
    found.sum().backward()  # type: ignore[no-untyped-call]
    assert hidden.grad is not None
    assert hidden.grad.flatten().tolist() == [-1.0, -2.0]


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_bfloat16_is_near(temperature):
    lm_head = head(dtype=torch.bfloat16)
    hidden, targets, weights = inputs(torch.bfloat16)
    found = token_logprobs(lm_head, hidden, targets, temperature=temperature)
    (found * weights).sum().backward()  # type: ignore[no-untyped-call]
    exact = hidden.detach().float().requires_grad_()
    expected = by_hand(head(dtype=torch.bfloat16).float(), exact, targets, temperature)
    (expected * weights).sum().backward()  # type: ignore[no-untyped-call]
    assert found.dtype == torch.float32
    assert hidden.grad is not None
    assert exact.grad is not None
    assert hidden.grad.dtype == torch.bfloat16
    assert torch.allclose(found, expected, rtol=0.0, atol=0.03)  # logits up to 6 are rounded by up to 0.016
    assert float((hidden.grad.float() - exact.grad).norm() / exact.grad.norm()) < 0.01


def test_no_tensor_of_the_whole_vocabulary(monkeypatch):
    monkeypatch.setattr(module, "_LOGITS_AT_A_TIME", {"cpu": 4 * VOCABULARY + 1, "cuda": 1})
    shapes = []
    inner = torch.nn.functional.linear

    def watch(*arguments, **options):
        found = inner(*arguments, **options)
        shapes.append(tuple(found.shape))
        return found

    monkeypatch.setattr(torch.nn.functional, "linear", watch)
    hidden, targets, weights = inputs()
    found = token_logprobs(head(), hidden, targets)
    (found * weights).sum().backward()  # type: ignore[no-untyped-call]
    assert [rows for rows, _ in shapes] == [4, 4, 4, 4, 4, 3]  # 23 tokens, and none again in the backward pass


def test_what_is_kept_is_no_larger_than_the_hidden_states():
    kept = []
    hidden, targets, _ = inputs()

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        token_logprobs(head(), hidden, targets)
    assert kept == [COUNT * WIDTH]
    with torch.no_grad():
        assert not token_logprobs(head(), hidden, targets).requires_grad


def test_nothing_gives_nothing():
    assert token_logprobs(head(), torch.zeros(0, WIDTH), torch.zeros(0, dtype=torch.int64)).shape == (0,)


@pytest.mark.parametrize("gap", [0.0, 2.0, 5.0, 7.0, 9.0])
def test_the_slope_of_a_likely_token_is_as_exact_as_that_of_an_unlikely_one(gap):
    """p goes up to 0.9999, where the token's own row and the mean of all rows are nearly the same."""
    torch.manual_seed(0)
    width, count = 64, 50
    lm_head = nn.Linear(width, 200, bias=False).to(torch.bfloat16).requires_grad_(requires_grad=False)
    targets = torch.arange(count)
    rows = lm_head.weight.float()[:count]
    size = (gap + 5.3) / rows.square().sum(1, keepdim=True)  # the logit of the target over those around 0
    hidden = (rows * size).to(torch.bfloat16).requires_grad_()
    token_logprobs(lm_head, hidden, targets).sum().backward()  # type: ignore[no-untyped-call]
    ours = take_grad(hidden).double()
    exact = hidden.detach().double().requires_grad_()
    weight = lm_head.weight.double()
    torch.log_softmax(exact @ weight.T, -1).gather(1, targets[:, None]).sum().backward()  # type: ignore[no-untyped-call]
    errors = (ours - take_grad(exact)).norm(dim=1) / take_norm(exact, weight, targets)
    assert float(errors.median()) < 0.05


def take_norm(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Norms of the exact slopes, in other words than a derivative."""
    probabilities = torch.softmax(hidden.detach() @ weight.T, -1)
    found: Tensor = (weight[targets] - probabilities @ weight).norm(dim=1)
    return found
