"""Adam over float32 masters."""

import copy
import math

import pytest
import torch
from torch import nn

from trainers.optimizer import MasterAdam


def parameters(dtype=torch.float32, *, seed=0) -> dict[str, nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: nn.Parameter(torch.randn(shape, generator=generator).to(dtype))
        for name, shape in (("a", (3, 4)), ("b", (5,)))
    }


def give_gradients(params: dict[str, nn.Parameter], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for p in params.values():
        p.grad = torch.randn(p.shape, generator=generator).to(p.dtype)


def test_the_first_step_by_hand():
    # Adam's first step is the learning rate against the gradient's sign, but for eps.
    p = nn.Parameter(torch.tensor([1.0, 1.0, 1.0]))
    optimizer = MasterAdam({"p": p}, learning_rate=0.25, eps=1.0)
    p.grad = torch.tensor([3.0, -1.0, 0.0])
    assert optimizer.step() == pytest.approx(math.sqrt(10.0))
    assert p.tolist() == pytest.approx([1 - 0.25 * 3 / 4, 1 + 0.25 / 2, 1.0])
    assert p.grad is None


def test_steps_below_the_resolution_of_bfloat16_add_up():
    p = nn.Parameter(torch.ones(4, dtype=torch.bfloat16))
    assert (torch.ones((), dtype=torch.bfloat16) - 1e-5).item() == 1.0  # what the master is for
    optimizer = MasterAdam({"p": p}, learning_rate=1e-5)
    moved_at = None
    for step in range(1000):
        p.grad = torch.ones(4, dtype=torch.bfloat16)
        optimizer.step()
        if moved_at is None and p[0] != 1.0:
            moved_at = step
    assert optimizer.state_dict()["masters"]["p"].tolist() == pytest.approx([0.99] * 4, abs=2e-5)
    assert p.dtype == torch.bfloat16
    assert p.tolist() == [torch.tensor(0.99).bfloat16().item()] * 4
    assert moved_at is not None
    assert moved_at > 100


@pytest.mark.parametrize("max_grad_norm", [None, 0.5, 100.0])
def test_it_is_torchs_adam_with_torchs_clipping(max_grad_norm):
    ours, theirs = parameters(), parameters()
    optimizer = MasterAdam(ours, learning_rate=0.01, betas=(0.8, 0.9), eps=1e-6)
    reference = torch.optim.Adam(theirs.values(), lr=0.01, betas=(0.8, 0.9), eps=1e-6)
    for step in range(5):
        give_gradients(ours, step)
        give_gradients(theirs, step)
        norm = optimizer.step(max_grad_norm=max_grad_norm)
        bound = math.inf if max_grad_norm is None else max_grad_norm
        assert norm == pytest.approx(float(nn.utils.clip_grad_norm_(theirs.values(), bound)), rel=1e-6)
        reference.step()
        for name, p in ours.items():
            assert torch.allclose(p, theirs[name], rtol=1e-6, atol=1e-7)


def test_a_state_goes_round_to_the_same_bits(tmp_path):
    ours = parameters(torch.bfloat16)
    optimizer = MasterAdam(ours, learning_rate=0.01)
    for step in range(3):
        give_gradients(ours, step)
        optimizer.step()
    torch.save(optimizer.state_dict(), tmp_path / "state.pt")
    others = parameters(torch.bfloat16, seed=9)
    restored = MasterAdam(others, learning_rate=0.01)
    restored.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for step in range(3, 6):
        for name, p in ours.items():
            assert torch.equal(p, others[name])
            assert torch.equal(optimizer.state_dict()["masters"][name], restored.state_dict()["masters"][name])
        give_gradients(ours, step)
        give_gradients(others, step)
        assert optimizer.step(max_grad_norm=1.0) == restored.step(max_grad_norm=1.0)


def test_a_state_of_other_parameters_is_refused():
    optimizer = MasterAdam(parameters())
    state = copy.deepcopy(optimizer.state_dict())
    state["masters"]["c"] = state["masters"].pop("b")
    with pytest.raises(ValueError, match="another adapter"):
        optimizer.load_state_dict(state)


def test_the_learning_rate_can_change():
    p = nn.Parameter(torch.zeros(1))
    optimizer = MasterAdam({"p": p}, learning_rate=1.0)
    optimizer.set_learning_rate(0.125)
    p.grad = torch.ones(1)
    optimizer.step()
    assert p.item() == pytest.approx(-0.125)


def test_a_parameter_without_gradient_stays():
    params = parameters()
    before = params["b"].detach().clone()
    optimizer = MasterAdam(params, learning_rate=1.0)
    params["a"].grad = torch.ones(3, 4)
    assert optimizer.step() == pytest.approx(math.sqrt(12))
    assert torch.equal(params["b"], before)


def test_gradients_add_up_in_float32():
    """256 and one is 256 in bfloat16, however often one is added."""
    p = nn.Parameter(torch.zeros(2, dtype=torch.bfloat16))
    optimizer = MasterAdam({"p": p}, learning_rate=1.0, eps=1e9)  # a step of the gradient over 1e9
    p.grad = torch.tensor([256.0, 0.0], dtype=torch.bfloat16)
    optimizer.collect()
    for _ in range(64):
        p.grad = torch.tensor([1.0, 0.0], dtype=torch.bfloat16)
        optimizer.collect()
    p.grad = torch.tensor([0.0, 3.0], dtype=torch.bfloat16)  # the step collects what is left
    assert optimizer.step() == pytest.approx(math.hypot(320.0, 3.0))
    assert optimizer.state_dict()["masters"]["p"].tolist() == pytest.approx([-320e-9, -3e-9])


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("max_grad_norm", [None, 1.0])
def test_a_gradient_that_is_no_number_changes_nothing(bad, max_grad_norm):
    ours = parameters()
    optimizer = MasterAdam(ours, learning_rate=0.1)
    give_gradients(ours, 0)
    optimizer.step()
    before = optimizer.copied_state()
    give_gradients(ours, 1)
    gradient = ours["a"].grad
    assert gradient is not None
    gradient[0, 0] = bad
    assert not math.isfinite(optimizer.step(max_grad_norm=max_grad_norm))
    for name, p in ours.items():
        assert torch.equal(p, before["masters"][name])
        assert p.grad is None
    # The next step is as if it had not been there.
    others = parameters()
    restored = MasterAdam(others, learning_rate=0.1)
    restored.load_state_dict(before)
    for params in (ours, others):
        give_gradients(params, 2)
    assert optimizer.step() == restored.step()
    assert all(torch.equal(p, others[name]) for name, p in ours.items())


def test_a_copied_state_does_not_follow():
    ours = parameters()
    optimizer = MasterAdam(ours, learning_rate=0.1)
    fresh = optimizer.copied_state()
    give_gradients(ours, 0)
    optimizer.step()
    kept = optimizer.copied_state()
    after_one = {name: p.detach().clone() for name, p in ours.items()}
    give_gradients(ours, 1)
    optimizer.step()
    optimizer.load_state_dict(kept)
    assert all(torch.equal(p, after_one[name]) for name, p in ours.items())
    optimizer.load_state_dict(fresh)  # that of before the first step has no moments
    assert optimizer.state_dict()["adam"]["state"] == {}
    assert all(torch.equal(p, q) for p, q in zip(ours.values(), parameters().values(), strict=True))
