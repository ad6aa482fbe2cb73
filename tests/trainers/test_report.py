"""What a report holds: read from whatever a run has written, packed, and safe whatever was said."""

import base64
import gzip
import hashlib
import json
import re
from html.parser import HTMLParser
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from tests.trainers.made_up_runs import (
    HOSTILE,
    config,
    episode,
    evaluated,
    evaluation,
    game,
    hostile_group,
    mixed_run,
    old_conversation,
    start,
    update,
    write_run,
)
from trainers.config import ConfigError
from trainers.report import write_report
from trainers.report.evaluations import is_evaluation, read_evaluation
from trainers.report.groups import pack_groups, thinned
from trainers.report.reading import is_number, read_run


def packed(folder: Path) -> tuple[list[Any], list[Any], list[str]]:
    index, blocks, notes = pack_groups(folder / "episodes.jsonl", max_bytes=10**9, encode=json.dumps)
    return index, [json.loads(block) for block in blocks], notes


class Page(HTMLParser):
    """All elements of a page with their attributes, and the text of scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, str] = {}
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self._inside = dict(attrs).get("id") or tag

    def handle_endtag(self, tag):
        self._inside = ""

    def handle_data(self, data):
        self.texts[self._inside] = self.texts.get(self._inside, "") + data

    def block(self, name: str) -> Any:
        return json.loads(gzip.decompress(base64.b64decode(self.texts[name])))


@pytest.mark.parametrize("value", [1, -2.5, 0, 10**200])
def test_numbers(value):
    assert is_number(value)


@pytest.mark.parametrize("value", [True, None, "1", float("nan"), float("inf"), 10**400, [1]])
def test_no_numbers(value):
    assert not is_number(value)


def test_what_is_read_of_a_run(tmp_path):
    """Columns by update; of two rows of one update the later holds; what is broken is left out, and said."""
    metrics: list[dict[str, Any] | str] = [
        start(references={"Old-v0": {"random": 9.0}, "GSM8K-v0": {"random": 0.25, "optimal": float("nan")}}),
        {"kind": "update", "update": 2, "return_mean": 0.5, "seconds": 60.0, "loss": None},
        {"kind": "update", "update": 1, "return_mean": float("nan"), "entropy": 1.23456789, "seconds": 30.0},
        "not json\n",
        {"kind": "evaluation", "update": 2, "return_mean": 0.75},
        start(update=1, commit="def5678"),
        {"kind": "update", "update": 2, "return_mean": 0.625, "seconds": 90.0, "word": "no number"},
        '"no object"\n',
        '{"kind": "update", "update": 3, "return_m',
    ]
    settings = config(group_size=8, learning_rate=4e-5, adam_betas=[0.9, 0.95], baseline="turn")
    run = read_run(write_run(tmp_path / "my_run", settings, metrics, []))
    assert run["title"] == "SmolLM2-135M-Instruct on GSM8K-v0"
    assert run["updates"] == {
        "update": [1, 2],
        "entropy": [1.23457, None],
        "seconds": [30.0, 90.0],
        "return_mean": [None, 0.625],
    }
    assert run["evaluations"] == {"update": [2], "return_mean": [0.75]}
    assert run["references"]["GSM8K-v0"] == {"random": 0.0, "optimal": 1.0}  # the later start's
    assert run["settings"] == [
        ("group_size", "8"),
        ("baseline", "turn"),
    ]  # others are the defaults; the last is unknown
    assert run["notes"] == ["metrics.jsonl: 2 lines (4, 8) could not be read"]
    facts = dict(run["facts"])
    assert facts["run"] == "my_run"
    assert facts["commit"] == "abc1234, def5678"
    assert facts["time in updates"] == "2.0 min"
    assert facts["resumed"] == "once"
    assert facts["started"] == "2025-10-09 08:53 UTC"  # 1 760 000 000 seconds after 1970


def test_a_verdict_that_is_left_out_is_none_at_all(tmp_path):
    """0 %, 50 % and 0 % correct are no 50 %; of an environment of another name nothing follows."""
    rows: list[Any] = [
        {"kind": "evaluation", "update": 0, "verdict_wrong": 1.0, "A/verdict_illegal": 1.0},
        {"kind": "evaluation", "update": 1, "verdict_wrong": 0.5, "verdict_correct": 0.5, "A/verdict_none": 1.0},
        {"kind": "evaluation", "update": 2, "verdict_wrong": 1.0},
        {"kind": "update", "update": 1, "verdict_unparsed": 1.0},
        {"kind": "update", "update": 2, "broken_share": 0.25},
    ]
    run = read_run(write_run(tmp_path, config(), rows, []))
    assert run["evaluations"] == {
        "update": [0, 1, 2], "verdict_wrong": [1.0, 0.5, 1.0], "verdict_correct": [0.0, 0.5, 0.0],
        "A/verdict_illegal": [1.0, 0.0, None], "A/verdict_none": [0.0, 1.0, None],
    }  # fmt: skip
    assert run["updates"] == {
        "update": [1, 2], "verdict_unparsed": [1.0, None], "verdict_correct": [0.0, None], "broken_share": [0.0, 0.25],
    }  # fmt: skip


def test_names_of_several_environments(tmp_path):
    """As the trainer names them: `TaskOptions.tasks`."""
    folder = write_run(tmp_path, config(env=["a:X-v0", "a:Y-v0", "a:X-v0"]), [], [])
    assert read_run(folder)["tasks"] == ["X-v0#1", "Y-v0", "X-v0#2"]
    assert read_run(write_run(tmp_path, config(env="llm_envs:Old-v0"), [], []))["tasks"] == ["Old-v0"]


def test_a_group_is_packed(tmp_path):
    first = episode(3, ["The", " end", "<stop>"], 1.0, 0.5, actions=["The end"], token_logprobs=[[-0.123, -4.0, None]])
    second = episode(3, ["No"], -0.1, -0.5, stop_reasons=["length"], verdicts=["unparsed"], token_advantages=None)
    third = episode(3, ["a", "b"], 0.0, 0.0, token_advantages=[[0.25, -0.12345]], actions=["something else"])
    [index], [block], notes = packed(write_run(tmp_path, config(), [], [first, second, third]))
    assert notes == []
    assert index == {
        "update": 3,
        "group": 0,
        "env": "GSM8K-v0",
        "args": 'split="train"',
        "label": "seed 51",
        "returns": [1.0, -0.1, 0.0],
        "verdicts": ["correct", "unparsed", "wrong"],
        "cut": [0, 1, 0],
    }
    assert block["prompt"] == [
        ["system", "Write the final answer inside \\boxed{}."],
        ["user", "A ticket costs $6. What do three cost?"],
    ]
    turns = [member["turns"][0] for member in block["members"]]
    assert turns[0] == {
        "reward": 1.0,
        "verdict": "correct",
        "stop": "stop",
        "parts": {"correct": 1.0},
        "tokens": ["The", " end", "<stop>"],
        "logprobs": [-12, -400, None],
        "advantages": 0.5,
    }
    assert turns[1]["advantages"] == -0.5  # no advantages of tokens: the turn's
    assert turns[2]["advantages"] == [0.25, -0.123]
    assert turns[2]["said"] == "something else"


def test_groups_are_told_apart(tmp_path):
    """By number; in older files by seed. The half-written last line belongs to no group, and is no error."""
    rows: list[dict[str, Any] | str] = [
        *(old_conversation(1)),
        *(row | {"seed": 6} for row in old_conversation(1)),
        episode(2, ["x"], 0.0, 0.0, group=7, seed=1),
        episode(2, ["x"], 0.0, 0.0, group=8, seed=1),
        '{"update": 9, "group": 0}',
    ]
    index, blocks, notes = packed(write_run(tmp_path, config(), [], [*rows[:-1], "[]\n", "{\n", str(rows[-1])[:-1]]))
    assert [(one["update"], one["group"], len(one["returns"])) for one in index] == [
        (1, 0, 2),
        (1, 1, 2),
        (2, 7, 1),
        (2, 8, 1),
    ]
    assert notes == ["episodes.jsonl: 2 lines (7, 8) could not be read"]
    assert blocks[0]["prompt"] == [["", "I am thinking of a thing."]]
    member = blocks[0]["members"][1]
    assert member["end"] == [["", "It is over."]]
    assert member["turns"][0] == {"said": "Is it alive?", "reward": 0.0, "verdict": "wrong", "stop": "stop"}
    assert member["turns"][1]["saw"] == "Yes."


def test_a_game_of_several_is_packed(tmp_path):
    [index], [block], _ = packed(write_run(tmp_path, config(), [], [*game(4, members=2)]))
    assert index["returns"] == [-1.0, 1.0]
    assert block["prompt"] == []
    member = block["members"][0]
    assert member["players"] == {"player_1": "self", "player_2": "random"}
    assert member["returns"] == {"player_1": -1.0, "player_2": 1.0}
    assert member["end"] == [["player_1", "You lost."]]
    assert [turn["who"] for turn in member["turns"]] == ["player_1", "player_2", "player_1"]
    assert member["turns"][1]["saw"].endswith("Your move, player 2.")


def test_rows_of_any_shape_are_survived(tmp_path):
    """A value of a wrong kind is a missing one."""
    rows: list[dict[str, Any] | str] = [
        {"update": 1},
        {"update": 1, "actions": "text", "observations": None, "return": "much", "env_args": [], "seed": {}},
        {
            "update": 2,
            "actions": [None, 5],
            "token_texts": [None, [1, "b"]],
            "token_logprobs": [[0.1]],
            "prompt": ["x"],
        },
        {"update": 3, "actions": ["a"], "agents": ["p"], "returns": [], "players": None, "reward_parts": [{"x": "y"}]},
    ]
    index, blocks, _ = packed(write_run(tmp_path, config(), [], rows))
    assert [one["returns"] for one in index] == [[None], [None], [None], [None]]
    assert blocks[2]["members"][0]["turns"][1] == {"said": "5", "tokens": ["1", "b"]}


@pytest.mark.parametrize(
    ("sizes", "limit", "kept"),
    [
        ([10] * 4, 40, [0, 1, 2, 3]),
        ([10] * 10, 45, [0, 3, 6, 9]),
        ([10] * 5, 20, [0, 4]),
        ([9, 9], 5, [1]),
        ([], 5, []),
    ],
)
def test_long_runs_are_thinned_evenly(sizes, limit, kept):
    assert thinned(sizes, limit) == kept


def test_a_page_says_what_it_leaves_out(tmp_path):
    episodes: list[dict[str, Any] | str] = [episode(i, ["x"], 0.0, 0.0) for i in range(1, 101)]
    folder = write_run(tmp_path, config(), [update(1)], episodes)
    page = Page(write_report(folder, max_bytes=10_000).read_text())
    run = page.block("run")
    kept = [group["update"] for group in run["groups"]]
    assert (kept[0], kept[-1]) == (1, 100)
    assert 10 < len(kept) < 100
    assert run["notes"] == [
        f"This page holds {len(kept)} of 100 recorded groups, to stay small; all are in episodes.jsonl"
    ]
    blocks = [text for name, text in page.texts.items() if name.startswith("group-")]
    assert len(blocks) == len(kept)
    assert sum(map(len, blocks)) <= 10_000


def test_nothing_that_was_said_is_markup(tmp_path):
    """The page of a hostile run has the elements of a harmless one, and its text comes back to the letter."""
    settings = config(model=f"x/{HOSTILE[1]}", env=[f"a:{HOSTILE[1]}"], lora_rank=HOSTILE[1])
    metrics: list[dict[str, Any] | str] = [
        start(commit=HOSTILE[0], device=HOSTILE[1]),
        update(1, part_x=1.0),
        evaluation(1),
    ]
    metrics[1][f"verdict_{HOSTILE[0]}"] = 0.5  # type: ignore[index]
    hostile = write_report(write_run(tmp_path / "a", settings, metrics, [*hostile_group(1)])).read_text()
    harmless = write_report(write_run(tmp_path / "b", config(), [update(1)], [episode(1, ["x"], 0.0, 0.0)])).read_text()
    found, expected = Page(hostile), Page(harmless)
    assert [tag for tag, _ in found.elements] == [tag for tag, _ in expected.elements]
    assert "owned" not in re.sub(r"<title>.*?</title>", "", hostile)
    assert "<" not in re.findall(r"<title>(.*?)</title>", hostile)[0]
    said = [member["turns"][0]["tokens"] for member in found.block("group-0")["members"]]
    assert ["".join(tokens) for tokens in said] == list(HOSTILE)


def test_the_page_is_self_contained(tmp_path):
    """No address outside, and a policy that allows its own script and style alone."""
    page = Page(write_report(write_run(tmp_path, config(), [update(1)], [])).read_text())
    for tag, attributes in page.elements:
        assert "src" not in attributes
        assert tag != "link" or str(attributes["href"]).startswith("data:image/svg+xml,")
        assert not any(name.startswith("on") for name in attributes)
    [policy] = [a["content"] or "" for _, a in page.elements if a.get("http-equiv") == "Content-Security-Policy"]
    for name in ("script", "style"):
        digest = base64.b64encode(hashlib.sha256(page.texts[name].encode()).digest()).decode()
        assert f"{name}-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy
    outside = set(re.findall(r"https?://[^\s'\"`)]+", page.texts["script"] + page.texts["style"]))
    assert outside == {"http://www.w3.org/2000/svg"}  # a name, not an address


@pytest.mark.parametrize(
    ("settings", "title"),
    [
        ({"updates": float("nan")}, "SmolLM2-135M-Instruct on GSM8K-v0"),
        ({"model": "x/\ud800 %%style%% %%data%%"}, "\ufffd %%style%% %%data%% on GSM8K-v0"),
    ],
)
def test_strange_settings_leave_a_page_all_the_same(tmp_path, settings, title):
    strange = episode(1, ["x"], 0.0, 0.0, env_args={"rate": float("nan"), "seed": 2**62 + 1}, seed=2**62 + 1)
    page = Page(write_report(write_run(tmp_path, config(**settings), [update(1)], [strange])).read_text())
    assert page.texts["title"] == title
    assert page.texts["style"].startswith(":root {")
    run = page.block("run")
    assert run["updates_wanted"] in (None, 60)
    assert run["groups"][0]["args"] == "rate=NaN seed=4611686018427387905"
    assert run["groups"][0]["label"] == "seed 4611686018427387905"  # JavaScript would make it ...904
    assert not list(tmp_path.glob("*.partial"))


def test_a_page_that_cannot_be_made_leaves_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.setattr("trainers.report._page", lambda run, blocks: "\ud800")
    with pytest.raises(UnicodeEncodeError):
        write_report(write_run(tmp_path, config(), [update(1)], []))
    assert not list(tmp_path.glob("*.partial"))


def test_an_evaluation(tmp_path):
    """Its summary as a table: a value, and an interval where there is one."""
    run = read_evaluation(evaluated(tmp_path / "eval"))
    assert is_evaluation(tmp_path / "eval")
    assert run["title"] == "Evaluation of SmolLM2 on GSM8K-v0"
    assert run["settings"] == [("env_args", '["{\\"split\\": \\"test\\"}"]'), ("samples", "4"), ("temperature", "0.7")]
    assert [fact for fact in run["facts"] if fact[0] != "finished"] == [
        ("evaluation", "eval"),
        ("problems", "2, at most"),
    ]
    [table] = run["tables"]
    assert table["name"] == 'GSM8K-v0 {"split": "test"}'
    assert table["columns"] == ["greedy, 2 problems", "sampled, 7 answers to 2 problems"]
    nothing = ("\u2013", "")
    assert table["rows"] == [
        ["accuracy", ("50.0\u2009%", "9.6\u2009% to 90.4\u2009%"), nothing],
        ["mean return", ("\u22120.250", ""), ("0.500", "0.250 to 0.750")],
        ["regret", ("1.250", "\u22120.100 to 2.000"), nothing],
        ["format kept", ("100.0\u2009%", ""), ("100.0\u2009%", "")],
        ["pass@1", ("", ""), ("50.0\u2009%", "25.0\u2009% to 75.0\u2009%")],
        ["pass@4", ("", ""), nothing],
    ]
    assert table["notes"] == [
        "Best known return: 1.000 (oracle), over all 9 tasks.",
        "pass@k is not known where no problem has k answers that could be judged.",
        "1 answer could not be judged and is left out.",
    ]
    assert run["figures"][0] == ("accuracy, greedy", "50.0\u2009%", "9.6\u2009% to 90.4\u2009%")
    assert run["notes"] == []
    index, blocks, _ = packed(tmp_path / "eval")
    assert [group["label"] for group in index] == [
        "problem 0, greedy", "problem 0, sampled", "problem 1, greedy", "problem 1, sampled",
    ]  # fmt: skip
    assert [len(block["members"]) for block in blocks] == [1, 4, 1, 4]


def test_an_evaluation_that_is_not_over(tmp_path):
    folder = evaluated(tmp_path)
    (folder / "summary.json").write_text('{"GSM8K-v0": ')
    run = read_evaluation(folder)
    assert (run["tables"], run["figures"]) == ([], [])
    assert run["notes"] == ["This evaluation has no summary yet: it is written when the last answer is in."]
    summaries: tuple[dict[str, Any], ...] = (
        {"A-v0": {}},
        {"A-v0": {"greedy": None, "pass_at": [1], "reference": 3}},
        {"A-v0": 1},
        {},
    )
    for summary in summaries:
        (folder / "summary.json").write_text(json.dumps(summary))
        assert write_report(folder).is_file()
    assert not is_evaluation(write_run(tmp_path / "run", config(), [], []))


def test_what_eval_writes_is_what_the_report_reads(tmp_path):
    """The settings and the summary of the command itself, not of a folder made up here."""
    from dataclasses import asdict

    from trainers.evaluation import EvalConfig
    from trainers.evaluation.summary import Reference, summarize

    settings = EvalConfig(model="m", env=("a:X-v0",), out=tmp_path, samples=2)
    records: list[dict[str, Any]] = [
        {"task": "X-v0", "kind": kind, "problem": 0, "env": "a:X-v0", "env_args": {}, "return": 1.0,
         "verdicts": ["correct"], "stop_reasons": ["stop"], "reward_parts": [{}]}
        for kind in ("greedy", "sampled", "sampled")
    ]  # fmt: skip
    found = summarize(records, {"X-v0": Reference(best=1.0, solver="oracle")})
    (tmp_path / "config.json").write_text(json.dumps(settings.identity()))
    (tmp_path / "summary.json").write_text(json.dumps({name: asdict(summary) for name, summary in found.items()}))
    assert is_evaluation(tmp_path)
    run = read_evaluation(tmp_path)
    assert run["settings"] == [("samples", "2")]
    [table] = run["tables"]
    assert [row[0] for row in table["rows"]] == [
        "accuracy", "mean return", "regret", "format kept", "cut off", "pass@1", "pass@2",
    ]  # fmt: skip
    assert table["rows"][0][1][0] == "100.0\u2009%"


def test_where_it_is_written(tmp_path):
    folder = mixed_run(tmp_path / "run")
    assert write_report(folder) == folder / "report.html"
    assert write_report(folder, tmp_path / "other.html") == tmp_path / "other.html"
    assert (tmp_path / "other.html").read_bytes() == (folder / "report.html").read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"run", "other.html"}
    with pytest.raises(ConfigError, match="holds no run: there is no"):
        write_report(tmp_path)
    with pytest.raises(ConfigError, match="is a folder: name a file"):
        write_report(folder, tmp_path)
    with pytest.raises(ConfigError, match="cannot be written: "):
        write_report(folder, tmp_path / "missing" / "report.html")


def test_no_torch_is_needed(run_python, tmp_path):
    mixed_run(tmp_path)
    code = """
import sys
from pathlib import Path
from trainers.report import write_report
write_report(Path("."))
assert not {"torch", "transformers", "peft", "matplotlib"} & set(sys.modules)
"""
    done = run_python("-c", code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_the_parts_of_the_page_are_packaged():
    """Hatch takes all files of a package that git does not ignore."""
    here = Path(str(resources.files("trainers.report")))
    parts = {path.name for path in here.iterdir() if path.suffix in {".html", ".css", ".js"}}
    assert {"page.html", "page.css", "main.js"} <= parts
    ignored = [line.strip() for line in (here.parents[1] / ".gitignore").read_text().splitlines() if line.strip()]
    assert not [(part, pattern) for part in parts for pattern in ignored if Path(part).match(pattern)]
