"""An account in which nothing is wrong raises no alarm."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.unit.airlock.stages.doctor.account import not_passed

if TYPE_CHECKING:
    from tests.unit.airlock.stages.doctor.account import Account


def test_every_check_passes(account: Account) -> None:
    found = account.examine()
    assert not_passed(found) == {}, {name: one for name, one in found.items() if name in not_passed(found)}
    assert len(found) > 70
