"""Checkpoints that were damaged, disks that are full, processes that are killed: what is left of a run."""

import dataclasses
import errno
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from trainers.checkpoints import CheckpointError, fault, newest_state, save_checkpoint
from trainers.config import ConfigError, TrainConfig


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
