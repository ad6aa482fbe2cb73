"""Gymnasium environments whose observations and actions are text.

Importing the package registers every environment, so ``gymnasium.make("llm_envs:GSM8K-v0")`` works on its own.
"""

from importlib.metadata import PackageNotFoundError, version

from llm_envs.grading import Verdict
from llm_envs.registration import register_all
from llm_envs.spaces import AnyText
from llm_envs.text_env import TextEnv

__all__ = ["AnyText", "TextEnv", "Verdict", "__version__"]

try:
    __version__ = version("llm-envs")
except PackageNotFoundError:  # a source tree on the path, not an installed package
    __version__ = "0.0.0+unknown"

register_all()
