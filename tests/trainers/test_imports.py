"""Trainers know no environment by name, and reading a module costs nothing that it does not need."""

import pkgutil

import trainers


def module_names() -> list[str]:
    return [module.name for module in pkgutil.walk_packages(trainers.__path__, "trainers.")]


def test_no_trainer_imports_the_environments(run_python, tmp_path):
    names = module_names()
    assert {
        "trainers.train",
        "trainers.sampling.torch_sampler",
        "trainers.recipes.tic_tac_toe",
        "trainers.player",
        "trainers.learn",
        "trainers.schedule",
        "trainers.config.loss",
    } <= set(names)
    code = f"""
import importlib, sys
for name in {names!r}:
    importlib.import_module(name)
    loaded = [m for m in sys.modules if m.partition(".")[0] in ("llm_envs", "benchmarks", "tests")]
    assert not loaded, (name, loaded)
import gymnasium
gymnasium.make("llm_envs:GuessNumber-v0")
assert "llm_envs" in sys.modules
print("done")
"""
    done = run_python("-c", code, cwd=tmp_path)
    assert (done.stdout, done.returncode) == ("done\n", 0), done.stderr


def test_settings_and_commands_load_no_torch(run_python, tmp_path):
    code = """
import sys
import trainers.config, trainers.trajectories, trainers.logs.charts, trainers.recipes.cli
import trainers.cli.train, trainers.cli.running
import trainers.recipes.rl_basic, trainers.recipes.guess_number, trainers.recipes.tic_tac_toe
assert not {"torch", "transformers", "peft", "matplotlib", "pettingzoo"} & set(sys.modules)
print("done")
"""
    done = run_python("-c", code, cwd=tmp_path)
    assert (done.stdout, done.returncode) == ("done\n", 0), done.stderr
