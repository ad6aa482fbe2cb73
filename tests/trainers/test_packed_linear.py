"""Products with packed weights: the same numbers, or plain weights."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from trainers.sampling import packed_linear
from trainers.sampling.packed_linear import multiply, pack, pack_checked, packed_head


@pytest.fixture
def weight():
    return torch.randn(70, 48, generator=torch.Generator().manual_seed(0)).bfloat16()


@pytest.mark.parametrize("rows", [1, 3, 32, 500])
def test_a_product_is_the_plain_one(weight, rows):
    packed = pack_checked(weight)
    if packed is None:
        pytest.skip("this machine, or its torch, packs no weights")
    generator = torch.Generator().manual_seed(1)
    x, plus = (torch.randn(rows, n, generator=generator).bfloat16() for n in (48, 70))
    bias = torch.randn(70, generator=generator).bfloat16()
    with torch.inference_mode():
        for found, expected in (
            (multiply(x, packed), F.linear(x, weight)),
            (multiply(x, packed, bias), F.linear(x, weight, bias)),
            (multiply(x, packed, plus=plus), F.linear(x, weight) + plus),
            (multiply(x, packed, bias, plus=plus), F.linear(x, weight, bias) + plus),
        ):
            assert torch.allclose(found.float(), expected.float(), rtol=0.02, atol=0.05)


def test_only_what_gains_is_packed(weight):
    assert pack(weight.float()) is None
    assert pack(weight[:0]) is None
    assert pack(weight.to("meta")) is None


def test_where_packing_is_unknown_weights_are_plain(weight, monkeypatch):
    def fail(*_: object) -> None:
        raise RuntimeError("no such operator")

    class Gone:
        _reorder_linear_weight = staticmethod(fail)

    monkeypatch.setattr(torch.ops, "mkldnn", Gone())
    assert pack_checked(weight) is None
    head = nn.Linear(48, 70, bias=False).bfloat16().requires_grad_(requires_grad=False)
    assert packed_head(head) is head


@pytest.mark.parametrize("wrong", ["values", "plus"])
def test_where_products_come_out_otherwise_weights_are_plain(weight, monkeypatch, wrong):
    def multiply(x, packed, bias=None, *, plus=None):
        found = F.linear(x, weight if wrong == "plus" else 1.1 * weight)
        return found if plus is None or wrong == "plus" else found + plus

    monkeypatch.setattr(packed_linear, "pack", lambda weight: weight)
    monkeypatch.setattr(packed_linear, "multiply", multiply)
    assert pack_checked(weight) is None


@pytest.mark.parametrize("bias", [False, True])
def test_the_head(bias):
    torch.manual_seed(0)
    head = nn.Linear(48, 70, bias=bias).bfloat16()
    assert packed_head(head) is head  # it may still learn
    head.requires_grad_(requires_grad=False)
    x = torch.randn(5, 48).bfloat16()
    with torch.inference_mode():
        assert torch.allclose(packed_head(head)(x).float(), head(x).float(), rtol=0.02, atol=0.02)
