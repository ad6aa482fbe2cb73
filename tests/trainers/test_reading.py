"""Transcripts of a scripted player, and a model that reads them."""

import math
from typing import Any

import gymnasium as gym
import pytest
import torch

from trainers.reading import Reader, play
from trainers.tiny_model import build_tiny_model


@pytest.fixture(scope="module")
def env() -> Any:
    return gym.make("llm_envs:GuessNumber-v0")


@pytest.fixture
def transcripts(env, renderer):
    def of_step(step: int):
        player = env.unwrapped.solver("careless", seed=100 * step)
        return [play(env, player, renderer, seed=100 * step + i) for i in range(8)]

    return of_step


@pytest.fixture
def make_reader(transcripts, guessing_texts):
    def make(*, model_seed: int = 0, steps: int = 30, **options: Any) -> tuple[Any, Reader]:
        model, _ = build_tiny_model(guessing_texts, seed=model_seed, hidden_size=32, num_heads=2, context_length=128)
        return model, Reader(model, transcripts, steps=steps, learning_rate=1e-2, **options)

    return make


def test_a_transcript_is_what_the_template_says(env, renderer, tokenizer):
    player = env.unwrapped.solver("optimal")
    trajectory = play(env, player, renderer, seed=4)
    assert len(trajectory.turns) > 2
    assert trajectory.total_reward == 11 - len(trajectory.turns)
    assert trajectory.verdict == "correct"
    assert trajectory.turns[0].action == "50"
    messages = [{"role": "user", "content": trajectory.observations[0]}]
    for turn, reply in zip(trajectory.turns, trajectory.observations[1:], strict=True):
        messages += [{"role": "assistant", "content": turn.action}, {"role": "user", "content": reply}]
    whole = tokenizer.apply_chat_template(messages[:-1], tokenize=False)  # the last reply is never read
    assert trajectory.tokens == tokenizer.encode(whole, add_special_tokens=False)
    marked = [t for t, flag in zip(trajectory.tokens, trajectory.is_action, strict=True) if flag]
    assert tokenizer.decode(marked) == " ".join(f"{turn.action} <end>" for turn in trajectory.turns)
    assert [turn.num_tokens for turn in trajectory.turns] == [2] * len(trajectory.turns)


def test_the_loss_is_the_mean_cross_entropy_of_the_actions(make_reader, transcripts):
    model, reader = make_reader(tokens_per_microbatch=50)
    total, expected = 0, 0.0
    with torch.no_grad():
        for row in transcripts(0):
            logprobs = model(input_ids=torch.tensor([row.tokens])).logits[0].log_softmax(-1)
            for t, token in enumerate(row.tokens):
                if row.is_action[t]:
                    expected -= float(logprobs[t - 1, token])
                    total += 1
    assert reader.step() == pytest.approx(expected / total, rel=1e-5)
    assert reader.steps_done == 1


def test_it_learns_to_read(make_reader):
    _, reader = make_reader()
    losses = [reader.step() for _ in range(30)]
    assert losses[0] > 4.0  # about log(110) nats
    assert sum(losses[-3:]) / 3 < 2.6  # <end> for sure, and numbers


def test_a_reader_that_was_stopped_goes_on_to_the_same_bits(make_reader, tmp_path):
    model, reader = make_reader(steps=6)
    losses = [reader.step() for _ in range(6)]
    _, stopped = make_reader(steps=6)
    assert [stopped.step() for _ in range(3)] == losses[:3]
    stopped.save(tmp_path / "reading.pt")
    assert [path.name for path in tmp_path.iterdir()] == ["reading.pt"]
    other, restored = make_reader(steps=6, model_seed=99)
    restored.restore(tmp_path / "reading.pt")
    assert restored.steps_done == 3
    assert [restored.step() for _ in range(3)] == losses[3:]
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, other.get_parameter(name)), name


def test_the_learning_rate_rises_and_falls(make_reader, monkeypatch):
    from trainers.optimizer import MasterAdam

    rates: list[float] = []
    monkeypatch.setattr(MasterAdam, "set_learning_rate", lambda self, rate: rates.append(rate))
    _, reader = make_reader(steps=40)
    shortest = reader._transcripts(0)[:1]
    monkeypatch.setattr(reader, "_transcripts", lambda step: shortest)
    for _ in range(40):
        reader.step()
    cosine = [0.5 * (1 + math.cos(math.pi * step / 40)) for step in range(40)]
    assert rates == pytest.approx([1e-2 * min(1.0, (step + 1) / 20) * cosine[step] for step in range(40)])
    assert rates[0] == pytest.approx(1e-2 / 20)
    assert rates[-1] < 2e-5
