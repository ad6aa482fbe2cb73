"""The policy: its log probabilities, its adapter folder, and the models that it must refuse."""

import math
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from trainers import policy as policy_module
from trainers.policy import Policy, choose_device, choose_dtype, token_logprobs

TOKENS = torch.tensor([[5, 6, 7, 8, 9, 10], [11, 12, 13, 14, 0, 0], [20, 21, 3, 0, 0, 0]])
IS_ACTION = torch.tensor([[0, 0, 1, 1, 0, 1], [0, 1, 1, 1, 0, 0], [0, 0, 1, 0, 0, 0]], dtype=torch.bool)


def base_model(folder) -> Any:
    return AutoModelForCausalLM.from_pretrained(str(folder), dtype=torch.float32)


def test_devices_and_dtypes():
    cpu = torch.device("cpu")
    assert choose_device("cpu") == cpu
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert choose_dtype("float32", cpu) is torch.float32
    assert choose_dtype("bfloat16", cpu) is torch.bfloat16
    assert choose_dtype("auto", torch.device("cuda")) is torch.bfloat16


@pytest.mark.parametrize("dtype", ["float33", "Tensor", "int64", ""])
def test_what_is_no_dtype_for_weights_is_refused(dtype):
    with pytest.raises(ValueError, match="use auto, bfloat16 or float32"):
        choose_dtype(dtype, torch.device("cpu"))


@pytest.mark.parametrize(
    ("float_rate", "bfloat_rate", "dtype"),
    [(1.0, 4.0, torch.bfloat16), (1.0, 1.2, torch.float32), (1.0, 0.1, torch.float32)],
)
def test_auto_takes_the_faster_dtype_of_a_cpu(monkeypatch, float_rate, bfloat_rate, dtype):
    rates = {torch.float32: float_rate, torch.bfloat16: bfloat_rate}
    monkeypatch.setattr(policy_module, "_matmul_rate", lambda candidate: rates[candidate])
    assert choose_dtype("auto", torch.device("cpu")) is dtype


def test_logprobs_of_an_untouched_adapter_are_those_of_the_base(folders, load_policy):
    policy = load_policy(folders["gqa"], adapter_scale=0.0)
    base = base_model(folders["gqa"])
    with torch.no_grad():
        assert torch.equal(policy.model(input_ids=TOKENS).logits, base(input_ids=TOKENS).logits)
        whole = base(input_ids=TOKENS).logits.log_softmax(-1)
        found = policy.logprobs(TOKENS, IS_ACTION)
    expected = [
        whole[row, t - 1, TOKENS[row, t]].item() for row, t in [(0, 2), (0, 3), (0, 5), (1, 1), (1, 2), (1, 3), (2, 2)]
    ]
    assert found.dtype == torch.float32
    assert found.tolist() == pytest.approx(expected, abs=1e-5)


def test_the_adapter_changes_them(folders, load_policy):
    plain, changed = (load_policy(folders["llama"], adapter_scale=scale) for scale in (0.0, 0.1))
    with torch.no_grad():
        gap = (plain.logprobs(TOKENS, IS_ACTION) - changed.logprobs(TOKENS, IS_ACTION)).abs()
    assert float(gap.min()) > 1e-4


@pytest.mark.parametrize("at_a_time", [1, 40, 100, 41 * 6])
@pytest.mark.parametrize("model", ["llama", "gqa"])
def test_a_slice_at_a_time_gives_the_same(folders, load_policy, monkeypatch, at_a_time, model):
    policy = load_policy(folders[model])
    weights = torch.linspace(-1.0, 1.0, 7)

    def both() -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        found = policy.logprobs(TOKENS, IS_ACTION, temperature=0.8)
        (found * weights).sum().backward()
        return found.detach(), {name: _take(p) for name, p in policy.trainable.items()}

    expected, gradients = both()
    monkeypatch.setattr(policy_module, "_LOGITS_AT_A_TIME", at_a_time)
    shapes = []
    hook = policy.lm_head.register_forward_hook(lambda module, inputs, output: shapes.append(output.shape))
    found, ours = both()
    hook.remove()
    rows = max(1, at_a_time // 40)
    assert max(shape[0] for shape in shapes) <= rows < len(expected)
    assert torch.allclose(found, expected, atol=1e-6)
    scale = max(float(gradient.abs().max()) for gradient in gradients.values())
    for name, gradient in gradients.items():
        assert float((ours[name] - gradient).abs().max()) < 1e-6 * scale, name


def _take(parameter: nn.Parameter) -> torch.Tensor:
    assert parameter.grad is not None
    gradient, parameter.grad = parameter.grad, None
    return gradient


def test_token_logprobs_by_hand():
    # A decoder that shows each token's number, and a head with logits (0, h): p(1) = sigmoid(h).
    class Shown:
        def __init__(self, tokens: torch.Tensor) -> None:
            self.last_hidden_state = tokens[..., None].float()

    head = nn.Linear(1, 2, bias=False)
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[0.0], [1.0]]))
    tokens, is_action = torch.tensor([[3, 1, 0]]), torch.tensor([[False, True, True]])

    def decoder(*, input_ids, use_cache):
        assert not use_cache
        return Shown(input_ids)

    for temperature in (1.0, 2.0):
        found = token_logprobs(decoder, head, tokens, is_action, temperature=temperature).tolist()
        first, second = 3 / temperature, 1 / temperature
        expected = [first - math.log(1 + math.exp(first)), -math.log(1 + math.exp(second))]
        assert found == pytest.approx(expected, abs=1e-6)


def test_only_the_adapter_is_trained_and_all_linear_layers_have_one(folders, load_policy):
    policy = load_policy(folders["llama"])
    parts = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    assert len(policy.trainable) == 2 * 2 * len(parts)  # layers, A and B
    for part in parts:
        assert sum(f".{part}.lora_" in name for name in policy.trainable) == 4
    assert not policy.model.training
    assert policy.trainable.keys() == {name for name, p in policy.model.named_parameters() if "lora_" in name}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_there_is_one_dtype(folders, load_policy, dtype):
    policy = load_policy(folders["llama"], dtype=dtype)
    assert {p.dtype for p in policy.model.parameters()} == {getattr(torch, dtype)} == {policy.dtype}
    hidden = policy.hidden_states(TOKENS)
    assert hidden.dtype == policy.dtype
    assert policy.logits(hidden).dtype == torch.float32
    assert policy.logprobs(TOKENS, IS_ACTION).dtype == torch.float32


def test_hidden_states_and_logits_are_those_of_the_model(folders, load_policy):
    policy = load_policy(folders["gqa"])
    with torch.no_grad():
        assert torch.equal(policy.logits(policy.hidden_states(TOKENS)), policy.model(input_ids=TOKENS).logits)


def test_a_saved_adapter_loads_with_peft(folders, load_policy, tmp_path):
    policy = load_policy(folders["gqa"], lora_alpha=12)
    policy.save_adapter(tmp_path / "adapter")
    assert {"adapter_config.json", "adapter_model.safetensors"} <= {p.name for p in (tmp_path / "adapter").iterdir()}
    loaded = PeftModel.from_pretrained(base_model(folders["gqa"]), str(tmp_path / "adapter")).eval()
    with torch.no_grad():
        expected = policy.model(input_ids=TOKENS).logits
        assert torch.equal(loaded(input_ids=TOKENS).logits, expected)
        again = Policy.load(folders["gqa"], device="cpu", dtype="float32", adapter=tmp_path / "adapter")
        assert torch.equal(again.model(input_ids=TOKENS).logits, expected)
    assert again.trainable.keys() == policy.trainable.keys()  # it can be trained on
    assert again.model.peft_config["default"].to_dict()["lora_alpha"] == 12


def test_a_bfloat16_adapter_goes_round_to_the_same_bits(folders, load_policy, tmp_path):
    policy = load_policy(folders["llama"], dtype="bfloat16")
    policy.save_adapter(tmp_path / "adapter")
    again = Policy.load(folders["llama"], device="cpu", dtype="bfloat16", adapter=tmp_path / "adapter")
    for name, parameter in policy.trainable.items():
        assert again.trainable[name].dtype == torch.bfloat16
        assert torch.equal(again.trainable[name], parameter)


def test_the_seed_decides_the_fresh_adapter(folders):
    def weights(seed: int) -> torch.Tensor:
        policy = Policy.load(folders["llama"], device="cpu", dtype="float32", seed=seed)
        assert all(not p.any() for name, p in policy.trainable.items() if "lora_B" in name)
        return torch.cat([p.detach().flatten() for name, p in policy.trainable.items() if "lora_A" in name])

    assert torch.equal(weights(3), weights(3))
    assert not torch.equal(weights(3), weights(4))


SMALL: dict[str, Any] = {
    "vocab_size": 40, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 2, "bos_token_id": None, "eos_token_id": 3, "pad_token_id": 1,
}  # fmt: skip


def test_a_model_that_changes_its_logits_is_refused(tmp_path):
    GraniteForCausalLM(GraniteConfig(**SMALL, logits_scaling=8.0)).save_pretrained(str(tmp_path))
    with pytest.raises(ValueError, match="GraniteForCausalLM changes its logits after the output projection"):
        Policy.load(tmp_path, device="cpu", dtype="float32")


def test_windowed_attention_by_layer_is_refused(tmp_path):
    config = Qwen2Config(**SMALL, use_sliding_window=True, sliding_window=4, max_window_layers=1)
    assert set(config.layer_types or ()) == {"full_attention", "sliding_attention"}
    Qwen2ForCausalLM(config).save_pretrained(str(tmp_path))
    with pytest.raises(ValueError, match="Qwen2ForCausalLM has layers without full attention"):
        Policy.load(tmp_path, device="cpu", dtype="float32")


def test_windowed_attention_everywhere_is_refused(tmp_path):
    # Mistral says so by `sliding_window` alone; the sampler's own mask would silently widen the window.
    MistralForCausalLM(MistralConfig(**SMALL, sliding_window=4)).save_pretrained(str(tmp_path))
    with pytest.raises(ValueError, match="MistralForCausalLM has layers without full attention"):
        Policy.load(tmp_path, device="cpu", dtype="float32")


def test_without_a_window_it_is_not(tmp_path):
    MistralForCausalLM(MistralConfig(**SMALL, sliding_window=None)).save_pretrained(str(tmp_path))
    assert Policy.load(tmp_path, device="cpu", dtype="float32").config.sliding_window is None
