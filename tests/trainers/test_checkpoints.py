"""Folders of a run: what may be used, what is kept, what is found again, and what is made of a disk that fails."""

import dataclasses
import errno
import json
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
    code_version,
    fault,
    newest_checkpoint,
    newest_state,
    prepare_run_dir,
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


def test_a_fresh_folder_is_made(config):
    prepare_run_dir(config)
    assert config.run_dir.is_dir()
    prepare_run_dir(config)  # still empty
    prepare_run_dir(dataclasses.replace(config, resume=True))
    assert newest_state(config, say=pytest.fail) is None
    assert newest_checkpoint(config.run_dir) is None


@pytest.mark.parametrize("used_by", ["metrics.jsonl", "checkpoints/update_000003/x"])
def test_a_used_folder_is_refused_unless_said_otherwise(config, used_by):
    path = config.run_dir / used_by
    path.parent.mkdir(parents=True)
    path.write_text("{}\n")
    with pytest.raises(ConfigError, match="add --resume to go on with it or --overwrite to drop it"):
        prepare_run_dir(config)
    assert path.exists()
    prepare_run_dir(dataclasses.replace(config, resume=True))
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
    prepare_run_dir(dataclasses.replace(config, overwrite=True))
    left = sorted(str(path.relative_to(config.run_dir)) for path in config.run_dir.rglob("*") if path.is_file())
    assert left == ["base/config.json", "notes.txt"]


def test_overwrite_does_not_follow_links(config, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "update_000001").mkdir()
    config.run_dir.mkdir()
    (config.run_dir / "checkpoints").symlink_to(tmp_path / "elsewhere")
    prepare_run_dir(dataclasses.replace(config, overwrite=True))
    assert not (config.run_dir / "checkpoints").exists()
    assert (tmp_path / "elsewhere" / "update_000001").exists()


def test_a_folder_that_cannot_be_made_is_one_line(config):
    config.run_dir.write_text("a file")
    with pytest.raises(ConfigError, match=r"^run_dir .*run cannot be made: File exists$"):
        prepare_run_dir(config)


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
        synced = []

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


# --- What is broken ---


def damage(checkpoint: Path, how: str) -> None:
    state = checkpoint / "trainer_state.pt"
    if how == "cut off":
        state.write_bytes(state.read_bytes()[:100])
    elif how == "a bit":
        content = bytearray(state.read_bytes())
        content[len(content) // 2] ^= 1
        state.write_bytes(bytes(content))
    elif how == "an empty adapter":
        (checkpoint / "adapter_model.safetensors").write_bytes(b"")
    elif how == "no adapter":
        (checkpoint / "adapter_model.safetensors").unlink()
    elif how == "half a manifest":
        manifest = (checkpoint / "manifest.json").read_text()
        (checkpoint / "manifest.json").write_text(manifest[: len(manifest) // 2])
    elif how == "a list for a manifest":
        (checkpoint / "manifest.json").write_text("[1, 2]")


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ("cut off", "trainer_state.pt has 100 bytes, not "),
        ("a bit", "trainer_state.pt has another checksum"),
        ("an empty adapter", "adapter_model.safetensors has 0 bytes, not 7"),
        ("no adapter", "adapter_model.safetensors is missing"),
        ("half a manifest", "cannot be read: JSONDecodeError"),
        ("a list for a manifest", "cannot be read: TypeError"),
    ],
)
def test_of_a_broken_one_the_one_before_is_taken(config, save, how, why):
    save(2)
    save(4)
    damage(save(6), how)
    said: list[str] = []
    found = newest_state(config, say=said.append)
    assert found is not None
    assert found[0].name == "update_000004"
    assert found[1]["updates_done"] == 4
    [line] = said
    assert line.startswith(f"{config.run_dir}/checkpoints/update_000006 is broken (")
    assert why in line
    assert line.endswith("It is kept as corrupt_000006; looking for one before it.")
    assert names(config) == ["corrupt_000006", "update_000002", "update_000004"]
    assert load(config)["updates_done"] == 4  # and nothing more is said of it
    assert fault(save(6)) is None  # when the run comes there again


def test_several_may_be_broken(config, save):
    for number in (2, 4, 6):
        path = save(number)
        if number > 2:
            damage(path, "cut off")
    said: list[str] = []
    found = newest_state(config, say=said.append)
    assert found is not None
    assert found[0].name == "update_000002"
    assert len(said) == 2


def test_a_second_broken_one_of_a_number_does_not_hide_the_first(config, save):
    save(2)
    for _ in range(3):
        damage(save(4), "cut off")
        assert newest_state(config, say=lambda _: None) is not None
    assert names(config) == ["corrupt_000004", "corrupt_000004_2", "corrupt_000004_3", "update_000002"]


def test_where_none_is_whole_nothing_is_begun_over(config, save):
    """It would drop the lines that the run has logged."""
    damage(save(2), "cut off")
    for _ in range(2):
        with pytest.raises(ConfigError, match=r"no checkpoint in .* is whole: add --overwrite to begin again"):
            newest_state(config, say=lambda _: None)


def test_a_state_that_is_whole_but_cannot_be_read(config, save):
    save(2)
    path = save(4)
    (path / "trainer_state.pt").write_bytes(b"nonsense")
    manifest = json.loads((path / "manifest.json").read_text())
    del manifest["files"]["trainer_state.pt"]
    (path / "manifest.json").write_text(json.dumps(manifest))
    said: list[str] = []
    found = newest_state(config, say=said.append)
    assert found is not None
    assert found[0].name == "update_000002"
    assert "trainer_state.pt cannot be read" in said[0]


def test_one_of_another_version_is_passed_over_and_stays(config, save):
    save(2)
    (save(4) / "manifest.json").unlink()
    said: list[str] = []
    found = newest_state(config, say=said.append)
    assert found is not None
    assert found[0].name == "update_000002"
    [line] = said
    assert "was written by another version: it has no manifest.json" in line
    assert names(config) == ["update_000002", "update_000004"]


def test_the_manifest_lists_every_file(config, save):
    path = save(2)
    listed = json.loads((path / "manifest.json").read_text())["files"]
    assert sorted(listed) == ["adapter_model.safetensors", "trainer_state.pt"]
    assert listed["adapter_model.safetensors"] == {
        "size": 7,
        "sha256": "9a129038d9a00aed0cf6a7ea059ca50a813449061ab87848cf1a13eafdf33b2c",
    }


# --- A disk that is full, and a process that is killed: in a process of their own ---

SETUP = """
import os, random, resource, signal, sys, time
from pathlib import Path
import torch
from safetensors.torch import save_file
from trainers.checkpoints import CheckpointError, fault, newest_state, save_checkpoint
from trainers.config import TrainConfig

class Policy:
    dtype = torch.float32
    size = 1000

    def save_adapter(self, folder):
        folder.mkdir(parents=True)
        save_file({"w": torch.zeros(self.size)}, folder / "adapter_model.safetensors")

run_dir = Path(sys.argv[1])
config = TrainConfig(model="m", env=("Env-v0",), run_dir=run_dir)
policy = Policy()

def save(number, floats):
    save_checkpoint(config, policy, {"optimizer": torch.zeros(floats)}, updates_done=number)

def names():
    return sorted(path.name[-1] for path in (run_dir / "checkpoints").iterdir())

def refused(number, floats):
    try:
        save(number, floats)
    except CheckpointError as error:
        return str(error)
    raise AssertionError("there was room")
"""

FULL = """
for number in (1, 2, 3):
    save(number, 60_000)
assert names() == ["1", "2", "3"], names()
save(4, 60_000)  # there is no room for a fourth: the oldest goes first
assert names() == ["2", "3", "4"], names()
said = refused(5, 240_000)
assert "update_000005 could not be written: No space left on device; the checkpoints before" in said, said
assert names() == ["4"], names()  # the last one never goes
policy.size = 240_000  # the writer of the adapter has errors of its own
assert "No space left on device" in refused(6, 10)
policy.size = 1000
assert names() == ["4"], names()
assert newest_state(config, say=print)[1]["updates_done"] == 4
save(7, 60_000)
assert names() == ["4", "7"], names()
print("survived")
"""

LIMITED = """
save(1, 1000)
save(2, 1000)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
assert "File too large" in refused(3, 100_000)
policy.size = 100_000
assert "File too large" in refused(3, 1000)
assert names() == ["1", "2"], names()  # making room would not have helped
assert newest_state(config, say=print)[1]["updates_done"] == 2
print("survived")
"""

KILLED = """
torch.set_num_threads(1)
save(1, 1000)
chance = random.Random(0)
reached = []
for _ in range(20):
    child = os.fork()
    if not child:
        number = newest_state(config, say=print)[1]["updates_done"]
        while True:
            number += 1
            save(number, 20_000)
    time.sleep(chance.uniform(0.02, 0.1))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    for path in (run_dir / "checkpoints").glob("update_*"):
        assert fault(path) is None, (path, fault(path))
    reached.append(newest_state(config, say=sys.exit)[1]["updates_done"])
assert reached == sorted(reached), reached
assert reached[-1] > 5, reached
print("survived")
"""


def test_a_full_disk_is_survived(tmp_path, child_env):
    """On a file system of one megabyte that only the child sees."""
    disk, script = tmp_path / "disk", tmp_path / "full.py"
    disk.mkdir()
    script.write_text(SETUP + FULL)
    inside = f'mount -t tmpfs -o size=1m none "{disk}" && '
    if (
        shutil.which("unshare") is None
        or subprocess.run(
            ["unshare", "--mount", "sh", "-c", inside + "true"], capture_output=True, check=False
        ).returncode
    ):
        pytest.skip("needs the right to mount a file system (unshare --mount)")
    command = inside + f'exec "{sys.executable}" "{script}" "{disk}/run"'
    found = subprocess.run(
        ["unshare", "--mount", "sh", "-c", command], env=child_env, capture_output=True, text=True, check=False
    )
    assert (found.stdout, found.returncode) == ("survived\n", 0), found.stderr
    assert not list(disk.iterdir())


def test_nothing_goes_for_a_new_one_where_no_other_is_whole(config, save):
    """Were the disk full, the only checkpoint that can be read would make room for one that may not be written."""
    save(2)
    damage(save(4), "cut off")
    full = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(CheckpointError, match="No space left on device"):
        save(6, error=full)
    assert names(config) == ["update_000002", "update_000004"]
    shutil.rmtree(config.run_dir / "checkpoints/update_000004")
    save(4)
    with pytest.raises(CheckpointError, match="No space left on device"):
        save(6, error=full)
    assert names(config) == ["update_000004"]


@pytest.mark.parametrize("script", [LIMITED, KILLED], ids=["a limit", "kill -9"])
def test_what_else_may_happen_is_survived(run_python, tmp_path, script):
    (tmp_path / "script.py").write_text(SETUP + script)
    found = run_python("script.py", "run", cwd=tmp_path)
    assert (found.stdout, found.returncode) == ("survived\n", 0), found.stderr
