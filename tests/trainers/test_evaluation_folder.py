"""The folder of an evaluation: gone on with, refused, begun again, and broken by others."""

import dataclasses
import itertools
import json
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.trainers.evaluations import Calculator, config_of, save_guesser, serving, written
from trainers.cli.evaluate import main
from trainers.config import ConfigError
from trainers.evaluation import EvalConfig, playing
from trainers.evaluation.folder import weights_of
from trainers.evaluation.playing import Wave, evaluate
from trainers.policy import Policy


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder: Path = tmp_path_factory.mktemp("guesser")
    save_guesser(folder)
    return folder


@pytest.fixture
def config(model: Path, tmp_path: Path) -> EvalConfig:
    return config_of(model, tmp_path / "out")


@pytest.fixture
def small(config: EvalConfig) -> EvalConfig:
    return dataclasses.replace(config, problems=2, samples=0)


@pytest.fixture
def adapter(model: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "adapter"
    Policy.load(model, lora_rank=1, device="cpu", dtype="float32").save_adapter(folder)
    return folder


def words_of(config: EvalConfig) -> list[str]:
    """A command line."""
    given = dataclasses.asdict(config)
    names = ("model", "sampler", "base_url", "problems", "samples", "max_tokens", "max_rows", "device", "dtype", "out")
    words = [f"--{name.replace('_', '-')}={given[name]}" for name in names]
    return [*words, *(f"--env={env}" for env in config.env), *(f"--env-args={text}" for text in config.env_args)]


# --- Going on ---


def test_a_stopped_evaluation_goes_on_to_the_same_answers(config: EvalConfig, tmp_path: Path, monkeypatch, capsys):
    records, _ = evaluate(config)
    again = dataclasses.replace(config, out=tmp_path / "again")
    played = playing._play

    def stopped(config: EvalConfig, waves: Sequence[Wave], missing: Sequence[int]):
        yield from itertools.islice(played(config, waves, missing), 2)  # greedy ones, and six problems four times
        raise KeyboardInterrupt

    monkeypatch.setattr(playing, "_play", stopped)
    with pytest.raises(KeyboardInterrupt):
        evaluate(again)
    assert "Stopped with 44 of 100 answers" in capsys.readouterr().err
    episodes = again.out / "episodes.jsonl"
    lines = episodes.read_text().splitlines(keepends=True)
    assert len(lines) == 44
    # Killed while it wrote the next wave; and a mark on what must not be played again.
    lines[0] = lines[0].replace('"update"', '"mark": 1, "update"')
    next_line = json.dumps(records[44]) + "\n"
    episodes.write_text("".join(lines) + next_line + next_line[:20])
    monkeypatch.setattr(playing, "_play", played)
    found, is_new = evaluate(again)
    assert is_new
    assert written(again) == found
    assert found[0].pop("mark") == 1
    assert found == records
    monkeypatch.setattr(playing, "_play", None)  # nothing is left to play
    found, is_new = evaluate(again)
    assert (len(found), is_new) == (100, False)


def test_that_nothing_was_played_is_said(small: EvalConfig, capsys):
    assert main(words_of(small)) == 0
    assert "Nothing was played" not in capsys.readouterr().out
    os.utime(small.out / "episodes.jsonl", (1_700_000_000, 1_700_000_000))
    assert main(words_of(small)) == 0
    [said] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Nothing was played")]
    assert re.fullmatch(rf"Nothing was played: the answers are those in {small.out}, of 2023-11-1[45] \d\d:\d\d", said)


def test_what_failed_is_played_again_and_nothing_else(config: EvalConfig, monkeypatch, capsys):
    waves_of_two: dict[str, Any] = {
        "model": "calculator",
        "sampler": "openai",
        "samples": 0,
        "max_rows": 2,
        "problems": 12,
    }
    with serving() as address:
        config = dataclasses.replace(config, **waves_of_two, base_url=address)
        monkeypatch.setattr(Calculator, "choke", "1 + 1")
        before, _ = evaluate(config)
        failed = [i for i, record in enumerate(before) if record.get("failure")]
        waves = {i // 2 for i in failed}
        assert failed
        assert len(waves) < 6, "the test would show little"
        episodes = config.out / "episodes.jsonl"
        episodes.write_text(episodes.read_text().replace('"update"', '"mark": 1, "update"'))
        monkeypatch.setattr(Calculator, "choke", "")
        found, is_new = evaluate(config)
        assert is_new
        assert [record["verdicts"] for record in found] == [["correct"]] * 12
        assert [record["problem"] for record in found] == list(range(12))
        assert [record.get("mark") for record in found] == [None if i // 2 in waves else 1 for i in range(12)]
        assert written(config) == found
        assert evaluate(config) == (found, False)
    # There are answers now, so the address is that of these.
    with pytest.raises(ConfigError, match=r"other settings \(base_url\)"):
        evaluate(dataclasses.replace(config, base_url="http://127.0.0.1:9/v1"))


def test_where_nothing_was_answered_there_is_nothing_to_keep(config: EvalConfig, monkeypatch, capsys):
    config = dataclasses.replace(config, model="calculator", sampler="openai", samples=0, problems=3)
    with serving() as address, serving() as other:
        config = dataclasses.replace(config, base_url=address)
        monkeypatch.setattr(Calculator, "choke", "What")
        assert main(words_of(config)) == 1
        said = capsys.readouterr()
        assert said.out == ""
        assert re.search(
            r"^error: none of 3 answers could be judged, the last for EndpointError: .*400", said.err, re.M
        )
        assert len(written(config)) == 3
        assert not (config.out / "summary.json").exists()
        monkeypatch.setattr(Calculator, "choke", "")
        assert main(words_of(dataclasses.replace(config, base_url=other))) == 0
        assert [record["verdicts"] for record in written(config)] == [["correct"]] * 3
        assert json.loads((config.out / "config.json").read_text())["base_url"] == other


def test_a_command_that_could_not_begin_leaves_no_trace(small: EvalConfig):
    with pytest.raises(ConfigError, match="model 'nofolder' cannot be read"):
        evaluate(dataclasses.replace(small, model="nofolder"))
    assert list(small.out.iterdir()) == []
    assert evaluate(small)[1]


# --- What is refused ---


def test_the_seed_decides_and_other_settings_are_refused(config: EvalConfig, tmp_path: Path):
    first, _ = evaluate(config)
    other, _ = evaluate(dataclasses.replace(config, seed=1, out=tmp_path / "seed1"))
    assert [r["observations"][0] for r in first] == [r["observations"][0] for r in other]
    assert first[:20] == other[:20]  # greedy
    assert first != other
    changed = dataclasses.replace(config, seed=1, top_k=2)
    with pytest.raises(ConfigError, match=r"other settings \(top_k, seed\): name another folder"):
        evaluate(changed)
    found, is_new = evaluate(dataclasses.replace(changed, overwrite=True))
    assert is_new
    assert written(changed) == found
    assert evaluate(changed) == (found, False)  # whether it was begun again is no setting of the answers


@pytest.mark.parametrize("name", ["model", "adapter"])
def test_other_weights_in_the_same_place_are_seen(small: EvalConfig, model: Path, adapter: Path, tmp_path: Path, name):
    copied = tmp_path / "copied"
    shutil.copytree(model, copied)
    config = dataclasses.replace(small, model=str(copied), adapter=adapter)
    evaluate(config)
    assert not evaluate(config)[1]
    weights = {"model": copied / "model.safetensors", "adapter": adapter / "adapter_model.safetensors"}[name]
    weights.write_bytes(weights.read_bytes())  # of the same size, later
    with pytest.raises(ConfigError, match=rf"other settings \(files of the {name}\): .* --overwrite"):
        evaluate(config)
    assert evaluate(dataclasses.replace(config, overwrite=True))[1]


def test_what_decides_the_answers_is_the_files_that_are_read(small: EvalConfig, tmp_path: Path):
    folder = tmp_path / "m"
    folder.mkdir()
    for name in ("model.safetensors", "config.json", "README.md"):
        (folder / name).write_text(name)
        os.utime(folder / name, ns=(5, 7))
    config = dataclasses.replace(small, model=str(folder))
    assert weights_of(config) == {"model": {"config.json": [11, 7], "model.safetensors": [17, 7]}, "adapter": {}}
    for other in (dataclasses.replace(config, model="some/hub-id"), dataclasses.replace(config, sampler="openai")):
        assert weights_of(other) == {"model": {}, "adapter": {}}


@pytest.mark.parametrize("name", ["metrics.jsonl", "checkpoints", "config.json"])
def test_the_folder_of_a_training_run_is_none_for_an_evaluation(small: EvalConfig, name: str):
    small.out.mkdir()
    (small.out / name).write_text('{"run_dir": "r"}\n')
    for overwrite in (False, True):
        with pytest.raises(ConfigError, match="out holds a training run: name another folder"):
            evaluate(dataclasses.replace(small, overwrite=overwrite))
    assert [path.name for path in small.out.iterdir()] == [name]


def test_a_broken_line_is_named_and_a_last_one_played_again(small: EvalConfig):
    records, _ = evaluate(small)
    episodes = small.out / "episodes.jsonl"
    first, second = episodes.read_text().splitlines(keepends=True)
    for last in (second[:9], second[:9] + "\n", "\udc80".encode("utf-8", "surrogatepass").decode("latin-1"), "[1]\n"):
        episodes.write_text(first + last)
        assert evaluate(small) == (records, True)
    for broken in ('{"a"\n', "{}\n", "3\n", second):
        episodes.write_text(broken + second)
        with pytest.raises(
            ConfigError, match=r"episodes\.jsonl: line 1 is not the answer that belongs there"
        ) as caught:
            evaluate(small)
        assert "\n" not in str(caught.value)
    assert evaluate(dataclasses.replace(small, overwrite=True)) == (records, True)
    (small.out / "config.json").write_text("{")
    with pytest.raises(ConfigError, match=r"holds answers, but no config\.json"):
        evaluate(small)


def test_a_folder_that_cannot_be_used(small: EvalConfig, tmp_path: Path):
    (tmp_path / "afile").write_text("")
    for out in (Path("/proc/x/e"), tmp_path / "afile", tmp_path / "afile" / "e"):
        with pytest.raises(ConfigError, match=f"^out: {out} cannot be used: ") as caught:
            evaluate(dataclasses.replace(small, out=out))
        assert "\n" not in str(caught.value)


def test_a_full_disk_is_one_line(small: EvalConfig):
    small.out.mkdir()
    (small.out / "config.json.partial").symlink_to("/dev/full")
    with pytest.raises(ConfigError, match="cannot be used: No space left on device"):
        evaluate(small)


# --- Who is to blame ---


def broken(adapter: Path, what: str) -> None:
    settings, weights = adapter / "adapter_config.json", adapter / "adapter_model.safetensors"
    found = json.loads(settings.read_text())
    match what:
        case "no weights":
            weights.unlink()
        case "cut off":
            weights.write_bytes(weights.read_bytes()[:100])
        case "no type":
            settings.write_text(json.dumps({name: found[name] for name in found if name != "peft_type"}))
        case "unknown type":
            settings.write_text(json.dumps({**found, "peft_type": "MAGIC"}))
        case "other sizes":
            settings.write_text(json.dumps({**found, "r": 3}))
        case "other layers":
            settings.write_text(json.dumps({**found, "target_modules": ["no_such_layer"]}))
        case _:
            settings.write_text(what)


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("no weights", "holds no weights: neither adapter_model.safetensors nor adapter_model.bin"),
        ("no type", "does not say what kind of adapter it is"), ("{", "cannot be read"), ("[]", "does not say"),
        ("unknown type", "cannot be put on the model: KeyError: 'MAGIC'"), ("cut off", "SafetensorError"),
        ("other sizes", "size mismatch"), ("other layers", "no_such_layer"),
    ],
)  # fmt: skip
def test_a_broken_adapter_is_the_adapters_fault(small: EvalConfig, adapter: Path, what: str, message: str):
    broken(adapter, what)
    with pytest.raises(ConfigError, match=rf"^adapter.*{message}") as caught:
        evaluate(dataclasses.replace(small, adapter=adapter))
    assert "\n" not in str(caught.value)


def test_a_broken_model_is_not_the_adapters_fault(small: EvalConfig, model: Path, adapter: Path, tmp_path: Path):
    copied = tmp_path / "copied"
    shutil.copytree(model, copied)
    weights = copied / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(ConfigError, match=r"^model '.*copied' cannot be read"):
        evaluate(dataclasses.replace(small, model=str(copied), adapter=adapter))


def test_a_torch_without_cuda_says_device(small: EvalConfig, monkeypatch):
    def empty(*arguments: object, **options: object) -> None:
        raise AssertionError("Torch not compiled with CUDA enabled")

    monkeypatch.setattr(torch, "empty", empty)
    with pytest.raises(ConfigError, match=r"^device 'cuda': Torch not compiled with CUDA"):
        evaluate(dataclasses.replace(small, device="cuda"))
