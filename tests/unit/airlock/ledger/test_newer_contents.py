"""Newer contents under the keys of arrivals: what an arrival that is settled after their claim still holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl
import pytest

from airlock.ledger.gates import GATES
from airlock.reasons import Reason
from airlock.records import study_key
from tests.unit.airlock.ledger.samples import NIGHTLY, STORE, begin, content, dispositions, uids

if TYPE_CHECKING:
    from airlock.ledger import Ledger

STUDY, OTHER = "1.study", "2.study"
OLD, NEW, NEWEST = (content("1", number) for number in (1, 2, 3))
BESIDE = content("2", 1)


@pytest.fixture
def opened(ledger: Ledger) -> Ledger:
    """A ledger in which run `a` has claimed two files of a study, and run `b` a newer content of the first."""
    begin(ledger, "a", "b", "c")
    ledger.claim(NIGHTLY, "a", pl.concat([OLD, BESIDE]))
    ledger.claim(NIGHTLY, "b", NEW)
    return ledger


def settle(ledger: Ledger, run: str, rows: pl.DataFrame, word: tuple[str, str | None], study: str | None) -> None:
    """Settle an arrival, of which an instance is known only if it was not quarantined."""
    uid = pl.lit(None if word[0] == "quarantined" else f"{study}.{run}", pl.String)
    words = dispositions("x", word=word[0], study_uid=study).with_columns(
        rows.select("arrival_id", "key"), reason=pl.lit(word[1], pl.String), sop_instance_uid=uid
    )
    ledger.settle(NIGHTLY, run, words)


def settle_old(ledger: Ledger) -> None:
    """Let run `a` settle its files: the first could not be read, and the second is held for it."""
    settle(ledger, "a", BESIDE, ("held", Reason.WAITING_FOR_FILE), STUDY)
    settle(ledger, "a", OLD, ("quarantined", Reason.OBJECT_CHANGED), STUDY)
    rows = [(STUDY, study_key(STUDY), "hold", str(Reason.WAITING_FOR_FILE))]
    ledger.record_gates(STORE, "a", pl.DataFrame(rows, schema=GATES, orient="row"))


def find_replaced(ledger: Ledger) -> bool:
    found = ledger.find_replaced(NIGHTLY, pl.concat([OLD, NEW, BESIDE])["arrival_id"]).to_list()
    assert found in ([], OLD["arrival_id"].to_list())
    return bool(found)


def holds(ledger: Ledger) -> bool:
    """Return whether a file is missing in the study."""
    return ledger.unresolved_files(STORE, NIGHTLY, uids(STUDY), "") != []


def find_waiting(ledger: Ledger) -> list[str]:
    return ledger.waiting_studies(STORE, NIGHTLY, "c")["subject"].to_list()


def test_a_newer_content_replaces_an_older_one_once_it_is_settled(opened: Ledger) -> None:
    assert not find_replaced(opened)
    settle(opened, "b", NEW, ("released", None), OTHER)
    assert find_replaced(opened)


@pytest.mark.parametrize(("study", "replaces"), [(None, False), ("", False), (OTHER, True)])
def test_a_newer_content_without_a_known_study_replaces_nothing(
    opened: Ledger, study: str | None, replaces: bool
) -> None:
    settle(opened, "b", NEW, ("quarantined", Reason.TRUNCATED), study)
    assert find_replaced(opened) is replaces
    settle_old(opened)
    assert holds(opened) is not replaces


@pytest.mark.parametrize("study", [None, ""])
def test_a_newer_content_in_flight_that_turns_out_to_say_nothing_replaces_nothing(
    opened: Ledger, study: str | None
) -> None:
    settle_old(opened)
    settle(opened, "b", NEW, ("quarantined", Reason.TRUNCATED), study)  # its run looked at the key before that
    assert not find_replaced(opened)
    assert holds(opened)
    assert find_waiting(opened) == []
    opened.claim(NIGHTLY, "c", NEWEST)
    settle(opened, "c", NEWEST, ("released", None), OTHER)
    assert not holds(opened)


def test_a_file_that_is_settled_after_its_replacement_holds_nothing(opened: Ledger) -> None:
    settle(opened, "b", NEW, ("released", None), OTHER)
    settle_old(opened)
    assert not holds(opened)
    assert find_waiting(opened) == [STUDY]


def test_a_file_holds_its_study_until_its_replacement_is_settled(opened: Ledger) -> None:
    settle_old(opened)
    assert holds(opened)
    assert find_waiting(opened) == []
    settle(opened, "b", NEW, ("released", None), OTHER)
    assert not holds(opened)
    assert find_waiting(opened) == [STUDY]


def test_a_file_without_a_newer_content_holds_its_study(ledger: Ledger) -> None:
    begin(ledger, "a", "c")
    ledger.claim(NIGHTLY, "a", pl.concat([OLD, BESIDE]))
    settle_old(ledger)
    assert holds(ledger)
    assert find_waiting(ledger) == []


@pytest.mark.parametrize("settled_first", [True, False])
def test_a_replacement_that_is_given_back_replaces_nothing_until_one_is_settled(
    opened: Ledger, settled_first: bool
) -> None:
    if settled_first:
        settle_old(opened)
    opened.release_claims(NIGHTLY, "b")
    if not settled_first:
        settle_old(opened)
    assert holds(opened)
    opened.claim(NIGHTLY, "c", NEWEST)
    settle(opened, "c", NEWEST, ("released", None), OTHER)
    assert not holds(opened)


def test_a_study_waits_while_another_unread_file_of_its_run_may_hold_it_too(opened: Ledger) -> None:
    third = content("3", 1)
    opened.claim(NIGHTLY, "a", third)
    settle(opened, "a", third, ("quarantined", Reason.OBJECT_GONE), OTHER)  # it names one of the studies that it holds
    settle(opened, "b", NEW, ("released", None), OTHER)
    settle_old(opened)
    assert find_waiting(opened) == []
    again = content("3", 2)
    opened.claim(NIGHTLY, "c", again)
    settle(opened, "c", again, ("released", None), OTHER)
    assert find_waiting(opened) == [STUDY]


@pytest.mark.parametrize("reason", [Reason.OBJECT_GONE, Reason.TRUNCATED])
def test_a_study_waits_while_the_newer_content_of_the_file_names_another_study_and_is_unread_too(
    opened: Ledger, reason: Reason
) -> None:
    settle_old(opened)
    settle(opened, "b", NEW, ("quarantined", reason), OTHER)  # of the studies that the older one holds, it names this
    assert find_waiting(opened) == []
    opened.claim(NIGHTLY, "c", NEWEST)
    settle(opened, "c", NEWEST, ("released", None), OTHER)
    assert find_waiting(opened) == [STUDY]
