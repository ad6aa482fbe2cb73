"""Trajectories, packed for the page: a small index of all groups, and a block for each that is decoded on demand.

A block is `{"prompt": [[role, text], ..], "members": [..]}`; a member is `{"turns": [..], "end": [[agent, text], ..]}`,
with `returns` and `players` in games of several. A turn has of the following what there is: `who` (agent), `saw`
(observation before it), `said` (action; left out where the tokens spell it, with or without a stop token), `tokens`,
`logprobs` (hundredths of a nat), `advantages` (a number for all tokens alike, or one a token), `reward`, `verdict`,
`stop`, `parts`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from trainers.report.reading import is_number, lines, read_lines

Index = dict[str, Any]


def pack_groups(
    path: Path, *, max_bytes: int, encode: Callable[[Any], str]
) -> tuple[list[Index], list[str], list[str]]:
    """Read `episodes.jsonl`: the index, the encoded blocks in its order, and notes for the reader.

    Where the blocks together are longer than `max_bytes`, groups are left out evenly; the first and the last stay.
    """
    broken: list[int] = []
    packed: dict[tuple[int, int], tuple[Index, str]] = {}
    for key, records in _gathered(read_lines(path, broken)):
        packed[key] = (_index(key, records), encode(_block(records)))
    groups = [packed[key] for key in sorted(packed)]
    notes = [f"episodes.jsonl: {lines(broken)} could not be read"] if broken else []
    total = len(groups)
    groups = [groups[i] for i in thinned([len(block) for _, block in groups], max_bytes)]
    if len(groups) < total:
        notes.append(f"This page holds {len(groups)} of {total} recorded groups, to stay small; all are in {path.name}")
    return [index for index, _ in groups], [block for _, block in groups], notes


def thinned(sizes: Sequence[int], limit: int) -> list[int]:
    """Which of so many parts to keep, evenly, so that their sizes add up to no more than `limit`; at least one."""
    count = len(sizes)
    kept = list(range(count))
    while len(kept) > 1 and sum(sizes[i] for i in kept) > limit:
        wanted = max(1, min(len(kept) - 1, int(len(kept) * limit / sum(sizes[i] for i in kept))))
        kept = [round(i * (count - 1) / (wanted - 1)) for i in range(wanted)] if wanted > 1 else [count - 1]
    return kept


def _gathered(rows: Iterator[dict[str, Any]]) -> Iterator[tuple[tuple[int, int], list[dict[str, Any]]]]:
    """Members of a group stand together. Older runs do not number groups: there the seed tells them apart."""
    last: Any = None
    found: list[dict[str, Any]] = []
    key, numbers = (0, 0), dict[int, int]()
    for row in rows:
        update = int(row["update"])
        now = (update, row.get("group"), row.get("seed"))
        if now != last:
            if found:
                yield key, found
            given: Any = row.get("group")
            numbers[update] = int(given) if is_number(given) else numbers.get(update, -1) + 1
            last, found, key = now, [], (update, numbers[update])
        found.append(row)
    if found:
        yield key, found


def _index(key: tuple[int, int], records: list[dict[str, Any]]) -> Index:
    """What can be chosen and filtered by without decoding the block."""
    first = records[0]
    args = first.get("env_args")
    return {
        "update": key[0],
        "group": key[1],
        "env": str(first.get("env", "")).rpartition(":")[2],
        # As text: JavaScript has no whole numbers above 2^53, and JSON no NaN.
        "args": " ".join(f"{name}={_json(value)}" for name, value in args.items()) if isinstance(args, dict) else "",
        "label": _label(first),
        "returns": [_return(record) for record in records],
        "verdicts": [_last_verdict(record) for record in records],
        "cut": [int(any(stop in ("length", "env") for stop in _list(record, "stop_reasons"))) for record in records],
    }


def _label(record: Mapping[str, Any]) -> str:
    """What a group is of: in an evaluation the problem and the kind of answers, else a seed."""
    problem, seed = record.get("problem"), record.get("seed")
    if is_number(problem):
        return f"problem {problem}, {record.get('kind')}"
    return f"seed {seed}" if is_number(seed) else ""


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _return(record: Mapping[str, Any]) -> float | None:
    """Of a game: the return of the policy's first seat."""
    value = record.get("return")
    returns, players = _dict(record, "returns"), _dict(record, "players")
    if value is None and returns:
        mine = [agent for agent in returns if players.get(agent) == "self"] or list(returns)
        value = returns[mine[0]]
    return float(f"{value:.6g}") if is_number(value) else None


def _last_verdict(record: Mapping[str, Any]) -> str:
    return next((v for v in reversed(_list(record, "verdicts")) if isinstance(v, str) and v), "")


def _block(records: list[dict[str, Any]]) -> dict[str, Any]:
    opening = next((list(_messages(record)) for record in records if _list(record, "prompt")), [])
    is_game = any(_list(record, "agents") for record in records)
    if not opening and not is_game:  # older runs: the first observation, where it is everybody's
        firsts = [(_list(record, "observations") or [""])[0] for record in records]
        if isinstance(firsts[0], str) and firsts[0] and all(first == firsts[0] for first in firsts):
            opening = [["", firsts[0]]]
    return {"prompt": opening, "members": [_member(record, has_prompt=bool(opening)) for record in records]}


def _messages(record: Mapping[str, Any]) -> Iterator[list[str]]:
    for message in _list(record, "prompt"):
        if isinstance(message, dict):
            yield [str(message.get("role", "")), _text(message.get("content"))]


def _member(record: Mapping[str, Any], *, has_prompt: bool) -> dict[str, Any]:
    actions, agents, seen = (_list(record, name) for name in ("actions", "agents", "observations"))
    member: dict[str, Any] = {"turns": [_turn(record, i) for i in range(len(actions))]}
    if has_prompt and not agents and member["turns"]:
        member["turns"][0].pop("saw", None)  # it is the prompt
    if agents:
        member["end"] = [[str(agent), _text(text)] for agent, text in _dict(record, "endings").items() if text]
        member["players"] = {str(agent): str(name) for agent, name in _dict(record, "players").items()}
        member["returns"] = {a: value for a, value in _dict(record, "returns").items() if is_number(value)}
    elif len(seen) > len(actions) and _text(seen[-1]):
        member["end"] = [["", _text(seen[-1])]]
    return member


def _turn(record: Mapping[str, Any], number: int) -> dict[str, Any]:
    said = _text(_nth(record, "actions", number))
    turn: dict[str, Any] = {
        "who": _text(_nth(record, "agents", number)),
        "saw": _text(_nth(record, "observations", number)),
        "reward": _nth(record, "rewards", number),
        "verdict": _text(_nth(record, "verdicts", number)),
        "stop": _text(_nth(record, "stop_reasons", number)),
        "parts": _nth(record, "reward_parts", number),
    }
    if not is_number(turn["reward"]):
        turn["reward"] = None
    parts = turn["parts"]
    turn["parts"] = {str(k): v for k, v in parts.items() if is_number(v)} if isinstance(parts, dict) else None
    tokens = _nth(record, "token_texts", number)
    if isinstance(tokens, list) and tokens:
        turn["tokens"] = [_text(token) for token in tokens]
        turn["logprobs"] = _hundredths(_nth(record, "token_logprobs", number), len(tokens))
        turn["advantages"] = _alike(_nth(record, "token_advantages", number), len(tokens))
    if turn.get("advantages") is None:  # not recorded for each token: what the turn was given
        given = _nth(record, "advantages", number)
        turn["advantages"] = _rounded(given) if is_number(given) else None
    texts = turn.get("tokens", [])
    if said not in ("".join(texts), "".join(texts[:-1])):
        turn["said"] = said
    return {name: value for name, value in turn.items() if value not in (None, "", {})}


def _hundredths(values: Any, count: int) -> list[int | None] | None:
    if not isinstance(values, list) or len(values) != count:
        return None
    return [round(100 * value) if is_number(value) else None for value in values]


def _alike(values: Any, count: int) -> float | list[float | None] | None:
    """One number where all tokens have the same advantage, as most have."""
    if not isinstance(values, list) or len(values) != count:
        return None
    rounded = [_rounded(value) if is_number(value) else None for value in values]
    return rounded[0] if len(set(rounded)) == 1 else rounded


def _rounded(value: float) -> float:
    return float(f"{value:.3g}")


def _list(record: Mapping[str, Any], name: str) -> list[Any]:
    value = record.get(name)
    return value if isinstance(value, list) else []


def _dict(record: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = record.get(name)
    return value if isinstance(value, dict) else {}


def _nth(record: Mapping[str, Any], name: str, number: int) -> Any:
    values = _list(record, name)
    return values[number] if number < len(values) else None


def _text(value: Any) -> str:
    return value if isinstance(value, str) else "" if value is None else str(value)
