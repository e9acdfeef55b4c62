"""Groups of held and rejected arrivals, opened to studies and files, a page at a time; and open questions."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest
from sqlalchemy import insert

from airlock.ledger import triage
from airlock.ledger.console import Console
from airlock.ledger.decision_tables import reviews
from airlock.ledger.triage import Group
from airlock.records import study_key
from tests.unit.airlock.ledger.redriven import redrive, to_come
from tests.unit.airlock.ledger.samples import NIGHTLY, STORE, arrivals, begin, dispositions, id_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airlock.ledger import Ledger

CUT = Group(NIGHTLY, "quarantined", "truncated")
AT = datetime(2026, 11, 24, tzinfo=UTC)
NAMES = ("one", "two", "three", "four", "five")


@pytest.fixture
def console(url: str) -> Iterator[Console]:
    opened = Console.connect(url)
    yield opened
    opened.dispose()


def reject(ledger: Ledger, uid: str | None, *names: str, reason: str = "truncated") -> None:
    ledger.claim(NIGHTLY, "a", arrivals(*names))
    rows = dispositions(*names, word="quarantined", study_uid=uid).with_columns(reason=pl.lit(reason))
    ledger.settle(NIGHTLY, "a", rows)


@pytest.fixture
def told(ledger: Ledger) -> Ledger:
    begin(ledger, "a")
    reject(ledger, "1.study", "one", "two")
    reject(ledger, "2.study", "three")
    reject(ledger, None, "four")
    reject(ledger, "3.study", "five", reason="not_dicom")
    return ledger


def test_a_group_has_its_studies_with_their_files(told: Ledger, console: Console) -> None:
    with console.page() as ledger:
        found = {one.study_key: one.files for one in ledger.studies_of(CUT)}
    assert found == {None: 1, study_key("1.study"): 2, study_key("2.study"): 1}


def test_a_group_of_a_site_has_the_files_of_that_site(told: Ledger, console: Console) -> None:
    with console.page() as ledger:
        assert sum(one.files for one in ledger.studies_of(Group(*_values(CUT), site=""))) == 4
        assert ledger.studies_of(Group(*_values(CUT), site="elsewhere")) == []


def _values(group: Group) -> tuple[str, str, str]:
    return group.pipeline, group.disposition, group.reason


def test_what_a_redrive_has_taken_is_no_longer_in_its_group(told: Ledger, console: Console) -> None:
    redrive(told, "again", to_come(*NAMES, etag="mended"))
    with console.page() as ledger:
        assert ledger.studies_of(CUT) == []
        assert ledger.files_of(CUT) == []
        assert ledger.list_of(CUT) == []


def test_a_list_has_every_file_of_a_group_and_one_more_than_it_may(
    told: Ledger, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    with console.page() as ledger:
        assert {one.arrival_id for one in ledger.list_of(CUT)} == {id_of(name) for name in NAMES[:4]}
        assert ledger.list_of(Group(*_values(CUT), site="elsewhere")) == []
        monkeypatch.setattr(triage, "MOST_LISTED", 2)
        assert len(ledger.list_of(CUT)) == 3


def test_pages_follow_each_other_without_a_gap(told: Ledger, console: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triage, "PAGE", 1)
    seen: list[str | None] = []
    after: str | None = None
    with console.page() as ledger:
        while True:
            page = ledger.studies_of(CUT, after)
            seen.append(page[0].study_key)
            if len(page) == 1:
                break
            after = page[0].study_key or ""
    assert sorted(seen, key=str) == sorted([None, study_key("1.study"), study_key("2.study")], key=str)


def test_files_of_no_study_are_named(told: Ledger, console: Console) -> None:
    with console.page() as ledger:
        (file,) = ledger.files_of(CUT)
    assert (file.arrival_id, file.key, file.run_id) == (id_of("four"), "in/four", "scheduled__a")


class TestOpenReviews:
    def ask(self, ledger: Ledger, subject: str, **more: Any) -> None:
        facts = {"pipeline": NIGHTLY, "datastore_id": STORE, "subject": subject, "subject_key": study_key(subject)}
        facts |= {"site": "", "run_key": "a", "reason": "truncated", "seen": "x", "question": "{}", "asked_at": AT}
        with ledger._writing("reviews") as connection:
            connection.execute(insert(reviews).values(facts | more))

    def test_only_unanswered_questions_of_these_pipelines(self, told: Ledger, console: Console) -> None:
        self.ask(told, "1.study")
        self.ask(told, "2.study", answered_at=AT)
        self.ask(told, "3.study", pipeline="other")
        with console.page() as ledger:
            (found,) = ledger.open_reviews({NIGHTLY})
        assert (found.subject_key, found.question, found.asked_at) == (study_key("1.study"), {}, AT)
