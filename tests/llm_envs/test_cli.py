import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest

from llm_envs import TextEnv, __version__
from llm_envs.cli import check_data, main
from llm_envs.registration import REGISTRY

ROWS: list[dict[str, Any]] = [
    {"problem": "What is $2 + 2$?", "answer": "4"},
    {"problem": "Nothing?", "answer": None},
    {"problem": "What  is\n$2 + 2$?", "answer": "4"},
    {"problem": " ", "answer": "4"},
    {"problem": "Which matrix?", "answer": "\\begin{pmatrix} 1 \\\\\n" + "2 & " * 40},
    {"problem": "When?", "answer": "At noon"},
]
REASONS = {None: "no gold", ROWS[4]["answer"]: "damaged LaTeX"}


@pytest.fixture(autouse=True)
def grader(monkeypatch):
    """What the command makes of the grader's words, not the grader, is tested here."""
    monkeypatch.setattr("llm_envs.maths.dataset_env.check_gold", REASONS.get)
    monkeypatch.setattr("llm_envs.grading.is_text_only", "At noon".__eq__)


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS) + '{"problem": \n')
    return path


def test_the_rows_that_cannot_be_graded_are_named(path, capsys):
    assert main(["check-data", "Polaris-v0", "--data", str(path)]) == 1
    said = capsys.readouterr()
    gold = "\\begin{pmatrix} 1 \\\\ " + "2 & " * 40
    lines = said.out.splitlines()
    assert lines[:6] == [
        "Polaris-v0: 7 rows, 3 can be graded, 4 cannot",
        "questions that occur before: 1",
        "answers for which only the same text is correct: 1",
        "  row 1, unscorable, no gold",
        "  row 3, unscorable, the question is empty: 4",
        f"  row 4, unscorable, damaged LaTeX: {gold[:79]}…",
    ]
    assert lines[6].startswith(f"  row 6, unscorable, {path}, line 7: not JSON")
    assert lines[7:] == ["  row 5, only the same text: At noon"]
    assert said.err == ""


def test_json(path, capsys):
    assert main(["check-data", "Polaris-v0", "--data", str(path), "--split", "train", "--limit", "3", "--json"]) == 1
    assert json.loads(capsys.readouterr().out) == {
        "env": "Polaris-v0",
        "rows": 3,
        "gradable": 2,
        "duplicates": 1,
        "text_only": [],
        "ungradable": [{"index": 1, "verdict": "unscorable", "reason": "no gold", "gold": None}],
    }


def test_answers_for_which_only_the_same_text_is_correct_do_no_harm(tmp_path, capsys):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(ROWS[5]))
    assert main(["check-data", "Polaris-v0", "--data", str(path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["text_only"], found["ungradable"]) == ([{"index": 0, "gold": "At noon"}], [])


def test_arguments_of_the_environment(path, tmp_path, capsys):
    good = path.read_text().rpartition('{"problem": ')[0]
    (tmp_path / "good.jsonl").write_text(good)
    for arguments in ({"skip_ungradable": True}, {"skip_ungradable": True, "data": "nowhere.jsonl"}):
        data = ["--data", str(tmp_path / "good.jsonl"), "--env-args", json.dumps(arguments)]
        assert main(["check-data", "llm_envs:Polaris-v0", *data]) == 0  # --data goes before
        assert capsys.readouterr().out.startswith("Polaris-v0: 3 rows, 3 can be graded, 0 cannot\n")


def test_it_can_be_called(path):
    report = check_data("llm_envs:Polaris-v0", data=path, limit=2)
    assert (report.env, report.rows, report.gradable) == ("Polaris-v0", 2, 1)


def test_all_well(tmp_path, capsys):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"question": "1 + 1?", "answer": "#### 2"}\n')
    assert main(["check-data", "GSM8K-v0", "--data", str(path)]) == 0
    assert capsys.readouterr().out == "GSM8K-v0: 1 rows, 1 can be graded, 0 cannot\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["Unknown-v0"], "no environment 'Unknown-v0' with rows; there are GSM8K-v0, MATH-v0, Polaris-v0, DeepMath-v0"),
        (["GuessNumber-v0"], "no environment 'GuessNumber-v0' with rows"),
        (["MATH-v0", "--split", "dev"], "unknown split 'dev' of math"),
        (["MATH-v0", "--data", "missing.jsonl"], "missing.jsonl"),
        (["MATH-v0", "--env-args", '{"limit": 5}'], "MATH-v0: "),
        (["MATH-v0", "--env-args", '{"levels": 5}'], "levels must be some of"),
        (["GSM8K-v0"], "no rows for gsm8k, split train: data= not given"),
    ],
)
def test_errors_are_one_line(arguments, message, capsys, monkeypatch, tmp_path):
    monkeypatch.delenv("LLM_ENVS_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert main(["check-data", *arguments]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("llm-envs: ")
    assert message in said.err
    assert said.err.count("\n") == 1


def test_usage_errors(capsys):
    for arguments in (
        [],
        ["check-data"],
        ["check-data", "MATH-v0", "--limit", "0"],
        ["check-data", "MATH-v0", "--env-args", "[5]"],
        ["check-data", "MATH-v0", "--env-args", "{levels: 5}"],
        ["grade"],
    ):
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        assert caught.value.code == 2
    capsys.readouterr()


def test_the_version(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"llm-envs {__version__}\n"


def test_an_interruption_is_quiet(path, monkeypatch, capsys):
    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("llm_envs.cli.data.why_ungradable", interrupt)
    assert main(["check-data", "Polaris-v0", "--data", str(path)]) == 130
    assert capsys.readouterr() == ("", "")


def test_the_list(capsys):
    assert main(["list"]) == 0
    assert capsys.readouterr().out == (
        "id                  turns  data             threshold  random  best known\n"
        "GSM8K-v0            1      gsm8k            0.9        -       -\n"
        "MATH-v0             1      math             0.9        -       -\n"
        "Polaris-v0          1      polaris          0.8        -       -\n"
        "DeepMath-v0         1      deepmath         0.8        -       -\n"
        "DeepCoder-v0        1      deepcoder        0.6        -       -\n"
        "LiveCodeBench-v0    2      live_code_bench  0.6        -       -\n"
        "HumanEval-v0        1      human_eval       0.9        -       -\n"
        "MBPP-v0             2      mbpp             0.8        -       -\n"
        "Arithmetic-v0       1      none             0.99       -       1 (oracle)\n"
        "GuessNumber-v0      10     none             5          0.5338  5.2 (optimal)\n"
        "TwentyQuestions-v0  20     none             6.5        0.1896  6.592 (lookahead)\n"
        "TicTacToe-v0        5      none             0.9        0       0.9598 (best_response)\n"
    )


@pytest.mark.parametrize("env_id", [env_id for env_id, entry in REGISTRY.items() if entry.data is None])
def test_the_returns_of_the_list_are_those_of_the_environments(env_id):
    entry, env = REGISTRY[env_id], gym.make(env_id).unwrapped
    assert isinstance(env, TextEnv)
    returns = {name: env.solver_return(name) for name in env.solvers}
    known = {name: value for name, value in returns.items() if value is not None}
    assert entry.random_return == (pytest.approx(returns["random"], abs=5e-5) if "random" in known else None)
    assert entry.best_return == pytest.approx(max(known.values()), abs=5e-4)
    assert known[str(entry.best_solver)] == max(known.values())


def test_the_list_takes_no_second():
    code = "import sys; from llm_envs.cli import main; sys.exit(main(['list']))"
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1


def test_progress_is_for_terminals(path, monkeypatch, capsys):
    monkeypatch.setattr("llm_envs.cli.shared._REPORT_EVERY", 4)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    main(["check-data", "Polaris-v0", "--data", str(path)])
    assert capsys.readouterr().err == "\r4 of 7 rows\r7 of 7 rows\n"


def test_a_reader_who_leaves_early_is_no_error():
    code = "import sys; from llm_envs.cli import main; sys.exit(main(['list']))"
    read, write = os.pipe()
    os.close(read)
    run = subprocess.run([sys.executable, "-c", code], stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert (run.returncode, run.stderr) == (0, "")


# --- The real rows, with the real grader ---

# Letters are missing in these answers, as in \frac{}{2} and \sqrt{^2+b^2}.
DAMAGED = [20, 149, 195, 218, 238, 249, 267, 285, 352, 360, 457, 524]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("env_id", "split", "file", "rows", "broken"),
    [
        ("GSM8K-v0", "train", "gsm8k/train.jsonl", 7_473, []),
        ("GSM8K-v0", "test", "gsm8k/test.jsonl", 1_319, []),
        ("MATH-v0", "test", "math/math500.jsonl", 500, []),
        ("MATH-v0", "train", "math/test.jsonl", 5_000, []),
        ("Polaris-v0", "train", "polaris/polaris-data-sample.jsonl", 560, DAMAGED),
        ("DeepMath-v0", "train", "deepmath/deepmath-sample.jsonl", 51, []),
    ],
)
def test_real_rows(env_id, split, file, rows, broken, monkeypatch):
    monkeypatch.undo()
    path = Path(os.environ.get("LLM_ENVS_TEST_DATA", "/nonexistent"), file)
    if not path.exists():
        pytest.skip(f"LLM_ENVS_TEST_DATA has no {file}")
    report = check_data(env_id, split=split, data=path)
    assert report.rows == rows
    assert [row.index for row in report.ungradable] == broken, report.ungradable
