"""The folder of an evaluation: under what settings, by what weights, and the answers themselves, wave by wave."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from trainers.config import ConfigError
from trainers.config.checks import one_line
from trainers.evaluation.config import EvalConfig
from trainers.evaluation.summary import is_scorable

Records = list[dict[str, Any]]

# What of a model's or an adapter's folder decides its answers.
_DECIDING = ("*.safetensors", "*.bin", "config.json", "generation_config.json", "adapter_config.json", "tokenizer*")

_OTHERWISE = "name another folder with --out, or begin again with --overwrite"


class EvalFolder:
    """Answers that are kept, in whole waves, in the order of the plan.

    Nothing is written before there is a first wave to keep: an evaluation that could not begin leaves no trace.

    Args:
        config: of the evaluation; its `out` is the folder.
        wanted: by wave, what tells its episodes apart, in order: task, kind and number of the problem.

    Attributes:
        waves: the records of the first waves, whole ones, as many as are there.

    Raises:
        ConfigError: where the folder cannot be written, or holds something else that must not be lost.
    """

    def __init__(self, config: EvalConfig, wanted: Sequence[Sequence[tuple[str, str, int]]]) -> None:
        self._folder, self._episodes = config.out, config.out / "episodes.jsonl"
        self.waves: list[Records] = []
        with _in_use(self._folder):
            self._texts = {"config.json": config.identity(), "weights.json": weights_of(config)}
            _refuse_run(self._folder)
            self._folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self._folder):  # now, and not after the first wave
                pass
            records = [] if config.overwrite else _read(self._episodes)
            # What is no answer holds nobody up.
            self._is_begun = any(map(is_scorable, records))
            self._has_more = False
            if self._is_begun:
                self._refuse_others()
                self._take(records, wanted)

    def _refuse_others(self) -> None:
        before = {name: _read_object(self._folder / name) for name in self._texts}
        now, then = self._texts["config.json"], before["config.json"]
        if not then:
            raise ConfigError(f"{self._folder} holds answers, but no config.json that says to what: {_OTHERWISE}")
        changed = [name for name in {**now, **then} if now.get(name) != then.get(name)]
        now, then = self._texts["weights.json"], before["weights.json"]
        changed += [f"files of the {n}" for n in now if n not in changed and now[n] != then.get(n)]
        if changed:
            raise ConfigError(
                f"{self._folder} holds an evaluation with other settings ({', '.join(changed)}): {_OTHERWISE}"
            )

    def _take(self, records: Records, wanted: Sequence[Sequence[tuple[str, str, int]]]) -> None:
        """Keep the whole waves; anything after them is played again."""
        start = 0
        for episodes in wanted:
            wave = records[start : start + len(episodes)]
            for number, (record, episode) in enumerate(zip(wave, episodes, strict=False), start + 1):
                if (record["task"], record["kind"], record["problem"]) != episode:
                    raise _broken(self._episodes, number)
            if len(wave) < len(episodes):
                break
            self.waves.append(wave)
            start += len(episodes)
        self._has_more = True  # perhaps: a line that breaks off was not even read

    def keep(self, number: int, records: Records) -> None:
        """Keep wave `number`: one that is there already, whose records these replace, or the next one.

        Raises:
            ConfigError: when it cannot be written.
        """
        is_next = number == len(self.waves)
        self.waves[number : number + 1] = [records]
        with _in_use(self._folder):
            if not self._is_begun:
                for name in ("episodes.jsonl", "summary.json"):
                    (self._folder / name).unlink(missing_ok=True)
                for name, values in self._texts.items():
                    _write(self._folder / name, json.dumps(values, indent=2) + "\n")
                self._is_begun = True
            if is_next and not self._has_more:
                with self._episodes.open("a", encoding="utf-8") as file:
                    file.write(_lines(records))
            else:
                _write(self._episodes, "".join(map(_lines, self.waves)))
                self._has_more = False


def weights_of(config: EvalConfig) -> dict[str, Any]:
    """By `model` and `adapter`, the files that decide what it says: name -> size in bytes and time in nanoseconds.

    Their contents would tell more surely, but of a large model they take minutes to read. Of what is no folder here,
    as a name on a hub or at an endpoint, there is nothing to tell.
    """
    places = {"model": None if config.sampler == "openai" else Path(config.model), "adapter": config.adapter}
    return {name: {} if place is None else _deciding_files(place) for name, place in places.items()}


def _deciding_files(folder: Path) -> dict[str, list[int]]:
    paths = sorted({path for pattern in _DECIDING for path in folder.glob(pattern) if path.is_file()})
    return {path.name: [path.stat().st_size, path.stat().st_mtime_ns] for path in paths}


def answered_at(folder: Path) -> str:
    """When the last answer in an evaluation's folder was written, by this machine's clock."""
    return f"{datetime.fromtimestamp((folder / 'episodes.jsonl').stat().st_mtime):%Y-%m-%d %H:%M}"


def write_summary(folder: Path, values: Mapping[str, Any]) -> None:
    """Write `summary.json`.

    Raises:
        ConfigError: when it cannot be written.
    """
    with _in_use(folder):
        _write(folder / "summary.json", json.dumps(values, indent=2) + "\n")


def _refuse_run(folder: Path) -> None:
    is_run = (folder / "metrics.jsonl").exists() or (folder / "checkpoints").exists()
    if is_run or "run_dir" in _read_object(folder / "config.json"):
        raise ConfigError(f"out: {folder} holds a training run: name another folder")


def _read(episodes: Path) -> Records:
    """The records of a file. A last line that breaks off is that of a process that was killed, and is left out."""
    lines = episodes.read_bytes().split(b"\n") if episodes.exists() else []
    while lines and not lines[-1].strip():
        lines.pop()
    records: Records = []
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            record = None
        if isinstance(record, dict) and {"task", "kind", "problem", "verdicts"} <= set(record):
            records.append(record)
        elif number < len(lines):
            raise _broken(episodes, number)
    return records


def _broken(episodes: Path, number: int) -> ConfigError:
    return ConfigError(f"{episodes}: line {number} is not the answer that belongs there: {_OTHERWISE}")


def _read_object(path: Path) -> dict[str, Any]:
    """The JSON object of a file; empty where there is none."""
    try:
        found = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


@contextlib.contextmanager
def _in_use(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConfigError(f"out: {folder} cannot be used: {error.strerror or one_line(error)}") from error


def _write(path: Path, text: str) -> None:
    """Whoever is stopped here leaves the file as it was."""
    partial_path = path.with_name(path.name + ".partial")
    partial_path.write_text(text, encoding="utf-8")
    partial_path.replace(path)


def _lines(records: Sequence[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)
