"""A file that is replaced while two runs take its study holds it no longer than the new content does."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.chain import pipeline
from tests.dicom_files import ct, study_uid
from tests.integration.between_runs.runs import by_hand, given, released, slices

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.chain import Chain, Place

pytestmark = pytest.mark.slow

OTHER_STUDY = ct(2, 1, 1)
REFUSED = ct(1, 1, 1, PatientID="P" * 300)  # its UIDs are read, then it is quarantined
UNREADABLE = ct(1, 1, 1)[:200]


def settle_newer_first(older: Chain, newer: Chain) -> None:
    newer.run()
    older.onward("parse")


def settle_newer_last(older: Chain, newer: Chain) -> None:
    newer.until("buffer")
    older.onward("parse")
    newer.onward("parse")


def settle_newer_after_its_import(older: Chain, newer: Chain) -> None:
    newer.until("import")
    older.onward("parse")
    newer.onward("audit")


ORDERS = pytest.mark.parametrize(
    "settle", [settle_newer_first, settle_newer_last, settle_newer_after_its_import], ids=lambda order: order.__name__
)


def replace_meanwhile(place: Place, content: bytes, settle: Callable[[Chain, Chain], None]) -> None:
    """Replace one of two files that a run has claimed, let a newer run claim the new content, and settle both."""
    older, newer = by_hand(place, "older"), by_hand(place, "newer")
    place.put({"s/1.dcm": ct(1, 1, 1, pixel=1), "s/2.dcm": ct(1, 1, 2)})
    older.until("buffer")
    place.put({"s/1.dcm": content})
    settle(older, newer)
    given(older.rows["s/1.dcm"]["reason"] == "object_changed")
    given(set(newer.rows) == {"s/1.dcm"})


def find_words(place: Place, study: int) -> dict[str, tuple[str, str | None]]:
    """Return disposition and reason of the newest arrival under each key of a study."""
    with place.ledger() as ledger:
        found = ledger.where(study_uid(study)).arrivals.sort("last_modified", "claimed_at")
    rows = found.select("key", "disposition", "reason").iter_rows()
    return {key.removeprefix("in/s/"): (disposition, reason) for key, disposition, reason in rows}


@ORDERS
def test_a_new_content_of_the_same_study_releases_it(place: Place, settle: Callable[[Chain, Chain], None]) -> None:
    replace_meanwhile(place, ct(1, 1, 1, pixel=2), settle)
    assert find_words(place, 1) == dict.fromkeys(("1.dcm", "2.dcm"), ("released", None))
    assert released(place) == slices(1, 2)


@ORDERS
def test_a_new_content_of_another_study_leaves_the_rest_of_the_first_free(
    place: Place, settle: Callable[[Chain, Chain], None]
) -> None:
    replace_meanwhile(place, OTHER_STUDY, settle)
    assert find_words(place, 1)["2.dcm"] == ("released", None)
    assert find_words(place, 2) == {"1.dcm": ("released", None)}
    assert {contract["StudyInstanceUID"] for contract in place.contracts()} == {study_uid(1), study_uid(2)}


@ORDERS
@pytest.mark.parametrize("content", [REFUSED, UNREADABLE], ids=["refused", "unreadable"])
def test_a_new_content_that_is_quarantined_holds_the_study_until_it_is_repaired(
    place: Place, settle: Callable[[Chain, Chain], None], content: bytes
) -> None:
    replace_meanwhile(place, content, settle)
    assert find_words(place, 1)["2.dcm"][0] == "held"
    assert not place.contracts()
    place.put({"s/1.dcm": ct(1, 1, 1, pixel=3)})
    by_hand(place, "repaired").run()
    assert find_words(place, 1) == dict.fromkeys(("1.dcm", "2.dcm"), ("released", None))
    assert released(place) == slices(1, 2)


@ORDERS
def test_a_later_file_of_the_other_study_is_not_held_for_the_old_content(
    place: Place, settle: Callable[[Chain, Chain], None]
) -> None:
    replace_meanwhile(place, OTHER_STUDY, settle)
    place.put({"s/3.dcm": ct(2, 1, 2)})
    by_hand(place, "later").run()
    assert find_words(place, 2) == dict.fromkeys(("1.dcm", "3.dcm"), ("released", None))


def test_an_unreadable_file_that_is_replaced_before_it_is_settled_holds_nothing(place: Place) -> None:
    older, newer = by_hand(place, "older"), by_hand(place, "newer")
    place.put({"s/1.dcm": UNREADABLE, "s/2.dcm": ct(1, 1, 2)})
    older.until("validate")
    place.put({"s/1.dcm": ct(1, 1, 1)})
    newer.run()
    older.onward("normalize")
    given(older.rows["s/1.dcm"]["disposition"] == "quarantined")
    assert find_words(place, 1) == dict.fromkeys(("1.dcm", "2.dcm"), ("released", None))
    assert released(place) == slices(1, 2)


def test_a_file_that_holds_two_studies_holds_both_until_its_new_content_is_settled(place: Place) -> None:
    line = pipeline(audit={"manifest_wait_seconds": 3, "unread_siblings_studies": 2})
    older, newer = by_hand(place, "older", line=line), by_hand(place, "newer", line=line)
    place.put({"s/1.dcm": ct(1, 1, 1), "s/2.dcm": ct(1, 1, 2), "s/3.dcm": ct(2, 1, 2)})
    older.until("buffer")
    place.put({"s/1.dcm": ct(3, 1, 1)})
    older.onward("parse")
    given(older.rows["s/1.dcm"]["reason"] == "object_changed")
    place.put({"t/1.dcm": ct(4, 1, 1)})
    by_hand(place, "beside", "t", line=line).run()
    assert [contract["StudyInstanceUID"] for contract in place.contracts()] == [study_uid(4)]
    newer.run()
    assert len(place.contracts()) == 4
    assert find_words(place, 1)["2.dcm"] == find_words(place, 2)["3.dcm"] == ("released", None)
