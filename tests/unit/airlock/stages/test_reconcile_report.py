"""A sample says how much of the whole may differ."""

from __future__ import annotations

from math import comb

import pytest

from airlock.ledger.columns import FindingKind
from airlock.stages.reconcile_report import SENTENCES, upper_bound


@pytest.mark.parametrize(("differing", "sample"), [(0, 10), (0, 3000), (1, 50), (7, 200), (199, 200)])
def test_the_bound_leaves_a_chance_of_a_twentieth(differing: int, sample: int) -> None:
    share = upper_bound(differing, sample)
    chance = sum(comb(sample, n) * share**n * (1 - share) ** (sample - n) for n in range(differing + 1))
    assert chance == pytest.approx(0.05, rel=1e-6)


def test_no_difference_in_a_thousand_means_less_than_a_third_of_a_percent() -> None:
    assert 0.0029 < upper_bound(0, 1000) < 0.003


def test_a_sample_that_differs_as_a_whole_bounds_nothing() -> None:
    assert upper_bound(5, 5) == upper_bound(0, 0) == 1


def test_every_kind_that_a_reconciliation_finds_has_a_sentence() -> None:
    assert set(SENTENCES) == set(FindingKind) - {FindingKind.OVERDUE}
