"""A trained adapter at the table: it says what the policy says, and what is broken is one line."""

import json
import shutil
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
from transformers.utils import logging

from trainers.evaluation.greedy import play_greedily
from trainers.player import AdapterPlayer
from trainers.policy import Policy
from trainers.rendering import Renderer
from trainers.rollouts import EnvPool, RolloutSettings
from trainers.sampling import TorchSampler
from trainers.tiny_model import build_tiny_model, save_model


def guessing() -> Any:
    return gym.make("llm_envs:GuessNumber-v0", max_guesses=4)


@pytest.fixture
def make_run(tmp_path, load_policy):
    """The folder of a run as recipes leave it: `base` and `adapter`."""

    def make(texts: list[str], *, context_length: int = 128) -> Path:
        folder: Path = tmp_path / "run"
        model = build_tiny_model(texts, seed=0, hidden_size=32, num_heads=2, context_length=context_length)
        save_model(*model, folder / "base")
        load_policy(folder / "base").save_adapter(folder / "adapter")
        return folder

    return make


@pytest.fixture
def run_dir(make_run, guessing_texts):
    return make_run(guessing_texts)


def play(env: Any, player: AdapterPlayer, *, options: Any = None) -> list[str]:
    """What a player says in one episode."""
    observation, info = env.reset(seed=0, options=options)
    player.reset(observation, info)
    said, over = [], False
    while not over:
        said.append(player.act(observation))
        observation, _, terminated, truncated, _ = env.step(said[-1])
        over = terminated or truncated
    return said


def in_training(run_dir: Path, player: AdapterPlayer, index: int, *, context_length: int = 128) -> list[str]:
    """What the same adapter says in an evaluation."""
    dtype = player._sampler.policy.dtype  # `auto` is measured
    policy = Policy.load(run_dir / "base", adapter=run_dir / "adapter", device="cpu", dtype=dtype)
    renderer = Renderer.from_pretrained(str(run_dir / "base"))
    settings = RolloutSettings(group_size=1, max_tokens=3, temperature=1.0, context_length=context_length)
    [trajectory] = play_greedily(
        EnvPool(guessing), TorchSampler(policy, stop_tokens=renderer.stop_tokens), renderer,
        options=[{"index": index}], settings=settings,
    )  # fmt: skip
    return [turn.action for turn in trajectory.turns]


def test_it_says_what_the_policy_says_in_an_evaluation(run_dir):
    player, env = AdapterPlayer(run_dir / "adapter", max_tokens=3, device="cpu"), guessing()
    found = [play(env, player, options={"index": index}) for index in (7, 60, 7)]
    assert found[0] == found[2] == in_training(run_dir, player, 7)  # an episode leaves nothing behind
    assert found[1] == in_training(run_dir, player, 60)
    assert len(found[0]) == 4
    shutil.rmtree(run_dir / "adapter")
    Policy.load(run_dir / "base", device="cpu", dtype="float32").save_adapter(run_dir / "adapter")
    idle = AdapterPlayer(run_dir / "adapter", max_tokens=3, device="cpu")
    assert play(env, idle, options={"index": 7}) != found[0]  # it is the adapter that speaks


def test_a_full_context_is_silence(make_run, guessing_texts):
    run_dir = make_run(guessing_texts, context_length=27)
    player, env = AdapterPlayer(run_dir / "adapter", max_tokens=3, device="cpu"), guessing()
    for _ in range(2):
        said = play(env, player, options={"index": 60})
        spoken = in_training(run_dir, player, 60, context_length=27)
        assert 0 < len(spoken) < 4
        assert said == spoken + [""] * (4 - len(spoken))
    player.reset("1 " * 30, {})
    assert [player.act("1 " * 30), player.act("1")] == ["", ""]
    player.reset("1", {})
    assert player.act("1") != ""


@pytest.mark.parametrize("seat", ["first", "second"])
def test_it_sits_in_the_other_seat_of_tic_tac_toe(make_run, seat):
    game: Any = gym.make("llm_envs:TicTacToe-v0", opponent=str).unwrapped
    player = AdapterPlayer(make_run(game.vocabulary()) / "adapter", max_tokens=3, device="cpu")
    heard: list[Any] = []
    for name in ("reset", "act"):
        inner = getattr(player, name)

        def listen(*arguments: Any, _name: str = name, _inner: Any = inner) -> Any:
            found = _inner(*arguments)
            heard.append((_name, arguments[0], found))
            return found

        setattr(player, name, listen)
    env = gym.make("llm_envs:TicTacToe-v0", opponent=player, seat=seat)
    ends = []
    for seed in range(3):
        heard.clear()
        observation, info = env.reset(seed=seed)
        solver, over = env.unwrapped.solver("random", seed=seed), False  # type: ignore[attr-defined]
        solver.reset(observation, info)
        while not over:
            observation, _, over, _, info = env.step(solver.act(observation))
        ends.append(observation)
        (first, opening, _), (second, again, said), *_ = heard
        assert (first, second, opening) == ("reset", "act", again)
        assert opening.startswith(f"Tic-tac-toe. You are {'O' if seat == 'first' else 'X'}.")
        assert isinstance(said, str)
    assert len(ends) == 3


def test_loading_says_nothing(run_dir, capfd):
    """Nor does it change what others see afterwards."""
    logging.enable_progress_bar()  # type: ignore[no-untyped-call]
    AdapterPlayer(run_dir / "adapter", device="cpu")
    assert logging.is_progress_bar_enabled()
    assert capfd.readouterr() == ("", "")


def test_a_folder_that_was_moved_finds_its_base_beside_it(run_dir, tmp_path):
    expected = play(guessing(), AdapterPlayer(run_dir / "adapter", max_tokens=3, device="cpu"))
    run_dir.rename(tmp_path / "moved")
    moved = AdapterPlayer(tmp_path / "moved" / "adapter", max_tokens=3, device="cpu")
    assert play(guessing(), moved) == expected


def refusal(folder: Path, **options: Any) -> str:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (the callers look at the text)
        AdapterPlayer(folder, **{"device": "cpu", **options})
    message = str(caught.value)
    assert message.startswith(str(folder))
    assert "\n" not in message
    return message


def test_what_is_no_adapter_folder(tmp_path):
    for text in (None, "[]", "{", "{}", '"x"'):
        if text is not None:
            (tmp_path / "adapter_config.json").write_text(text)
        assert refusal(tmp_path) == f"{tmp_path} is no adapter folder: there is no adapter_config.json to be read"


def test_a_base_that_is_gone(run_dir, tmp_path, monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    (run_dir / "base").rename(tmp_path / "elsewhere")
    assert f"cannot be loaded with the base model {run_dir / 'base'}: " in refusal(run_dir / "adapter")


def test_broken_weights(run_dir):
    (run_dir / "adapter" / "adapter_model.safetensors").write_bytes(b"junk")
    assert "cannot be loaded" in refusal(run_dir / "adapter")


def test_weights_of_another_rank(run_dir):
    path = run_dir / "adapter" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"r": 8}))
    assert "cannot be loaded" in refusal(run_dir / "adapter")


def test_an_unknown_device(run_dir):
    assert "abacus" in refusal(run_dir / "adapter", device="abacus")
