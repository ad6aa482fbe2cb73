"""Run folders for the report's tests, made up: the shapes of a real run, none of its costs."""

import json
import math
import random
from pathlib import Path
from typing import Any

Row = dict[str, Any]

SENTENCE = "the cost of a train ticket is so we add both and then divide it by three which \\boxed{ 12"
WORDS = [*SENTENCE.split(), "\n"]
HOSTILE = (
    "</script><script>document.title='owned'</script>",
    "<img src=x onerror=\"document.title='owned'\">",
    "null \0 byte, bell \a, lone \ud800 surrogate, \u2028 line",
    "\u202ereversed\u202c and \u0645\u0631\u062d\u0628\u0627 \u05e9\u05dc\u05d5\u05dd",
    "<!-- <svg onload=alert(1)> %%script%% ${1+1} &lt;b&gt;",
)


def write_run(folder: Path, config: Row, metrics: list[Row | str], episodes: list[Row | str]) -> Path:
    """The three files of a run; a string among the rows is written as it is, without a newline."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    for name, rows in (("metrics.jsonl", metrics), ("episodes.jsonl", episodes)):
        text = "".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows)
        (folder / name).write_text(text)
    return folder


def config(**changes: Any) -> Row:
    return {"model": "models/SmolLM2-135M-Instruct", "env": ["llm_envs:GSM8K-v0"], "updates": 60} | changes


def start(**changes: Any) -> Row:
    return {
        "kind": "start",
        "update": 0,
        "references": {"GSM8K-v0": {"random": 0.0, "optimal": 1.0}},
        "commit": "abc1234",
        "device": "NVIDIA H100 80GB HBM3",
        "versions": {"torch": "2.9.1", "transformers": "5.0.0"},
        "time": 1_760_000_000,
    } | changes


def update(number: int, total: int = 60, **changes: Any) -> Row:
    """An update of a run that goes well."""
    rng = random.Random(number)
    way = 1 - math.exp(-3 * number / total)
    correct = max(0.0, 0.05 + 0.5 * way + rng.gauss(0, 0.03))
    unparsed = max(0.0, 0.6 * (1 - way) + rng.gauss(0, 0.02))
    sampling, training = 7 + rng.gauss(0, 0.4), 4.4 + rng.gauss(0, 0.2)
    return {
        "kind": "update",
        "update": number,
        "return_mean": correct - 0.1 * unparsed,
        "verdict_correct": correct,
        "verdict_unparsed": unparsed,
        "verdict_wrong": 1 - correct - unparsed,
        "part_correct": correct,
        "part_format": -0.1 * unparsed,
        "constant_groups_share": max(0, 0.4 - 0.3 * way + rng.gauss(0, 0.05)),
        "truncated_share": max(0, 0.7 - 0.6 * way + rng.gauss(0, 0.03)),
        "unscorable_share": 0.0,
        "entropy": 2.2 - 1.4 * way + rng.gauss(0, 0.05),
        "kl": 0.02 * way + abs(rng.gauss(0, 0.002)),
        "grad_norm": 0.02 + abs(rng.gauss(0, 0.01)) + (0.6 if number % 37 == 5 else 0),
        "loss": rng.gauss(0, 0.01),
        "logprob_gap": 0.04 + abs(rng.gauss(0, 0.002)),
        "clipped_share": 0.01 + abs(rng.gauss(0, 0.003)),
        "correction_share": 0.001,
        "learning_rate": 3e-4 * min(1, number / 4),
        "turns_mean": 1.0,
        "action_tokens_mean": 116 - 40 * way + rng.gauss(0, 3),
        "tokens_per_second": 640 + rng.gauss(0, 20),
        "sampling_seconds": sampling,
        "env_seconds": 0.7 + rng.gauss(0, 0.1),
        "training_seconds": training,
        "seconds": sampling + training + 0.8,
    } | changes


def evaluation(number: int, total: int = 60, **changes: Any) -> Row:
    way = 1 - math.exp(-3 * number / total)
    found = {
        "return_mean": 0.03 + 0.55 * way,
        "verdict_correct": 0.06 + 0.55 * way,
        "action_tokens_mean": 100 - 30 * way,
    }
    return {"kind": "evaluation", "update": number} | found | changes


def episode(update: int, texts: list[str], reward: float, advantage: float, **changes: Any) -> Row:
    """An episode of one turn, as newer versions write it."""
    return {
        "update": update,
        "group": 0,
        "env": "llm_envs:GSM8K-v0",
        "env_args": {"split": "train"},
        "seed": 17 * update,
        "return": reward,
        "prompt": [
            {"role": "system", "content": "Write the final answer inside \\boxed{}."},
            {"role": "user", "content": f"A ticket costs ${update + 3}. What do three cost?"},
        ],
        "observations": [f"A ticket costs ${update + 3}. What do three cost?", ""],
        "actions": ["".join(texts)],
        "rewards": [reward],
        "verdicts": ["correct" if reward > 0 else "wrong"],
        "stop_reasons": ["stop"],
        "reward_parts": [{"correct": reward}],
        "action_tokens": len(texts),
        "token_texts": [texts],
        "token_logprobs": [[-0.5] * len(texts)],
        "token_advantages": [[advantage] * len(texts)],
        "advantages": [advantage],
    } | changes


def group(update: int, number: int = 0, *, members: int = 16, tokens: int = 120) -> list[Row]:
    """The members of one group, some of them cut off."""
    rng = random.Random(1000 * update + number)
    found = []
    for _ in range(members):
        cut = rng.random() < 0.3
        reward = -0.1 if cut else float(rng.random() < 0.4)
        count = tokens if cut else rng.randint(tokens // 3, tokens)
        found.append((cut, reward, [f" {w}" if w.isalnum() else w for w in rng.choices(WORDS, k=count)]))
    mean = sum(reward for _, reward, _ in found) / members
    rows = []
    for cut, reward, texts in found:
        changes: Row = {"group": number, "token_logprobs": [[-rng.expovariate(1.2) for _ in texts]]}
        changes["token_advantages"] = [[reward - mean + 0.05 * rng.gauss(0, 1) for _ in texts]]
        if cut:
            changes |= {"verdicts": ["unparsed"], "stop_reasons": ["length"]}
        changes["reward_parts"] = [{"correct": max(0.0, reward), "format": min(0.0, reward)}]
        rows.append(episode(update, texts, reward, reward - mean, **changes))
    return rows


def hostile_group(update: int) -> list[Row]:
    """Everything that was said, asked and named wants to be more than text."""
    [first, *_] = HOSTILE
    return [
        episode(
            update, list(text) if i % 2 else [text], 0.0, 0.5 - i, prompt=[{"role": first, "content": first}],
            env=f"llm_envs:{first}", env_args={first: first}, verdicts=[first], stop_reasons=[first],
            reward_parts=[{first: 1.0, "__proto__": 2.0}], observations=[first, text],
        )
        for i, text in enumerate(HOSTILE)
    ]  # fmt: skip


def evaluated(folder: Path) -> Path:
    """The folder of an evaluation, of two problems with one greedy and four sampled answers each."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = {
        "model": "models/SmolLM2", "adapter": None, "env": ["llm_envs:GSM8K-v0"], "env_args": ['{"split": "test"}'],
        "problems": 2, "greedy": True, "samples": 4, "temperature": 0.7,
    }  # fmt: skip
    rates = {"unscorable": 0, "accuracy": None, "regret": None, "format": {"value": 1.0, "low": None, "high": None}}
    summary = {
        "env": "llm_envs:GSM8K-v0",
        "env_args": {"split": "test"},
        "reference": {"best": 1.0, "solver": "oracle", "threshold": None, "num_tasks": 9},
        "greedy": rates | {
            "problems": 2, "answers": 2, "accuracy": {"value": 0.5, "low": 0.096, "high": 0.904},
            "return_mean": {"value": -0.25, "low": None, "high": None},
            "regret": {"value": 1.25, "low": -0.1, "high": 2.0},
        },
        "sampled": rates | {"problems": 2, "answers": 7, "return_mean": {"value": 0.5, "low": 0.25, "high": 0.75}},
        "pass_at": {"1": {"value": 0.5, "low": 0.25, "high": 0.75}, "4": None},
        "unscorable": 1,
    }  # fmt: skip
    rows = [
        episode(
            0, [f"{kind} {i}"], reward, 0.0, kind=kind, problem=problem, seed=2**62 + problem, task="GSM8K-v0",
            group=2 * problem + (kind == "sampled"), token_texts=None, token_logprobs=None, token_advantages=None,
            advantages=None,
        )
        for problem, reward in enumerate([1.0, 0.0]) for kind, answers in (("greedy", 1), ("sampled", 4))
        for i in range(answers)
    ]  # fmt: skip
    (folder / "config.json").write_text(json.dumps(settings))
    (folder / "summary.json").write_text(json.dumps({"GSM8K-v0": summary}))
    (folder / "episodes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def game(update: int, *, members: int = 4) -> list[Row]:
    """Games of two players, the policy against a scripted one."""
    found = []
    for member in range(members):
        won = 1.0 if member % 2 else -1.0
        board = "  a b c\n1 X . .\n2 . O .\n3 . . ."
        row = {"update": update, "group": 0, "env": "llm_envs:TicTacToe-v0", "env_args": {}, "seed": update}
        found.append(
            row
            | {
                "players": {"player_1": "self", "player_2": "random"},
                "agents": ["player_1", "player_2", "player_1"],
                "observations": [f"{board}\nYour move, player {i % 2 + 1}." for i in range(3)],
                "actions": ["a1", "b2", "c3"],
                "returns": {"player_1": won, "player_2": -won},
                "endings": {"player_1": "You won." if won > 0 else "You lost.", "player_2": ""},
            }
        )
    return found


def old_conversation(update: int) -> list[Row]:
    """Episodes of several turns in the shape of an older version: no tokens, prompt, parts or group numbers."""
    return [
        {
            "update": update,
            "seed": 5,
            "return": value,
            "observations": ["I am thinking of a thing.", "Yes.", "It is over."],
            "actions": ["Is it alive?", "Is it a cat?"],
            "rewards": [0.0, value],
            "verdicts": ["wrong", "correct" if value else "wrong"],
            "stop_reasons": ["stop", "stop"],
            "action_tokens": 4,
        }
        for value in (0.0, 7.0)
    ]


def whole_run(folder: Path, *, updates: int = 60, **options: Any) -> Path:
    """A run like a real one, with a group an update."""
    numbers = range(1, updates + 1)
    metrics: list[Row | str] = [start(), evaluation(0, updates)]
    for number in numbers:
        metrics.append(update(number, updates))
        if number % 20 == 0:
            metrics.append(evaluation(number, updates))
    settings = config(updates=updates, learning_rate=3e-4, groups_per_batch=8, max_tokens=128, advantage="rloo")
    episodes: list[Row | str] = [row for number in numbers for row in group(number, **options)]
    return write_run(folder, settings, metrics, episodes)


def mixed_run(folder: Path) -> Path:
    """Two environments in every batch, of which the second has the larger returns; killed while writing."""
    metrics: list[Row | str] = [
        start(
            references={"GSM8K-v0": {"random": 0.0, "optimal": 1.0}, "GuessNumber-v0": {"random": 0.19, "optimal": 5.2}}
        )
    ]
    for number in range(1, 81):
        row = update(number, 80)
        for task, factor in (("GSM8K-v0", 1.0), ("GuessNumber-v0", 5.0)):
            row[f"{task}/return_mean"] = factor * row["return_mean"]
            row[f"{task}/verdict_correct"] = row["verdict_correct"]
        metrics.append(row)
    episodes: list[Row | str] = []
    for number in range(1, 81, 4):
        episodes += group(number, members=4)
        episodes += [row | {"env": "llm_envs:GuessNumber-v0"} for row in group(number, 1, members=8)]
    settings = config(env=["llm_envs:GSM8K-v0", "llm_envs:GuessNumber-v0"], updates=80)
    return write_run(folder, settings, [*metrics, '{"kind": "upd'], [*episodes, '{"update": 80, "gro'])
