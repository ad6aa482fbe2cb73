import subprocess
import sys

import gymnasium as gym
import pytest

import llm_envs
from llm_envs.registration import REGISTRY, register_all

ISOLATED = """
import json, sys
import gymnasium as gym
import llm_envs
after_import = sorted(sys.modules)
row = {
    "question": "1 + 1?", "problem": "1 + 1?", "answer": "#### 2", "final_answer": "2", "tests": "[]",
    "question_content": "1 + 1?", "starter_code": "", "public_test_cases": "[]", "private_test_cases": "[]",
    "metadata": "{}", "contest_date": "2024-01-01", "prompt": "", "test": "", "entry_point": "f",
    "canonical_solution": "", "text": "", "code": "", "test_list": [], "test_setup_code": "", "challenge_test_list": [],
}
for env_id, entry in llm_envs.registration.REGISTRY.items():
    env = gym.make(env_id, **({"data": [row]} if entry.data else {}))
    env.reset(seed=0)
    env.step("\\\\boxed{2}")
print(json.dumps([after_import, sorted(sys.modules)]))
"""


def test_the_public_names():
    assert llm_envs.__all__ == ["AnyText", "TextEnv", "Verdict", "__version__"]
    assert all(hasattr(llm_envs, name) for name in llm_envs.__all__)
    assert llm_envs.__version__[0].isdigit()


def test_the_table():
    assert {env_id: entry.reward_threshold for env_id, entry in REGISTRY.items()} == {
        "GSM8K-v0": 0.9,
        "MATH-v0": 0.9,
        "Polaris-v0": 0.8,
        "DeepMath-v0": 0.8,
        "DeepCoder-v0": 0.6,
        "LiveCodeBench-v0": 0.6,
        "HumanEval-v0": 0.9,
        "MBPP-v0": 0.8,
        "Arithmetic-v0": 0.99,
        "GuessNumber-v0": 5.0,
        "TwentyQuestions-v0": 6.5,
        "TicTacToe-v0": 0.9,
    }
    assert {env_id: entry.data for env_id, entry in REGISTRY.items() if entry.data} == {
        "GSM8K-v0": "gsm8k",
        "MATH-v0": "math",
        "Polaris-v0": "polaris",
        "DeepMath-v0": "deepmath",
        "DeepCoder-v0": "deepcoder",
        "LiveCodeBench-v0": "live_code_bench",
        "HumanEval-v0": "human_eval",
        "MBPP-v0": "mbpp",
    }
    for env_id, entry in REGISTRY.items():
        spec = gym.spec(env_id)
        assert spec.entry_point == entry.entry_point
        module, class_name = entry.entry_point.split(":")
        stem = env_id.removesuffix("-v0")
        assert class_name == f"{stem}Env"
        expected = "competition_math" if stem == "MATH" else stem.lower()  # `math` is a module of Python's
        assert module.rsplit(".", 1)[1].replace("_", "") == expected.replace("_", "")


def test_registering_twice_is_silent():
    register_all()


def test_an_id_with_the_module_needs_no_import():
    code = "import gymnasium as gym; print(gym.make('llm_envs:GuessNumber-v0').reset(seed=0)[0])"
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert said == "Guess my number from 1 to 100. You have 10 guesses.\n"


@pytest.mark.parametrize("stage", ["after the import", "after every environment was played"])
def test_what_is_never_imported(stage, modules):
    loaded = modules[stage != "after the import"]
    assert "numpy" in loaded
    assert loaded.isdisjoint(
        {"torch", "transformers", "peft", "vllm", "trainers", "pyarrow", "huggingface_hub", "pandas"}
    )
    if stage == "after the import":
        late = ("llm_envs.maths", "llm_envs.games", "llm_envs.coding", "llm_envs.testing", "sandboxes")
        assert not any(name.startswith(late) for name in loaded)


@pytest.fixture(scope="module")
def modules():
    import json

    run = subprocess.run([sys.executable, "-c", ISOLATED], check=True, capture_output=True, text=True)
    return [set(names) for names in json.loads(run.stdout)]
