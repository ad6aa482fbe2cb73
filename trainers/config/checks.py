"""Rules that many settings share; each names the setting that breaks it."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

from trainers.config.errors import ConfigError


def at_least_one(options: object, names: Sequence[str]) -> None:
    """Refuse counts below 1."""
    for name in names:
        if getattr(options, name) < 1:
            raise ConfigError(f"{name} must be at least 1, not {getattr(options, name)}")


def positive(options: object, names: Sequence[str]) -> None:
    """Refuse numbers that are not above 0; None passes: it means that there is no such limit."""
    for name in names:
        value = getattr(options, name)
        if value is not None and not (value > 0 and math.isfinite(value)):
            raise ConfigError(f"{name} must be positive, not {value}")


def not_negative(options: object, names: Sequence[str]) -> None:
    """Refuse numbers below 0."""
    for name in names:
        if not (getattr(options, name) >= 0 and math.isfinite(getattr(options, name))):
            raise ConfigError(f"{name} must not be negative, not {getattr(options, name)}")


def one_of(options: object, name: str, allowed: Sequence[str]) -> None:
    """Refuse words that mean nothing."""
    if getattr(options, name) not in allowed:
        raise ConfigError(f"{name} must be one of {', '.join(allowed)}, not {getattr(options, name)!r}")


def json_object(name: str, text: str) -> dict[str, Any]:
    """A setting that is written as a JSON object."""
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(f"{name} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ConfigError(f"{name} must be a JSON object, not {text}")
    return value


def one_line(error: Exception) -> str:
    """What an exception says, in one line."""
    return " ".join(str(error).split())
