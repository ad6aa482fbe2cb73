"""Messages to tokens: the prefix property, with and without a chat template."""

from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import GenerationConfig, PreTrainedTokenizerFast

from trainers.rendering import Renderer

# In the manner of ChatML: roles, a default system prompt, text after the end token, trimmed contents.
TEMPLATE = (
    "{% if messages[0]['role'] != 'system' %}<s>system\nbe brief<e>\n{% endif %}"
    "{% for message in messages %}<s>{{ message['role'] + '\n' + message['content'] | trim }}<e>\n{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant\n{% endif %}"
)
START, END, OTHER = 0, 1, 2


def byte_tokenizer(template: str | None) -> Any:
    """One token a byte, and three special ones."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {word: i for i, word in enumerate(["<s>", "<e>", "<o>", *letters])}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="<e>", extra_special_tokens=["<o>"],
        chat_template=template, clean_up_tokenization_spaces=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def chat():
    return byte_tokenizer(TEMPLATE)


@pytest.fixture(scope="module")
def plain():
    return byte_tokenizer(None)


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


OPENINGS = [
    [user("Guess!")],
    [{"role": "system", "content": "Play well."}, user("Guess!\n\n")],
    [user("2+2?"), {"role": "assistant", "content": "4"}, user("3+3?")],
]


@pytest.mark.parametrize("opening", OPENINGS)
def test_prompt_sampled_and_continuation_are_the_templates_tokens(chat, opening):
    renderer = Renderer(chat)
    ledger = renderer.prompt(opening)
    messages = list(opening)
    for answer, reply in (("50", "Higher!"), ("75?", "Lower!\n"), ("", "Say \u00e4 number."), ("60", "")):
        ledger += renderer.completion(answer) + renderer.continuation([user(reply)], stopped=True)
        messages += [{"role": "assistant", "content": answer}, user(reply)]
        whole = chat.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        assert chat.decode(ledger) == whole
        assert ledger == chat.encode(whole, add_special_tokens=False)


def test_several_messages_may_follow_a_turn(chat):
    renderer = Renderer(chat)
    replies = [user("Higher!"), {"role": "system", "content": "Hurry."}]
    ledger = renderer.prompt(OPENINGS[0]) + renderer.completion("50") + renderer.continuation(replies, stopped=True)
    messages = [*OPENINGS[0], {"role": "assistant", "content": "50"}, *replies]
    assert chat.decode(ledger) == chat.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)


def test_a_turn_that_was_cut_off_is_ended_by_the_template(chat):
    renderer = Renderer(chat)
    cut = renderer.continuation([user("Higher!")], stopped=False)
    stopped = renderer.continuation([user("Higher!")], stopped=True)
    assert chat.decode(cut) == "<e>\n<s>user\nHigher!<e>\n<s>assistant\n"
    assert cut == [END, *stopped]


def test_the_observation_may_hold_any_text(chat):
    renderer = Renderer(chat)
    for text in ("SAMPLEDTURN", "{{ 1 }} {% raw %}", "<S>", "\U0001f600\u0000"):
        tokens = renderer.continuation([user(text)], stopped=True)
        assert chat.decode(tokens) == f"\n<s>user\n{text}<e>\n<s>assistant\n"


def test_the_tiny_models_template(renderer, tokenizer):
    game = [
        user("Higher!"), {"role": "assistant", "content": "50"}, user("Lower!"),
        {"role": "assistant", "content": "49"}, user("Higher!"),
    ]  # fmt: skip
    ledger = renderer.prompt(game[:1])
    for i in (1, 3):
        ledger += renderer.completion(game[i]["content"]) + renderer.continuation([game[i + 1]], stopped=True)
    whole = tokenizer.apply_chat_template(game, tokenize=False, add_generation_prompt=True)
    assert ledger == tokenizer.encode(whole, add_special_tokens=False)
    assert tokenizer.decode(ledger) == (
        "Higher! <assistant> 50 <end> Lower! <assistant> 49 <end> Higher! <assistant>"
    )  # fmt: skip


def test_without_a_template(plain):
    renderer = Renderer(plain)
    prompt = renderer.prompt([{"role": "system", "content": "Add."}, user("2+2?")])
    assert plain.decode(prompt) == "Add.\n\n2+2?\n\n"
    assert END not in prompt
    for stopped in (True, False):
        reply = renderer.continuation([user("Wrong."), user("Again!")], stopped=stopped)
        assert plain.decode(reply) == "\n\nWrong.\n\nAgain!\n\n"
    assert plain.decode(renderer.completion("4")) == "4<e>"


def test_stop_tokens(chat):
    assert Renderer(chat).stop_tokens == (END,)
    renderer = Renderer(chat, stop_tokens=[OTHER])
    assert renderer.stop_tokens == (END, OTHER)  # the tokenizer's own stands first
    # Whichever of them was sampled, the template's own is not written after it.
    assert chat.decode(renderer.continuation([user("x")], stopped=True)) == "\n<s>user\nx<e>\n<s>assistant\n"


def test_a_scripted_turn_ends_with_the_tokenizers_own_stop_token(chat):
    for stop_tokens in ([], [OTHER], [OTHER, END], [END, OTHER]):
        assert Renderer(chat, stop_tokens=stop_tokens).completion("4")[-1] == END


@pytest.mark.parametrize(
    ("named", "stop_tokens"), [(None, (END,)), (OTHER, (END, OTHER)), ([OTHER, END], (END, OTHER))]
)
def test_stop_tokens_of_a_model_folder(chat, tmp_path, named, stop_tokens):
    chat.save_pretrained(str(tmp_path))
    config: Any = GenerationConfig
    config(eos_token_id=named).save_pretrained(str(tmp_path))
    renderer = Renderer.from_pretrained(str(tmp_path))
    assert renderer.stop_tokens == stop_tokens
    assert renderer.prompt(OPENINGS[0]) == Renderer(chat).prompt(OPENINGS[0])


def test_a_model_folder_without_a_generation_config(chat, tmp_path):
    chat.save_pretrained(str(tmp_path))
    assert Renderer.from_pretrained(str(tmp_path)).stop_tokens == (END,)


def test_a_tokenizer_without_end_needs_stop_tokens(plain):
    endless = byte_tokenizer(None)
    endless.eos_token = None
    with pytest.raises(ValueError, match="name the stop_tokens"):
        Renderer(endless)
    assert Renderer(endless, stop_tokens=[OTHER]).stop_tokens == (OTHER,)


def test_the_environment_sees_no_special_tokens(chat, renderer, tokenizer):
    text = Renderer(chat)
    spoken = chat.encode("is it 50?", add_special_tokens=False)
    assert text.action([*spoken, END]) == "is it 50?"
    assert text.action([START, *spoken[:5], OTHER, *spoken[5:]]) == "is it 50?"
    assert text.action([END]) == ""
    assert renderer.action(tokenizer.encode("50 <assistant> 51 <end>")) == "50 51"


def test_bytes_that_are_no_text_do_not_raise(chat):
    half = chat.encode("\u00e4", add_special_tokens=False)[:1]
    assert Renderer(chat).action(half) == "\N{REPLACEMENT CHARACTER}"


def test_the_lists_given_out_are_the_callers_own(chat):
    renderer = Renderer(chat)
    first = renderer.prompt([user("x")])
    expected = list(first)
    first.clear()
    assert renderer.prompt([user("x")]) == expected
