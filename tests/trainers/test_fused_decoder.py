"""The fused decoder says what transformers says, with the adapter as it is at that moment."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from trainers.policy import Policy
from trainers.sampling import TorchSampler, joined_linear
from trainers.sampling.fused_decoder import FusedDecoder
from trainers.sampling.joined_linear import JoinedLinear
from trainers.sampling.ragged_cache import RaggedCache

FAMILIES = ["llama", "gqa", "mistral", "qwen2", "qwen3"]
TOKENS = torch.tensor([[5, 6, 7, 8, 9, 10, 11, 12], [20, 21, 22, 23, 24, 25, 26, 27], [4, 4, 5, 5, 6, 6, 7, 30]])


@torch.inference_mode()
def through(fused: FusedDecoder, tokens: Tensor = TOKENS, *, first: int = 3) -> Tensor:
    """Hidden states of `tokens`: the first few in one pass, then one by one."""
    assert fused.refresh()
    n, length = tokens.shape
    cache = RaggedCache(fused._policy.dtype)
    cache.allocate(rows=n, capacity=first)
    found = []
    for start, width in [(0, first), *((t, 1) for t in range(first, length))]:
        lengths = torch.full((n,), width)
        mask, positions = cache.begin(lengths, width=width, first_slot=0)
        part = tokens[:, start : start + width]
        found.append(fused.hidden_states(part, mask=mask, positions=positions, cache=cache))
        cache.end(lengths, first_slot=0)
    return torch.cat(found, 1).clone()


def fuse(policy: Policy) -> FusedDecoder:
    fused = FusedDecoder.of(policy)
    assert fused is not None
    return fused


def assert_agrees(policy: Policy, fused: FusedDecoder) -> Tensor:
    with torch.no_grad():
        expected = policy.hidden_states(TOKENS)
    found = through(fused)
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-4)
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_it_computes_what_transformers_computes(family_folder, load_policy, family):
    policy = load_policy(family_folder(family))
    fused = fuse(policy)
    with_adapter = assert_agrees(policy, fused)
    with policy.playing_as(None):
        without = assert_agrees(policy, fused)
    assert float((with_adapter - without).abs().max()) > 0.01
    assert torch.equal(assert_agrees(policy, fused), with_adapter)


def test_every_change_of_the_adapter_is_seen(family_folder, load_policy):
    policy = load_policy(family_folder("qwen2"))
    fused = fuse(policy)
    seen = [assert_agrees(policy, fused)]

    def changed() -> None:
        found = assert_agrees(policy, fused)
        assert all(float((found - other).abs().max()) > 1e-3 for other in seen)
        seen.append(found)

    earlier = policy.snapshot()
    with torch.no_grad():
        for parameter in policy.trainable.values():
            parameter.mul_(1.3)  # in place, as an optimizer does
    changed()
    with policy.playing_as(earlier):
        assert torch.equal(assert_agrees(policy, fused), seen[0])
    assert torch.equal(assert_agrees(policy, fused), seen[1])
    for scale in (0.5, 0.7):  # snapshots that may come to lie where the one before lay
        with policy.playing_as({name: value * scale for name, value in earlier.items()}):
            changed()
    name = "model.layers.0.self_attn.q_proj"
    policy.model.get_base_model().get_submodule(name).set_scale("default", 3.0)
    changed()


def test_another_adapter_with_another_rank(family_folder, load_policy):
    from peft import LoraConfig

    policy = load_policy(family_folder("gqa"))
    fused = fuse(policy)
    first = assert_agrees(policy, fused)
    torch.manual_seed(5)
    lora = LoraConfig(r=7, target_modules=["q_proj", "up_proj", "v_proj"], init_lora_weights=False)
    policy.model.add_adapter("wide", lora)
    policy.model.set_adapter("wide")
    for layer in policy.decoder.layers:
        for module in (layer.self_attn.o_proj, layer.self_attn.k_proj):
            assert "wide" not in module.lora_A
    # Layers without the active adapter are not known: transformers computes them.
    assert not fused.refresh()
    sampler = TorchSampler(policy, stop_tokens=[3])
    assert sampler.fused is None
    policy.model.set_adapter("default")
    assert torch.equal(assert_agrees(policy, fused), first)


@pytest.mark.parametrize("family", ["gqa", "qwen2"])
def test_a_rank_of_each_layer_s_own(family_folder, family):
    policy = with_lora(family_folder(family), rank_pattern={"q_proj": 3, "k_proj": 1, "layers.1.mlp.up_proj": 9})
    fused = fuse(policy)
    assert_agrees(policy, fused)
    from peft import LoraConfig

    torch.manual_seed(6)
    policy.model.add_adapter("other", LoraConfig(r=11, target_modules="all-linear", init_lora_weights=False))
    policy.model.set_adapter("other")
    assert_agrees(policy, fused)


def test_an_adapter_on_some_layers_only(family_folder):
    policy = with_lora(family_folder("gqa"), target_modules=["q_proj", "v_proj", "down_proj"])
    assert_agrees(policy, fuse(policy))


def with_lora(folder: Any, **options: Any) -> Policy:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    base: Any = AutoModelForCausalLM.from_pretrained(str(folder), dtype=torch.float32, attn_implementation="sdpa")
    lora = LoraConfig(**{"r": 5, "target_modules": "all-linear", "init_lora_weights": False, **options})
    return Policy(get_peft_model(base, lora, autocast_adapter_dtype=False))


@pytest.mark.parametrize(
    "options",
    [
        {"use_dora": True},
        {"bias": "all"},
        {"lora_bias": True, "target_modules": ["q_proj"]},
        {"target_modules": ["v_proj"], "modules_to_save": ["q_proj"]},
    ],
    ids=["dora", "bias", "lora_bias", "modules_to_save"],
)
def test_adapters_that_are_not_known_here(family_folder, options):
    assert FusedDecoder.of(with_lora(family_folder("qwen2"), **options)) is None


def test_a_merged_adapter_is_not_known_here(family_folder, load_policy):
    policy = load_policy(family_folder("gqa"))
    fused = fuse(policy)
    policy.model.merge_adapter()
    assert not fused.refresh()
    policy.model.unmerge_adapter()
    assert fused.refresh()


@pytest.mark.parametrize("options", [{"modules_to_save": ["norm", "input_layernorm"]}, {"lora_dropout": 0.5}])
def test_what_does_not_concern_the_linear_layers_is_no_obstacle(family_folder, options):
    policy = with_lora(family_folder("qwen2"), target_modules=["q_proj", "v_proj"], **options)
    for name, parameter in policy.trainable.items():
        if "norm" in name:
            parameter.data *= 1.5
    assert_agrees(policy, fuse(policy))


def test_families_that_are_not_known_here(folders, load_policy):
    assert FusedDecoder.of(load_policy(folders["gpt2"])) is None


def test_a_member_of_a_family_that_does_something_else(family_folder, load_policy, monkeypatch):
    policy = load_policy(family_folder("llama"))
    for layer in policy.decoder.layers:
        layer.mlp.register_forward_hook(lambda module, inputs, output: 1.5 * output)
    assert FusedDecoder.of(policy) is None


def test_base_weights_are_not_copied(family_folder, load_policy):
    policy = load_policy(family_folder("qwen3"))
    before = {name: p.detach().clone() for name, p in policy.model.named_parameters()}
    fused = fuse(policy)
    assert fused.refresh()
    for product in fused._products:
        start = product._weight.data_ptr()
        for base in product._bases:
            assert base.weight.data_ptr() == start
            assert base.weight.untyped_storage().data_ptr() == product._weight.untyped_storage().data_ptr()
            start += base.weight.numel() * base.weight.element_size()
    for name, parameter in policy.model.named_parameters():
        assert torch.equal(parameter, before[name]), name


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_training_goes_on_with_the_same_weights(family_folder, load_policy, dtype):
    """Also where the first thing that ever happened was sampling."""
    policy = load_policy(family_folder("gqa"), dtype=dtype)
    policy.hidden_states(TOKENS).float().pow(2).sum().backward()
    expected = {name: p.grad.clone() for name, p in policy.trainable.items() if p.grad is not None}
    policy.model.zero_grad(set_to_none=True)
    sampler = TorchSampler(policy, stop_tokens=[3])
    sampler.open([[5, 6]]).sample({0: []}, max_tokens=4)
    assert not any(p.is_inference() for p in policy.model.parameters())
    policy.hidden_states(TOKENS).float().pow(2).sum().backward()
    for name, gradient in expected.items():
        found = policy.trainable[name].grad
        assert found is not None
        assert torch.equal(found, gradient), name


def random_linear(bias: bool) -> nn.Linear:
    return nn.Linear(16, 12, bias=bias).bfloat16().requires_grad_(requires_grad=False)


@pytest.mark.parametrize("bias", [False, True])
def test_packed_weights_give_the_same(monkeypatch, bias):
    torch.manual_seed(0)
    modules = [random_linear(bias), random_linear(bias=False)]
    x = torch.randn(2, 3, 16).bfloat16()
    with torch.inference_mode():
        packed = JoinedLinear(modules)
        packed.refresh()
        found = packed(x)
    monkeypatch.setattr(joined_linear, "pack_checked", lambda weight: None)
    joined = JoinedLinear(modules)
    joined.refresh()
    expected = torch.cat([module(x) for module in modules], -1)
    for result in (found, joined(x)):
        assert result.shape == (2, 3, 24)
        assert torch.allclose(result.float(), expected.float(), rtol=0.01, atol=0.01)


@pytest.mark.parametrize("family", FAMILIES)
def test_in_bfloat16_packed_and_plain_are_equally_near(family_folder, load_policy, monkeypatch, family):
    policy, exact = (load_policy(family_folder(family), dtype=dtype) for dtype in ("bfloat16", "float32"))
    with torch.no_grad():
        for theirs, ours in zip(exact.model.parameters(), policy.model.parameters(), strict=True):
            theirs.copy_(ours)
        expected = exact.hidden_states(TOKENS)
        noise = float((policy.hidden_states(TOKENS) - expected).norm())
    gaps = [float((through(fuse(policy)) - expected).norm())]
    monkeypatch.setattr(joined_linear, "pack_checked", lambda weight: None)
    gaps.append(float((through(fuse(policy)) - expected).norm()))
    assert max(gaps) < 1.6 * noise
