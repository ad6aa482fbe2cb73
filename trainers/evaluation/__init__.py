"""How good is a model at a text environment? What `llm-envs eval` does: an evaluation that can be gone on with.

`config` (all settings), `players` (who answers), `playing` (problems to records), `folder` (where these are kept),
`summary` (records to estimates), `estimates` (rates and their intervals), `greedy` (the short one, within training).
"""

from trainers.evaluation.config import EvalConfig

__all__ = ["EvalConfig"]
