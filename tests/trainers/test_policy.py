"""The policy: its log probabilities, its adapter folder, and the models that it must refuse."""

from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import (
    AutoModelForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from tests.trainers.packed import assert_same_gradients, gradients, mixed_rows, plain_logprobs, row
from trainers import policy as policy_module
from trainers.batching import microbatches
from trainers.policy import Policy, choose_device, choose_dtype
from trainers.sampling import TorchSampler

TOKENS = torch.tensor([[5, 6, 7, 8, 9, 10], [11, 12, 13, 14, 0, 0], [20, 21, 3, 0, 0, 0]])
ROWS = [row(0, [5, 6], [7, 8], [9], [10]), row(1, [11], [12, 13, 14]), row(2, [20, 21], [3])]
[BATCH] = microbatches(ROWS, tokens_per_microbatch=100)


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
        found = policy.logprobs(BATCH)
    assert BATCH.numbers == (0, 1, 2)
    expected = [
        whole[n, t - 1, TOKENS[n, t]].item() for n, t in [(0, 2), (0, 3), (0, 5), (1, 1), (1, 2), (1, 3), (2, 2)]
    ]
    assert found.dtype == torch.float32
    assert found.tolist() == pytest.approx(expected, abs=1e-5)


def test_the_adapter_changes_them(folders, load_policy):
    plain, changed = (load_policy(folders["llama"], adapter_scale=scale) for scale in (0.0, 0.1))
    with torch.no_grad():
        gap = (plain.logprobs(BATCH) - changed.logprobs(BATCH)).abs()
    assert float(gap.min()) > 1e-4


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
    assert policy.logprobs(BATCH).dtype == torch.float32


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
        # peft adds up in another order than `lora_linear`.
        torch.testing.assert_close(loaded(input_ids=TOKENS).logits, expected, rtol=1e-4, atol=1e-5)
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


def test_attention_that_cannot_be_packed_is_refused(llama_folder, monkeypatch):
    from trainers import prefix_attention

    # A model that computes its own attention would let rows see each other: here, the form does not know segments.
    def causal(kernel, query, key, value, microbatch, scaling):
        found = torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)
        return found.transpose(1, 2)

    monkeypatch.setattr(prefix_attention, "_over_segments", causal)
    with pytest.raises(ValueError, match="LlamaForCausalLM has an attention of its own"):
        Policy.load(llama_folder, device="cpu", dtype="float32")


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("model", ["gqa", "gpt2"])
def test_checkpointed_gradients_are_the_same(folders, load_policy, model, attention):
    rows = mixed_rows()
    [batch] = microbatches(rows, tokens_per_microbatch=1000)
    plain, again = (load_policy(folders[model], attention=attention) for _ in range(2))
    again.checkpoint_gradients()
    kept: list[list[int]] = []
    found = []
    for policy in (plain, again):
        kept.append([])

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            kept[-1].append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            logprobs = policy.logprobs(batch)
        found.append((logprobs.detach(), gradients(policy, logprobs)))
    assert torch.equal(found[0][0], found[1][0])
    assert_same_gradients(found[1][1], found[0][1], tolerance=1e-6)
    assert sum(kept[1]) < 0.2 * sum(kept[0])
    assert not any(module.training for module in again.model.modules())


@pytest.mark.parametrize("model", ["llama", "gpt2"])
def test_a_policy_with_checkpoints_samples_as_before(folders, load_policy, model):
    policy = load_policy(folders[model])

    def sample() -> list[float]:
        session = TorchSampler(policy, stop_tokens=[3]).open([[5, 6, 7], [8]])
        return [x for c in session.sample({0: [], 1: []}, max_tokens=5).values() for x in c.logprobs]

    before = sample()
    policy.checkpoint_gradients()
    policy.logprobs(BATCH).sum().backward()
    assert sample() == before


def test_a_twin_has_an_adapter_of_its_own_over_the_same_base(folders, load_policy):
    policy = load_policy(folders["gqa"])
    twin = policy.twin()
    mine, theirs = dict(policy.model.named_parameters()), dict(twin.model.named_parameters())
    assert mine.keys() == theirs.keys()
    for name, parameter in mine.items():
        assert (theirs[name] is parameter) == (not parameter.requires_grad), name
        assert torch.equal(theirs[name], parameter)
    with torch.no_grad():
        before = twin.logprobs(BATCH)
        assert torch.equal(policy.logprobs(BATCH), before)
        for parameter in policy.trainable.values():
            parameter.mul_(1.5)
        changed = policy.logprobs(BATCH)
        assert float((changed - before).abs().min()) > 1e-4
        assert torch.equal(twin.logprobs(BATCH), before)
        twin.take_adapter(policy)
        assert torch.equal(twin.logprobs(BATCH), changed)
    policy.logprobs(BATCH).sum().backward()
    assert all(parameter.grad is None for parameter in twin.model.parameters())


def test_a_twin_elsewhere_shares_nothing(folders, load_policy):
    policy = load_policy(folders["llama"])
    twin = policy.twin(torch.device("meta"))
    assert {parameter.device.type for parameter in twin.model.parameters()} == {"meta"}
    assert policy.device.type == "cpu"


def test_playing_as_another(folders, load_policy):
    policy = load_policy(folders["llama"])
    first = policy.snapshot()
    with torch.no_grad():
        old = policy.logprobs(BATCH)
        for parameter in policy.trainable.values():
            parameter.mul_(1.5)
        new = policy.logprobs(BATCH)
        with policy.playing_as(first):
            assert torch.equal(policy.logprobs(BATCH), old)
        with policy.playing_as(None):
            assert torch.allclose(
                policy.logprobs(BATCH), load_policy(folders["llama"], adapter_scale=0.0).logprobs(BATCH), atol=1e-6
            )
        with pytest.raises(RuntimeError, match="boom"), policy.playing_as(first):
            raise RuntimeError("boom")
        assert torch.equal(policy.logprobs(BATCH), new)
    assert not torch.equal(old, new)


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_logprobs_are_at_the_temperature(folders, load_policy, temperature):
    policy = load_policy(folders["gpt2"])
    with torch.no_grad():
        expected = plain_logprobs(policy, ROWS, BATCH, temperature)
        assert torch.allclose(policy.logprobs(BATCH, temperature=temperature), expected, atol=1e-5)
