"""Folders of a run: what may be used, what is kept, what is found again."""

import dataclasses
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from trainers import checkpoints
from trainers.checkpoints import (
    MAY_DIFFER,
    MUST_AGREE,
    CheckpointError,
    claimed_run_dir,
    code_version,
    empty_run_dir,
    fault,
    newest_checkpoint,
    newest_state,
    restore_rng,
    save_checkpoint,
)
from trainers.config import ConfigError, TrainConfig
from trainers.optimizer import MasterAdam


class StubPolicy:
    """Saves one file; may be cut off while it does."""

    error: BaseException | None = None
    dtype = torch.float32

    def save_adapter(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        (folder / "adapter_model.safetensors").write_bytes(b"weights")
        if self.error is not None:
            raise self.error


@pytest.fixture
def config(tmp_path):
    return TrainConfig(model="m", env=("llm_envs:Arithmetic-v0",), run_dir=tmp_path / "run")


@pytest.fixture
def save(config):
    def of_update(number: int, *, error: BaseException | None = None, **state: Any) -> Path:
        stub: Any = StubPolicy()
        stub.error = error
        return save_checkpoint(config, stub, state, updates_done=number)

    return of_update


def names(config: TrainConfig) -> list[str]:
    return sorted(path.name for path in (config.run_dir / "checkpoints").iterdir())


def load(config: TrainConfig, **changes: Any) -> dict[str, Any]:
    """The newest state, of which nothing is to be said."""
    found = newest_state(dataclasses.replace(config, **changes), say=pytest.fail)
    assert found is not None
    return found[1]


# --- The folder ---


def claim(config: TrainConfig) -> None:
    with claimed_run_dir(config):
        pass


def test_a_fresh_folder_is_made(config):
    claim(config)
    assert config.run_dir.is_dir()
    claim(config)  # still empty
    claim(dataclasses.replace(config, resume=True))
    assert newest_state(config, say=pytest.fail) is None
    assert newest_checkpoint(config.run_dir) is None


@pytest.mark.parametrize("used_by", ["metrics.jsonl", "checkpoints/update_000003/x"])
def test_a_used_folder_is_refused_unless_said_otherwise(config, used_by):
    path = config.run_dir / used_by
    path.parent.mkdir(parents=True)
    path.write_text("{}\n")
    with pytest.raises(ConfigError, match="add --resume to go on with it or --overwrite to drop it"):
        claim(config)
    for said in ("resume", "overwrite"):
        claim(dataclasses.replace(config, **{said: True}))
    assert path.exists()


def test_overwrite_drops_the_run_and_nothing_else(config, save, tmp_path):
    save(5)
    written = [
        "metrics.jsonl", "episodes.jsonl", "config.json", "report.html", "trackers.json", "adapter/x",
        "tensorboard/x/y",
    ]  # fmt: skip
    for name in (*written, "notes.txt", "base/config.json"):
        (config.run_dir / name).parent.mkdir(exist_ok=True, parents=True)
        (config.run_dir / name).write_text("old")
    empty_run_dir(config.run_dir)
    left = sorted(str(path.relative_to(config.run_dir)) for path in config.run_dir.rglob("*") if path.is_file())
    assert left == ["base/config.json", "notes.txt"]


def test_overwrite_does_not_follow_links(config, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "update_000001").mkdir()
    config.run_dir.mkdir()
    (config.run_dir / "checkpoints").symlink_to(tmp_path / "elsewhere")
    empty_run_dir(config.run_dir)
    assert not (config.run_dir / "checkpoints").exists()
    assert (tmp_path / "elsewhere" / "update_000001").exists()


def test_a_folder_that_cannot_be_made_is_one_line(config):
    config.run_dir.write_text("a file")
    with pytest.raises(ConfigError, match=r"^run_dir .*run cannot be made: File exists$"):
        claim(config)


def test_what_cannot_be_deleted_is_one_line(config, monkeypatch):
    (config.run_dir / "adapter").mkdir(parents=True)

    def fail(_: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("trainers.checkpoints.shutil.rmtree", fail)
    with pytest.raises(ConfigError, match=r"adapter of the run before cannot be deleted: Permission denied$"):
        empty_run_dir(config.run_dir)


_HOLDS = """
import sys
from pathlib import Path
from types import SimpleNamespace
from trainers.checkpoints import claimed_run_dir
with claimed_run_dir(SimpleNamespace(run_dir=Path(sys.argv[1]), resume=False, overwrite=False)):
    print("mine", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("end", ["close", "kill"])
def test_a_folder_belongs_to_one_run_while_that_lives(config, child_env, end):
    other = subprocess.Popen(
        [sys.executable, "-c", _HOLDS, str(config.run_dir)], env=child_env, stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    with other:
        assert other.stdout is not None
        assert other.stdin is not None
        assert other.stdout.readline() == "mine\n"
        for said in ({}, {"resume": True}, {"overwrite": True}):
            with pytest.raises(ConfigError, match=r"^another run is going on in .*run$"):
                claim(dataclasses.replace(config, **said))
        if end == "kill":
            other.kill()
            other.wait()
        else:
            other.stdin.close()
            assert other.wait() == 0
        claim(config)


# --- What is kept ---


def test_the_newest_are_kept(config, save):
    for number in (2, 4, 10, 999_999, 1_000_000):
        assert save(number).name == f"update_{number:06d}"
    assert names(config) == ["update_000010", "update_1000000", "update_999999"]
    found = newest_checkpoint(config.run_dir)
    assert found is not None
    assert found.name == "update_1000000"


def test_how_many_are_kept_is_set(config):
    stub: Any = StubPolicy()
    for number in range(5):
        save_checkpoint(dataclasses.replace(config, checkpoints_kept=1), stub, {}, updates_done=number)
    assert names(config) == ["update_000004"]


def test_what_a_kill_left_is_never_seen_and_goes_with_the_next(config, save):
    save(2)
    shutil.copytree(config.run_dir / "checkpoints/update_000002", config.run_dir / "checkpoints/partial_000004")
    (config.run_dir / "checkpoints/partial_000004/trainer_state.pt").unlink()
    assert newest_checkpoint(config.run_dir) == config.run_dir / "checkpoints/update_000002"
    assert load(config)["updates_done"] == 2
    save(6)
    assert names(config) == ["update_000002", "update_000006"]


def test_nothing_has_its_name_before_all_of_it_is_on_the_disk(config, save, monkeypatch):
    """Stopped at each of the moments at which it waits for the disk."""
    save(1)
    moments = []

    def stop_at(moment: int) -> None:
        synced: list[str] = []

        def sync(path: Path) -> None:
            if len(synced) == moment:
                raise KeyboardInterrupt
            synced.append(path.name)

        monkeypatch.setattr(checkpoints, "_sync", sync)
        try:
            save(2 + moment)
        finally:
            moments.append(synced)
            assert all(fault(path) is None for path in (config.run_dir / "checkpoints").glob("update_*"))

    for moment in range(5):
        with pytest.raises(KeyboardInterrupt):
            stop_at(moment)
    stop_at(5)
    assert sorted(moments[5]) == [
        "adapter_model.safetensors", "checkpoints", "manifest.json", "partial_000007", "trainer_state.pt",
    ]  # fmt: skip
    assert moments[5][-1] == "checkpoints"


@pytest.mark.parametrize("error", [OSError("disk full"), RuntimeError("CUDA error"), KeyboardInterrupt()])
def test_what_fails_leaves_nothing_behind(config, save, error):
    save(2)
    expected = CheckpointError if isinstance(error, OSError) else type(error)
    with pytest.raises(expected) as caught:
        save(4, error=error)
    assert names(config) == ["update_000002"]
    if expected is CheckpointError:
        assert isinstance(caught.value, OSError)
        assert str(caught.value) == (
            f"{config.run_dir}/checkpoints/update_000004 could not be written: disk full; "
            "the checkpoints before it are kept"
        )
    save(4)
    assert names(config) == ["update_000002", "update_000004"]


def test_a_checkpoint_that_is_there_is_left_alone(config, save):
    path = save(2)
    before = (path / "trainer_state.pt").stat().st_mtime_ns
    assert save(2) == path
    assert (path / "trainer_state.pt").stat().st_mtime_ns == before


def test_a_broken_one_that_is_there_is_not_taken_for_it(config, save):
    (save(2) / "adapter_model.safetensors").write_bytes(b"W")
    assert fault(save(2)) is None
    assert names(config) == ["corrupt_000002", "update_000002"]


# --- What comes back ---


def test_the_state_comes_back(config, save):
    optimizer = MasterAdam({"p": nn.Parameter(torch.tensor([1.0, 2.0]))})
    past = {10: {"w": torch.tensor([1.5])}}
    save(7, optimizer=optimizer.state_dict(), opponents={"past": past}, drawn={"Env": 3}, nothing=None)
    state = load(config)
    assert state["updates_done"] == 7
    assert state["optimizer"]["masters"]["p"].tolist() == [1.0, 2.0]
    assert state["opponents"] == {"past": past}
    assert state["drawn"] == {"Env": 3}
    assert state["nothing"] is None
    assert state["config"] == config.as_json()
    assert state["dtype"] == "float32"
    assert state["commit"] == code_version()


def test_chance_goes_on_where_it_was(config, save):
    def draw() -> list[float]:
        legacy = np.random.standard_normal()  # noqa: NPY002
        return [torch.rand(1).item(), legacy, random.random(), random.gauss(0, 1)]

    draw()  # one normal of two stays behind in some generators
    save(1)
    expected = [draw() for _ in range(3)]
    state = load(config)
    assert [draw() for _ in range(3)] != expected
    restore_rng(state)
    assert [draw() for _ in range(3)] == expected


def test_chance_of_a_device_that_is_not_there_is_passed_over(config, save):
    save(1)
    state = load(config)
    assert state["rng_states"]["cuda"] == [] or torch.cuda.is_available()
    state["rng_states"]["cuda"] = [torch.zeros(16, dtype=torch.uint8)] * 0 if torch.cuda.is_available() else [None]
    restore_rng(state)


def test_the_commit_is_that_of_the_code():
    root = Path(__file__).parents[2]
    if not (root / ".git").exists() or shutil.which("git") is None:
        pytest.skip("not a git checkout")
    head = subprocess.run(["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    assert head.stdout.startswith(code_version().removesuffix("-dirty"))
    assert len(code_version()) >= 12


@pytest.mark.parametrize(
    ("state", "where"),
    [
        ({"a": {"b": [1, np.float64(2.0)]}}, r"state\['a'\]\['b'\]\[1\] is of type float64"),
        ({"a": {np.int64(1): 1}}, r"a key of state\['a'\] is of type int64"),
        ({"path": Path("x")}, r"state\['path'\] is of type \w*Path"),
        ({"config": {}}, "the state has a name that checkpoints need for themselves"),
    ],
)
def test_what_could_not_be_read_again_is_not_written(config, save, state, where):
    with pytest.raises((TypeError, ValueError), match=where):
        save(1, **state)
    assert not (config.run_dir / "checkpoints").exists()


# --- The same run ---

EXPECTED_MUST_AGREE = {
    "model", "env", "env_weights", "env_args", "opponents", "past_every", "past_kept",
    "sampler", "groups_per_batch", "group_size", "dynamic_sampling", "max_tokens", "temperature", "top_p", "top_k",
    "max_rows", "max_staleness", "advantage", "credit", "discount", "overlong", "overlong_penalty", "overlong_buffer",
    "loss", "clip_low", "clip_high", "dual_clip", "aggregation", "kl_coef", "kl_in", "kl_estimator", "correction",
    "correction_level", "correction_limit", "minibatches", "epochs", "learning_rate", "warmup_updates", "schedule",
    "adam_betas", "adam_eps", "max_grad_norm", "lora_rank", "lora_alpha", "dtype", "seed",
}  # fmt: skip


def test_of_every_setting_it_is_decided_whether_it_may_differ():
    """A new setting fails here until somebody decides: does it change the numbers of a run?"""
    fields = {field.name for field in dataclasses.fields(TrainConfig)}
    assert set(MUST_AGREE) == EXPECTED_MUST_AGREE
    assert fields == EXPECTED_MUST_AGREE | MAY_DIFFER
    assert not EXPECTED_MUST_AGREE & MAY_DIFFER


def another(value: Any) -> Any:
    """A value of the same type that is not this one."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    if isinstance(value, tuple):
        return (*value, 0.5)
    if isinstance(value, Path):
        return value / "x"
    return "other" if value is None else value + "x"


@pytest.mark.parametrize("name", sorted(EXPECTED_MUST_AGREE))
def test_another_run_cannot_be_gone_on_with(config, save, name):
    checkpoint = save(7)
    old = getattr(config, name)
    with pytest.raises(ConfigError) as caught:
        load(config, **{name: another(old)})
    assert str(caught.value) == f"{checkpoint} was written with {name}={old}, not {another(old)}"


@pytest.mark.parametrize("name", sorted(MAY_DIFFER - {"run_dir"}))
def test_what_does_not_touch_the_numbers_may_change(config, save, name):
    save(7)
    assert load(config, **{name: another(getattr(config, name))})["updates_done"] == 7


def test_the_length_may_change_only_where_no_learning_rate_depends_on_it(config, save):
    stub: Any = StubPolicy()
    falling = dataclasses.replace(config, schedule="linear")
    save_checkpoint(falling, stub, {}, updates_done=7)
    load(falling)
    with pytest.raises(ConfigError, match="was written with updates=58, not 100"):
        load(falling, updates=100)


def test_a_run_that_was_moved_goes_on(config, save, tmp_path):
    save(7)
    moved = config.run_dir.rename(tmp_path / "moved")
    assert load(config, run_dir=moved)["updates_done"] == 7


def test_a_checkpoint_from_before_a_setting_was_there_has_its_default(config, save, monkeypatch):
    whole = TrainConfig.as_json
    monkeypatch.setattr(
        TrainConfig,
        "as_json",
        lambda self: {k: v for k, v in whole(self).items() if k not in ("past_every", "kl_coef")},
    )
    save(7)
    monkeypatch.undo()
    assert load(config)["updates_done"] == 7
    with pytest.raises(ConfigError, match="was written with past_every=10, not 3"):
        load(config, past_every=3)
