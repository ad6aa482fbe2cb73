"""A trained policy for those who read no adapters."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from trainers.policy import Policy


def save_merged(policy: Policy, model: str, folder: Path) -> None:
    """Write the base model with the adapter in its weights, and its tokenizer: an ordinary transformers folder.

    The sums are rounded to the weights' type, so in bfloat16 it says nearly, not exactly, what the policy says.

    Args:
        policy: stays as it is; for a moment there are two of it in memory.
        model: the hub id or folder that it was loaded from.
        folder: where to.
    """
    from transformers import AutoTokenizer, GenerationConfig

    merged: Any = copy.deepcopy(policy.model).merge_and_unload()
    merged.save_pretrained(str(folder))
    AutoTokenizer.from_pretrained(model).save_pretrained(str(folder))
    try:
        GenerationConfig.from_pretrained(model).save_pretrained(str(folder))
    except OSError:  # it has none
        return
