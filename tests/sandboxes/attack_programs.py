"""All programs of the attack suite."""

from __future__ import annotations

from tests.sandboxes import attacks_on_limits, attacks_on_secrets, attacks_on_the_harness
from tests.sandboxes.attacks import Attack

__all__ = ["ATTACKS"]

ATTACKS: list[Attack] = [*attacks_on_limits.ATTACKS, *attacks_on_secrets.ATTACKS, *attacks_on_the_harness.ATTACKS]
