"""A model that ships as code."""

import gymnasium as gym
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from trainers.rendering import Renderer
from trainers.tiny_model import MAX_PARAMETERS, build_tiny_model, build_tokenizer, save_model

LINES = ["I am thinking of a thing.", "Is it alive?", "Yes.", "No.", "Think again.\nIs it a cat?"]


def test_it_is_tiny(guessing_texts):
    model, tokenizer = build_tiny_model(guessing_texts, seed=0)
    assert model.num_parameters() <= MAX_PARAMETERS <= 3_000_000
    assert model.config.vocab_size == len(tokenizer)
    with pytest.raises(ValueError, match="a tiny model has at most 3,000,000"):
        build_tiny_model(guessing_texts, seed=0, hidden_size=512)


def test_it_loads_like_any_other(guessing_texts, tmp_path):
    model, tokenizer = build_tiny_model(guessing_texts, seed=3, hidden_size=32, num_heads=2)
    save_model(model, tokenizer, tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(str(tmp_path), dtype=torch.float32)
    other = AutoTokenizer.from_pretrained(str(tmp_path))
    tokens = torch.tensor([tokenizer.encode("Higher! 50 <end> Lower! <assistant>")])
    assert other.encode("Higher! 50 <end> Lower! <assistant>") == tokens[0].tolist()
    assert (other.eos_token, other.pad_token, other.unk_token) == ("<end>", "<pad>", "<unk>")
    assert other.chat_template == tokenizer.chat_template
    with torch.no_grad():
        assert torch.equal(loaded(input_ids=tokens).logits, model(input_ids=tokens).logits)


def test_the_seed_decides_the_weights(guessing_texts):
    def weights(seed: int) -> torch.Tensor:
        model, _ = build_tiny_model(guessing_texts, seed=seed, hidden_size=32, num_heads=2)
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


def test_words_are_single_tokens(tokenizer, guessing_texts):
    words = {word for text in guessing_texts for word in text.split()}
    assert {"1", "100", "Higher!"} <= words
    ids = set()
    for word in words:
        [token] = tokenizer.encode(word, add_special_tokens=False)
        assert token != tokenizer.unk_token_id
        assert tokenizer.decode([token]) == word
        ids.add(token)
    assert len(ids) == len(words)
    assert max(ids) < len(tokenizer) == len(words) + 4


def test_everything_the_environment_says_is_readable(renderer, tokenizer):
    env = gym.make("llm_envs:GuessNumber-v0")
    observation, info = env.reset(seed=0)
    prompt = renderer.prompt(info["messages"])
    assert tokenizer.unk_token_id not in prompt
    assert tokenizer.decode(prompt) == observation + " <assistant>"
    assert renderer.action(renderer.completion("57")) == "57"
    assert renderer.completion("57")[-1] == tokenizer.eos_token_id


def test_unknown_words_and_spaces(tokenizer):
    assert tokenizer.encode("Higher!   what\n50") == tokenizer.encode("Higher! <unk> 50")


def test_messages_do_not_run_into_each_other(renderer, tokenizer):
    found = renderer.prompt([{"role": "system", "content": "Higher!"}, {"role": "user", "content": "50"}])
    assert tokenizer.decode(found) == "Higher! 50 <assistant>"


def test_a_vocabulary_may_name_the_special_tokens():
    tokenizer = build_tokenizer(["say <end> now", "say <unk>"])
    assert sorted(tokenizer.get_vocab().values()) == list(range(len(tokenizer))) == list(range(6))
    assert tokenizer.eos_token_id == 3


def test_lines_are_single_tokens():
    tokenizer = build_tokenizer(LINES, unit="line")
    said = ["I am thinking of a thing.", "Is it alive?", "Yes.", "No.", "Think again.", "Is it a cat?"]
    assert tokenizer.get_vocab() == {
        token: i for i, token in enumerate(["<unk>", "<pad>", "<assistant>", "<end>", *said])
    }
    for i, line in enumerate(said):
        assert tokenizer.encode(line, add_special_tokens=False) == [4 + i]
        assert tokenizer.decode([4 + i]) == line
    assert tokenizer.encode("Think again.\n\nIs it a cat?\nis it alive?") == [8, 9, 0]


def test_a_turn_in_lines_is_three_tokens():
    """What the policy says, the end of it, and the reply."""
    renderer = Renderer(build_tokenizer(LINES, unit="line"))
    opening = {"role": "user", "content": LINES[0]}
    yes = {"role": "user", "content": "Yes."}
    assert renderer.prompt([opening]) == [4]
    assert renderer.prompt([{"role": "system", "content": "No."}, opening]) == [7, 4]
    assert renderer.completion("Is it alive?") == [5, 3]
    assert renderer.continuation([yes], stopped=True) == [6]
    assert renderer.continuation([yes], stopped=False) == [3, 6]
    assert renderer.action([5, 3]) == "Is it alive?"
    # The chat as a whole is what the turns add up to.
    chat = [opening, {"role": "assistant", "content": "Is it alive?"}, yes]
    assert renderer.prompt(chat) == [4, 5, 3, 6]


def test_a_model_of_lines_loads_like_any_other(tmp_path):
    model, tokenizer = build_tiny_model(LINES, seed=3, unit="line", hidden_size=32, num_heads=2)
    assert model.config.vocab_size == 10
    save_model(model, tokenizer, tmp_path)
    other = AutoTokenizer.from_pretrained(str(tmp_path))
    assert other.encode("Is it alive?\nYes.<end>No.") == tokenizer.encode("Is it alive?\nYes.<end>No.") == [5, 6, 3, 7]
    assert Renderer.from_pretrained(str(tmp_path)).stop_tokens == (3,)
