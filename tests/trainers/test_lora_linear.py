"""A layer and its adapter as one step: peft's numbers, and peft itself wherever the adapter is no ordinary one."""

import copy
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import Linear as LoraLinear
from torch import nn

from trainers import lora_linear
from trainers.lora_linear import is_plain, join_adapters

product: Any = lora_linear._LoraLinear.apply


class Two(nn.Module):
    """Two layers in a row, one with a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 10)
        self.second = nn.Linear(10, 4, bias=False)

    def forward(self, x):
        return self.second(torch.tanh(self.first(x)))


def adapted(*, dtype: torch.dtype = torch.float64, **options: Any) -> Any:
    torch.manual_seed(0)
    config = LoraConfig(r=3, lora_alpha=5, target_modules=["first", "second"], **options)
    model = get_peft_model(Two(), config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    return model.to(dtype)


def joined(model: Any) -> Any:
    twin = copy.deepcopy(model)
    join_adapters(twin)
    return twin


def outcome(model: Any, x: torch.Tensor) -> dict[str, torch.Tensor]:
    """What comes out, and all gradients."""
    x = x.clone().requires_grad_()
    found = model(x)
    weights = torch.arange(found.numel(), dtype=x.dtype).view_as(found).cos()
    (found * weights).sum().backward()
    slopes = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {"output": found.detach(), "input": x.grad, **slopes}


def input_rows(*shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, 6, generator=torch.Generator().manual_seed(3), dtype=torch.float64).to(dtype)


@pytest.fixture
def joins(monkeypatch):
    """The calls that went the joined way."""
    found: list[Any] = []

    def apply(*args: Any) -> Any:
        found.append(args)
        return product(*args)

    monkeypatch.setattr(lora_linear._LoraLinear, "apply", apply)
    return found


@pytest.mark.parametrize("shape", [(7,), (2, 5), (1, 2, 3), ()])
def test_it_is_what_peft_computes(shape, joins):
    plain = adapted()
    ours = joined(plain)
    expected, found = outcome(plain, input_rows(*shape)), outcome(ours, input_rows(*shape))
    assert len(joins) == 2
    assert found.keys() == expected.keys()
    assert sum("lora" in name for name in found) == 4
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-12, atol=1e-12)


def test_by_hand(joins):
    """x = (1, 2), W = (3, 4), bias 10, A = (5, 6), B = 7, scale 2: y = 11 + 10 + 2 * 17 * 7."""
    x = torch.tensor([[1.0, 2.0]], requires_grad=True)
    weight, bias = torch.tensor([[3.0, 4.0]]), torch.tensor([10.0])
    down = torch.tensor([[5.0, 6.0]], requires_grad=True)
    up = torch.tensor([[7.0]], requires_grad=True)
    found = product(x, weight, bias, down, up, 2.0)
    assert found.tolist() == [[259.0]]
    found.sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [[3 + 2 * 7 * 5, 4 + 2 * 7 * 6]]
    assert down.grad is not None
    assert down.grad.tolist() == [[2 * 7 * 1, 2 * 7 * 2]]
    assert up.grad is not None
    assert up.grad.tolist() == [[2 * 17]]


def test_in_bfloat16_it_is_as_exact_as_peft(joins):
    exact, plain = adapted(), adapted(dtype=torch.bfloat16)
    with torch.no_grad():  # the same numbers: what bfloat16 can hold
        for mine, theirs in zip(exact.parameters(), plain.parameters(), strict=True):
            mine.copy_(theirs)
    truth = outcome(exact, input_rows(64, dtype=torch.bfloat16).double())
    ours, theirs = (outcome(m, input_rows(64, dtype=torch.bfloat16)) for m in (joined(plain), plain))
    assert len(joins) == 2

    def errors(values: dict[str, torch.Tensor]) -> list[float]:
        return [float((values[name] - t).norm() / t.norm()) for name, t in truth.items()]

    assert max(errors(ours)) < 0.02
    assert sum(errors(ours)) < 1.1 * sum(errors(theirs))


def test_the_first_layer_of_all_needs_no_gradient_of_its_input(joins):
    model = joined(adapted())
    model(input_rows(4)).sum().backward()
    assert len(joins) == 2
    assert all(p.grad is not None for name, p in model.named_parameters() if "lora" in name)


@pytest.mark.parametrize("how", ["off", "merged", "dora", "bias", "two adapters", "dropout"])
@pytest.mark.filterwarnings("ignore:`lora_bias=True` was passed:UserWarning")
def test_what_is_not_ordinary_is_peft_s_affair(how, joins):
    options: dict[str, Any] = {
        "dora": {"use_dora": True},
        "bias": {"lora_bias": True},
        "dropout": {"lora_dropout": 0.5},
    }
    plain = adapted(**options.get(how, {}))
    if how == "merged":
        plain.merge_adapter()
    if how == "two adapters":
        plain.add_adapter("other", LoraConfig(r=2, target_modules=["first", "second"]))
        plain.to(torch.float64).base_model.set_adapter(["default", "other"])
    plain.train(how == "dropout")
    results = []
    for model in (plain, joined(plain)):
        torch.manual_seed(1)
        x = input_rows(5)
        if how == "off":
            with model.disable_adapter():
                results.append(model(x))
        else:
            results.append(model(x))
    assert joins == []
    assert torch.equal(*results)


def test_without_a_gradient_the_numbers_are_the_same(joins):
    model = joined(adapted(dtype=torch.bfloat16))
    x = input_rows(64, dtype=torch.bfloat16)
    with torch.no_grad():
        found = model(x)
    assert torch.equal(found, model(x))
    assert len(joins) == 4


def test_dropout_that_is_off_is_none(joins):
    model = joined(adapted(lora_dropout=0.5)).eval()
    model(input_rows(5))
    assert len(joins) == 2


def test_a_copy_has_weights_of_its_own(joins):
    first = joined(adapted())
    second = copy.deepcopy(first)
    before = second(input_rows(3))
    with torch.no_grad():
        for name, parameter in first.named_parameters():
            if "lora_B" in name:
                parameter.zero_()
    assert torch.equal(second(input_rows(3)), before)
    assert not torch.equal(first(input_rows(3)), before)


def test_the_layers_stay_what_they_are():
    model = joined(adapted())
    layers = [m for m in model.modules() if isinstance(m, LoraLinear)]
    assert [type(m) for m in layers] == [LoraLinear, LoraLinear]
    assert all(is_plain(m) for m in layers)
    assert model.merge_and_unload()(input_rows(2)).shape == (2, 4)


def test_the_formula_of_the_gradient():
    generator = torch.Generator().manual_seed(0)
    shapes = ((4, 5), (6, 5), (6,), (2, 5), (6, 2))
    x, weight, bias, down, up = (torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes)
    for part in (x, down, up):
        part.requires_grad_()
    assert torch.autograd.gradcheck(lambda *p: product(p[0], weight, bias, p[1], p[2], 1.7),
                                    (x, down, up))  # fmt: skip
