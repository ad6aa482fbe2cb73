import json
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from trainers.chat_answerer import ChatAnswerer
from trainers.tiny_model import build_tiny_model, save_model

BACKEND = "trainers.chat_answerer:ChatAnswerer"
WORDS = (
    "Is it alive? big? made of metal? The secret thing is: an elephant. rice. Yes No Unclear yes no. YES Yesterday not"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chat")
    save_model(*build_tiny_model([WORDS], seed=0, hidden_size=32, num_heads=2, context_length=128), folder)
    return folder


def load(folder: Path, **options: Any) -> ChatAnswerer:
    return ChatAnswerer(model=folder, **{"device": "cpu", "dtype": "float32", "least_share": 0.0, **options})


def chat(question: str, thing: str = "an elephant.") -> list[dict[str, str]]:
    return [{"role": "system", "content": f"The secret thing is: {thing}"}, {"role": "user", "content": question}]


CHATS = [
    chat("Is it alive?"),
    chat("Is it made of metal?", "rice."),
    chat("Is it made of an alive?"),
    chat("Is it big?"),
]


def test_shares_are_those_of_the_next_token(folder):
    """Against a pass without padding for every chat, and sums over all spellings by hand."""
    tokenizer = AutoTokenizer.from_pretrained(str(folder))
    model = AutoModelForCausalLM.from_pretrained(str(folder), dtype=torch.float32)
    numbers = tokenizer.get_vocab()
    yes, no = [numbers[word] for word in ("Yes", "yes", "YES")], [numbers[word] for word in ("No", "no.")]
    expected = []
    for messages in CHATS:
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        tokens = torch.tensor([tokenizer.encode(text, add_special_tokens=False)])
        with torch.no_grad():
            shares = model(tokens).logits[0, -1].softmax(dim=-1)
        expected.append([shares[yes].sum(), shares[no].sum()])
    assert len({len(tokenizer.encode(json.dumps(messages))) for messages in CHATS}) > 1  # there is something to pad
    for batch_size in (1, 3, 32):
        found = load(folder, batch_size=batch_size).shares(CHATS)
        torch.testing.assert_close(found, torch.tensor(expected), atol=1e-6, rtol=0)


def test_the_greater_share_wins_if_both_make_enough(folder, monkeypatch):
    answerer = load(folder)
    shares = torch.tensor([[0.4, 0.3], [0.2, 0.5], [0.3, 0.1], [0.3, 0.3]])
    monkeypatch.setattr(answerer, "shares", lambda chats: shares)
    assert answerer.answer_many(CHATS) == ["yes", "no", "yes", None]
    strict = load(folder, least_share=0.5)
    monkeypatch.setattr(strict, "shares", lambda chats: shares)
    assert strict.answer_many(CHATS) == ["yes", "no", None, None]
    assert load(folder).answer_many([]) == []
    assert set(load(folder).answer_many(CHATS)) <= {"yes", "no"}
    assert load(folder, least_share=1.0).answer_many(CHATS) == [None] * 4


def test_positions_count_from_the_first_real_token(gpt2_folder, tmp_path):
    """A table of positions shows it: padding on the left must not move a prompt."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = ["<unk>", "<pad>", "<s>", "<end>", "Yes", "No", *(f"w{n}" for n in range(34))]
    core = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    template = "{% for message in messages %}{{ message['content'] }} {% endfor %}"
    tokenizer: Any = PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>", chat_template=template)  # type: ignore[no-untyped-call]
    tokenizer.save_pretrained(str(tmp_path))
    AutoModelForCausalLM.from_pretrained(str(gpt2_folder)).save_pretrained(str(tmp_path))
    chats = [[{"role": "user", "content": text}] for text in ("w1 w2 w3", "w4", "w5 w6 w7 w8 w9 w10 w11 w12")]
    alone = torch.cat([load(tmp_path).shares([one]) for one in chats])
    torch.testing.assert_close(load(tmp_path).shares(chats), alone, atol=1e-6, rtol=0)


def test_a_template_without_a_system_message(folder, tmp_path):
    tokenizer: Any = AutoTokenizer.from_pretrained(str(folder))
    answerer = load(folder)
    tokenizer.chat_template = (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
        "{% for message in messages %}{{ message['content'] }}<end>{% endfor %}"
    )
    answerer._tokenizer = tokenizer
    said = tokenizer.decode(answerer._prompt(chat("Is it big?")))
    assert said == "The secret thing is: an elephant. Is it big? <end>"
    from jinja2 import TemplateError

    with pytest.raises(TemplateError, match="no system"):
        answerer._prompt(chat("Is it big?")[:1])


def test_models_that_will_not_do(folder, tmp_path):
    tokenizer: Any = AutoTokenizer.from_pretrained(str(folder))
    tokenizer.chat_template = None
    tokenizer.save_pretrained(str(tmp_path))
    with pytest.raises(ValueError, match="has no chat template"):
        load(tmp_path)
    save_model(*build_tiny_model(["Yes only"], seed=0, hidden_size=32, num_heads=2), tmp_path)
    with pytest.raises(ValueError, match="has no token for yes or none for no"):
        load(tmp_path)
    for options in ({"batch_size": 0}, {"least_share": -0.1}, {"least_share": 1.1}):
        with pytest.raises(ValueError, match=r"batch_size must be at least 1 and least_share in 0\.\.1"):
            load(folder, **options)


def test_an_environment_asks_it_by_name(folder):
    """In the words of the game: the tiny model knows few of them, and it says yes or no all the same."""
    args = {"backend": BACKEND, "model": str(folder), "device": "cpu", "dtype": "float32", "least_share": 0.0}
    envs: list[Any] = [
        gym.make("llm_envs:TwentyQuestions-v0", answerer="llm", answerer_args=args).unwrapped for _ in range(4)
    ]
    for index, env in enumerate(envs):
        env.reset(options={"index": index})
    for env in envs:
        env.prepare("Is it alive?")
    said = [env.step("Is it alive?")[0] for env in envs]
    assert set(said) <= {"Yes.", "No."}
    assert len({id(env._answerer) for env in envs}) == 1
    forced = {**args, "least_share": 1.0}
    env = gym.make("llm_envs:TwentyQuestions-v0", answerer="llm", answerer_args=forced).unwrapped
    env.reset(seed=0)
    assert env.step("Is it alive?")[0] == "I can't answer that."
    for each in (*envs, env):
        each.close()
