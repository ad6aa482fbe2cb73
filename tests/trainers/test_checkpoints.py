"""Folders of a run: what may be used, what is kept, what is found again."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from trainers.checkpoints import load_state, newest_checkpoint, prepare_run_dir, save_checkpoint
from trainers.config import ConfigError, TrainConfig
from trainers.optimizer import MasterAdam


class StubPolicy:
    """Saves one file; may be cut off while it does."""

    broken = False
    dtype = torch.float32

    def save_adapter(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        (folder / "adapter_model.safetensors").write_bytes(b"weights")
        if self.broken:
            raise OSError("disk full")


@pytest.fixture
def config(tmp_path):
    return TrainConfig(model="m", env="llm_envs:Arithmetic-v0", run_dir=tmp_path / "run")


@pytest.fixture
def optimizer():
    return MasterAdam({"p": nn.Parameter(torch.tensor([1.0, 2.0]))})


@pytest.fixture
def save(config, optimizer):
    def of_update(number: int, *, policy: StubPolicy | None = None) -> Path:
        stub: Any = policy or StubPolicy()
        return save_checkpoint(config, stub, optimizer, updates_done=number)

    return of_update


def names(config: TrainConfig) -> list[str]:
    return sorted(path.name for path in (config.run_dir / "checkpoints").iterdir())


def test_a_fresh_folder_is_made(config):
    assert prepare_run_dir(config) is None
    assert config.run_dir.is_dir()
    assert prepare_run_dir(config) is None  # still empty
    assert prepare_run_dir(dataclasses.replace(config, resume=True)) is None


@pytest.mark.parametrize("used_by", ["metrics.jsonl", "checkpoints/update_000003/x"])
def test_a_used_folder_is_refused_unless_said_otherwise(config, used_by):
    path = config.run_dir / used_by
    path.parent.mkdir(parents=True)
    path.write_text("{}\n")
    with pytest.raises(ConfigError, match="add --resume to go on with it or --overwrite to drop it"):
        prepare_run_dir(config)
    assert path.exists()
    found = prepare_run_dir(dataclasses.replace(config, resume=True))
    assert found == (path.parent if "update" in used_by else None)
    assert path.exists()


def test_overwrite_drops_the_run_and_nothing_else(config, save):
    save(5)
    for name in ("metrics.jsonl", "episodes.jsonl", "config.json", "notes.txt", "base/config.json", "adapter/x"):
        (config.run_dir / name).parent.mkdir(exist_ok=True)
        (config.run_dir / name).write_text("old")
    assert prepare_run_dir(dataclasses.replace(config, overwrite=True)) is None
    left = sorted(str(path.relative_to(config.run_dir)) for path in config.run_dir.rglob("*") if path.is_file())
    assert left == ["base/config.json", "notes.txt"]


def test_the_newest_three_are_kept(config, save):
    for number in (2, 4, 10, 100, 1000):
        assert save(number).name == f"update_{number:06d}"
    assert names(config) == ["update_000010", "update_000100", "update_001000"]
    found = newest_checkpoint(config.run_dir)
    assert found is not None
    assert found.name == "update_001000"


def test_a_half_written_checkpoint_is_never_seen(config, save):
    save(2)
    broken = StubPolicy()
    broken.broken = True
    with pytest.raises(OSError, match="disk full"):
        save(4, policy=broken)
    assert names(config) == ["partial_000004", "update_000002"]
    found = newest_checkpoint(config.run_dir)
    assert found is not None
    assert found.name == "update_000002"
    save(4)  # over what was left of the first try
    assert names(config) == ["update_000002", "update_000004"]


def test_a_checkpoint_that_is_there_is_left_alone(config, save, optimizer):
    path = save(2)
    before = (path / "trainer_state.pt").stat().st_mtime_ns
    assert save(2) == path
    assert (path / "trainer_state.pt").stat().st_mtime_ns == before


def test_the_state_comes_back(config, save, optimizer):
    state = load_state(save(7), config)
    assert state["updates_done"] == 7
    assert state["optimizer"]["masters"]["p"].tolist() == [1.0, 2.0]
    assert state["config"] == config.as_json()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("model", "other"), ("env", "llm_envs:GSM8K-v0"), ("env_args", '{"low": 2}'), ("groups_per_batch", 3),
        ("group_size", 3), ("max_tokens", 3), ("temperature", 0.5), ("lora_rank", 3), ("lora_alpha", 3), ("seed", 3),
        ("credit", "turn"), ("learning_rate", 3.0), ("adam_betas", (0.5, 0.5)), ("max_rows", 3),
        ("opponents", '{"self": 1}'), ("past_every", 3), ("past_kept", 3), ("kl_coef", 0.5),
    ],
)  # fmt: skip
def test_another_run_cannot_be_gone_on_with(config, save, name, value):
    checkpoint = save(7)
    old = getattr(config, name)
    with pytest.raises(ConfigError) as caught:
        load_state(checkpoint, dataclasses.replace(config, **{name: value}))
    assert str(caught.value) == f"{checkpoint} was written with {name}={old}, not {value}"


@pytest.mark.parametrize(
    ("name", "value"), [("updates", 3), ("run_dir", Path("moved")), ("eval_every", 3), ("save_every", 3)]
)
def test_what_does_not_touch_the_numbers_may_change(config, save, name, value):
    assert load_state(save(7), dataclasses.replace(config, **{name: value}))["updates_done"] == 7


def test_a_checkpoint_from_before_a_setting_was_there_has_its_default(config, save):
    checkpoint = save(7)
    state = torch.load(checkpoint / "trainer_state.pt", weights_only=True)
    for name in ("opponents", "past_every", "kl_coef"):
        del state["config"][name]
    torch.save(state, checkpoint / "trainer_state.pt")
    assert load_state(checkpoint, config)["updates_done"] == 7
    with pytest.raises(ConfigError, match="was written with past_every=10, not 3"):
        load_state(checkpoint, dataclasses.replace(config, past_every=3))


def test_opponents_are_part_of_the_state(config, optimizer):
    stub: Any = StubPolicy()
    past = {"past": {10: {"w": torch.tensor([1.5])}}}
    state = load_state(save_checkpoint(config, stub, optimizer, updates_done=3, opponents=past), config)
    assert state["opponents"] == past
    assert load_state(save_checkpoint(config, stub, optimizer, updates_done=4), config)["opponents"] is None
