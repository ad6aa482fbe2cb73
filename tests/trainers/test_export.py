"""The merged model says what base and adapter say together."""

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from trainers.export import save_merged
from trainers.rendering import Renderer
from trainers.tiny_model import build_tiny_model, save_model


def test_a_merged_folder_needs_no_peft(load_policy, guessing_texts, tmp_path):
    model = tmp_path / "model"
    save_model(*build_tiny_model(guessing_texts, seed=0, hidden_size=32, num_heads=2, context_length=64), model)
    policy = load_policy(model)
    tokens = torch.arange(4, 12)[None]
    with torch.no_grad():
        expected = policy.logits(policy.hidden_states(tokens))
        with policy.playing_as(None):
            base = policy.logits(policy.hidden_states(tokens))
        save_merged(policy, str(model), tmp_path / "merged")
        merged = AutoModelForCausalLM.from_pretrained(str(tmp_path / "merged"), dtype=torch.float32)
        found = merged(input_ids=tokens).logits
        assert torch.equal(policy.logits(policy.hidden_states(tokens)), expected), "the policy itself stays as it is"
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert float((found - base).abs().max()) > 0.1, "the adapter is idle: the test shows nothing"
    assert not list((tmp_path / "merged").glob("*adapter*"))
    said = AutoTokenizer.from_pretrained(str(tmp_path / "merged"))
    assert said.get_vocab() == AutoTokenizer.from_pretrained(str(model)).get_vocab()
    assert (
        Renderer.from_pretrained(str(tmp_path / "merged")).stop_tokens
        == Renderer.from_pretrained(str(model)).stop_tokens
    )
