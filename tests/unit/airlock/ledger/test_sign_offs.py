"""People's word that a version of a conversion profile may be used."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from airlock.ledger import SignOff

if TYPE_CHECKING:
    from airlock.ledger import Ledger

NOW = datetime(2026, 11, 24, 3, tzinfo=UTC)
PROFILE = "a" * 32
SIGNED = SignOff(PROFILE, 2, "ten documents of each sender", 0.93, "ada", "compared with the documents", NOW)


def test_the_last_word_about_a_version_counts(ledger: Ledger) -> None:
    assert ledger.last_sign_off("documents", PROFILE, 2) is None
    ledger.sign_off("documents", SIGNED)
    assert ledger.last_sign_off("documents", PROFILE, 2) == SIGNED
    later = replace(SIGNED, sample="fifty documents", coverage=0.95)
    ledger.sign_off("documents", later)
    assert ledger.last_sign_off("documents", PROFILE, 2) == later


def test_a_word_is_about_one_version_and_one_pipeline(ledger: Ledger) -> None:
    ledger.sign_off("documents", SIGNED)
    assert ledger.last_sign_off("documents", PROFILE, 3) is None
    assert ledger.last_sign_off("documents", "b" * 32, 2) is None
    assert ledger.last_sign_off("others", PROFILE, 2) is None
