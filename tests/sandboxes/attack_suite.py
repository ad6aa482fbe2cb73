"""The attack suite as tests. A backend's test is a subclass with a fixture ``sandbox``."""

from __future__ import annotations

from typing import ClassVar

import pytest

from tests.sandboxes.attack_programs import ATTACKS
from tests.sandboxes.attacks import run_attack
from tests.sandboxes.outside import World


class AttackSuite:
    """Each attack, one by one, in this process.

    Attributes:
        holds_danger: The programs run on another machine or in a container, so what is dangerous may be tried, too.
        gaps: By the name of an attack, why this backend cannot hold it; it must then fail.
    """

    holds_danger: ClassVar[bool] = False
    gaps: ClassVar[dict[str, str]] = {}

    @pytest.fixture
    def world(self):
        with World() as world:
            yield world

    @pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
    def test_attack(self, request, sandbox, world, attack):
        if attack.dangerous and not self.holds_danger:
            pytest.skip("dangerous: only in a container of its own")
        if attack.name in self.gaps:
            request.applymarker(pytest.mark.xfail(reason=self.gaps[attack.name], strict=True))
        assert run_attack(sandbox, attack, world, contained=False) == []
