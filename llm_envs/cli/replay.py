"""``llm-envs replay``: recorded episodes, played again."""

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from llm_envs import episodes
from llm_envs.cli.shared import complain, end_progress, positive, show_progress
from llm_envs.cli.showing import lines_of
from llm_envs.episodes import Difference

__all__ = ["add_parser"]


def add_parser(commands: Any) -> None:
    """The arguments of ``llm-envs replay``."""
    replay = commands.add_parser(
        "replay",
        help="play recorded episodes again",
        description="Plays recorded episodes again, such as those of `llm-envs play --record` and of a training run's "
        "episodes.jsonl, and prints them. With --check it compares every observation, reward and verdict with the "
        "record and prints the first difference of each episode instead; episodes with the verdict unscorable are "
        "left out. Exit code 0: all agree, or were just printed; 1: some differ; 2: a line holds no episode, or its "
        "environment cannot be made. A file names the modules that are imported for it: replay files that you trust.",
    )
    replay.add_argument("file", help="a JSONL file")
    replay.add_argument("--check", action="store_true", help="compare with what was recorded")
    replay.add_argument("--limit", type=positive, help="the first episodes only")
    replay.add_argument(
        "--json", action="store_true", help="print JSON: an object an episode, or with --check one for the file"
    )
    replay.set_defaults(run=_run)


@dataclass
class _Counts:
    """What `--check` found."""

    episodes: int = 0
    agree: int = 0
    unscorable: int = 0
    differing: list[dict[str, Any]] = field(default_factory=list)


def _run(options: argparse.Namespace) -> int:
    counts = _Counts()
    try:
        for line, record, again in _replayed(options.file, options.limit):
            counts.episodes += 1
            if options.check:
                _check(counts, line, record, again, is_json=options.json)
            elif options.json:
                sys.stdout.write(json.dumps(episodes.to_jsonable(again)) + "\n")
            else:
                sys.stdout.writelines(f"{text}\n" for text in [f"episode {counts.episodes}", *lines_of(again), ""])
            if options.check:
                show_progress(counts.episodes, None, "episodes")
    except (OSError, ValueError) as error:
        return complain(f"{options.file}: {error}")
    if options.check:
        end_progress(counts.episodes)
        _report(counts, is_json=options.json)
    return 1 if counts.differing else 0


def _replayed(path: str, limit: int | None) -> Iterator[tuple[int, dict[str, Any], dict[str, Any]]]:
    """Number of the line, record, and what happened now. Environments are kept: most files name just one."""
    envs: dict[str, Any] = {}
    try:
        for number, (line, record) in enumerate(episodes.read_episodes(path), start=1):
            key = json.dumps([record["env"], record["env_args"], episodes.is_game(record)], sort_keys=True)
            try:
                if key not in envs:
                    envs[key] = episodes.make_recorded(record)
                yield line, record, episodes.replay(envs[key], record)
            except ValueError as error:
                raise ValueError(f"line {line}: {error}") from error
            if number == limit:
                return
    finally:
        for env in envs.values():
            env.close()


def _check(counts: _Counts, line: int, record: dict[str, Any], again: dict[str, Any], *, is_json: bool) -> None:
    if episodes.is_unscorable(record):
        counts.unscorable += 1
        return
    first = next(episodes.differences(record, again), None)
    if first is None:
        counts.agree += 1
        return
    counts.differing.append({"line": line, "episode": counts.episodes, **_as_json(first)})
    if not is_json:
        sys.stdout.write(f"line {line}, episode {counts.episodes} ({record['env']}, seed {record['seed']}): {first}\n")


def _as_json(difference: Difference) -> dict[str, Any]:
    return {
        "step": difference.step,
        "what": difference.what,
        "recorded": difference.recorded,
        "found": difference.found,
    }


def _report(counts: _Counts, *, is_json: bool) -> None:
    if is_json:
        sys.stdout.write(json.dumps(vars(counts)) + "\n")
        return
    left_out = f", {counts.unscorable} unscorable ones were left out" if counts.unscorable else ""
    sys.stdout.write(f"{counts.episodes} episodes: {counts.agree} agree, {len(counts.differing)} differ{left_out}\n")
