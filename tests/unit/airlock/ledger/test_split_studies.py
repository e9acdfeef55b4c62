"""A study waits for the waves that may have files of it: until they have validated, or are given up."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl
import pytest
from sqlalchemy import select

from airlock.ledger.arrivals import LISTED
from airlock.ledger.gates import GATES
from airlock.ledger.release import release_run
from airlock.ledger.runs import name_wave
from airlock.ledger.split_studies import SPLIT
from airlock.ledger.tables import in_flight
from airlock.records import study_key
from tests.unit.airlock.ledger.samples import NIGHTLY, SEEN_AT, STORE, arrivals, begin, dispositions, uids, verdicts

if TYPE_CHECKING:
    from airlock.ledger import Ledger

LEAD = "manual__lead"
# Two waves have objects below "a", another two below "b"; the third has both.
FOLDERS = {"a": (1, 2, 3), "b": (3, 4)}


def sharing(number: int) -> dict[str, dict[str, str]]:
    """Return the other waves that share a folder with a wave; a run's key here is its number."""
    return {
        folder: {name_wave(LEAD, other): str(other) for other in waves if other != number}
        for folder, waves in FOLDERS.items()
        if number in waves
    }


def claim(ledger: Ledger, number: int, *names: str) -> None:
    """Let a wave begin and claim its part."""
    ledger.open_run(str(number), NIGHTLY, name_wave(LEAD, number), None)
    ledger.claim(NIGHTLY, str(number), arrivals(*names), SEEN_AT)


def validate(ledger: Ledger, number: int, *files: tuple[str, str, str]) -> None:
    """Let a wave validate its files, each with its study and its folder."""
    split = pl.DataFrame([file[1:] for file in files], schema=SPLIT, orient="row")
    with ledger.at_once(f"arrivals of {NIGHTLY}") as at_once:
        at_once.await_waves(STORE, NIGHTLY, str(number), sharing(number), [split])
        at_once.record_verdicts(STORE, NIGHTLY, str(number), verdicts(*(file[:2] for file in files)))


def awaited(ledger: Ledger, study: str, by_run: int) -> list[str]:
    """Return the runs that a study of a run waits for."""
    return [run for _, run in ledger.studies_in_flight(STORE, uids(study), str(by_run))]


def state(ledger: Ledger, number: int) -> str | None:
    run = ledger.run(str(number))
    return None if run is None else run.state


@pytest.fixture
def first(ledger: Ledger) -> Ledger:
    """The first wave has validated a study below each folder, before any other wave has begun."""
    claim(ledger, 1, "x")
    validate(ledger, 1, ("x", "1.study", "a"))
    return ledger


def test_a_study_waits_for_the_last_wave_of_its_folder(first: Ledger) -> None:
    assert awaited(first, "1.study", by_run=1) == ["3"]


def test_a_study_of_another_folder_waits_for_none(ledger: Ledger) -> None:
    claim(ledger, 1, "x")
    validate(ledger, 1, ("x", "1.study", "other"))
    assert awaited(ledger, "1.study", by_run=1) == []


def test_a_wave_that_has_validated_is_awaited_for_its_own_studies_only(first: Ledger) -> None:
    claim(first, 2, "y")
    claim(first, 3, "z", "w")
    validate(first, 2, ("y", "2.study", "a"))
    validate(first, 3, ("z", "1.study", "a"), ("w", "3.study", "b"))
    assert awaited(first, "1.study", by_run=1) == ["3"]
    assert awaited(first, "2.study", by_run=2) == []


def test_a_last_wave_that_validates_first_hands_on_what_waits_for_it(first: Ledger) -> None:
    claim(first, 2, "y")
    claim(first, 3, "z")
    validate(first, 3, ("z", "3.study", "a"))
    assert awaited(first, "1.study", by_run=1) == ["2"]
    assert awaited(first, "3.study", by_run=3) == ["2"]
    validate(first, 2, ("y", "2.study", "a"))
    assert awaited(first, "1.study", by_run=1) == []
    assert awaited(first, "3.study", by_run=3) == []


def test_a_study_waits_for_an_earlier_wave_that_has_not_validated(ledger: Ledger) -> None:
    claim(ledger, 3, "z")
    claim(ledger, 4, "w")
    validate(ledger, 4, ("w", "1.study", "b"))
    assert awaited(ledger, "1.study", by_run=4) == ["3"]


def test_a_wave_that_validates_again_changes_nothing(first: Ledger) -> None:
    claim(first, 2, "y")
    for _ in range(2):
        validate(first, 2, ("y", "2.study", "a"))
    validate(first, 1, ("x", "1.study", "a"))
    with first._reading() as connection:
        rows = connection.execute(select(in_flight.c.run_key).order_by(in_flight.c.run_key)).scalars().all()
    assert rows == ["1", "2", "3", "3"]


def test_a_wave_without_any_arrival_is_not_awaited(ledger: Ledger) -> None:
    for number in (2, 3):
        claim(ledger, number)
    claim(ledger, 1, "x")
    validate(ledger, 1, ("x", "1.study", "a"))
    assert awaited(ledger, "1.study", by_run=1) == []


def test_what_waits_is_not_released_by_another_run(first: Ledger) -> None:
    begin(first, "other")
    hold(first)
    assert first.waiting_studies(STORE, NIGHTLY, "other").is_empty()
    claim(first, 2)
    claim(first, 3, "z")
    validate(first, 3, ("z", "3.study", "b"))
    assert first.waiting_studies(STORE, NIGHTLY, "other")["subject"].to_list() == ["1.study"]


def hold(ledger: Ledger) -> None:
    """Let the audit of the first wave hold its study."""
    ledger.settle(NIGHTLY, "1", dispositions("x", word="held").with_columns(reason=pl.lit("study_in_flight")))
    gate = ("1.study", study_key("1.study"), "hold", "study_in_flight")
    ledger.record_gates(STORE, "1", pl.DataFrame([gate], schema=GATES, orient="row"))


class TestAWaveThatDoesNotBegin:
    def test_it_is_a_run_that_is_expected(self, first: Ledger) -> None:
        assert (state(first, 2), state(first, 3)) == (None, "expected")
        assert first.expected_waves(NIGHTLY) == [name_wave(LEAD, 3)]
        assert first.last_claimed_wave(NIGHTLY, LEAD) == LEAD

    def test_it_is_not_the_newest_run(self, first: Ledger) -> None:
        newest = first.find_run(NIGHTLY)
        assert newest is not None
        assert newest.run_id == LEAD
        named = first.find_run(NIGHTLY, name_wave(LEAD, 3))
        assert named is not None

    def test_it_is_a_run_like_any_other_when_it_begins(self, first: Ledger) -> None:
        expected = first.run("3")
        claim(first, 3, "z")
        begun = first.run("3")
        assert expected is not None
        assert begun is not None
        assert (begun.state, begun.started_at > expected.started_at) == ("running", True)
        assert first.expected_waves(NIGHTLY) == []
        assert first.last_claimed_wave(NIGHTLY, LEAD) == name_wave(LEAD, 3)

    def test_a_person_gives_it_up(self, first: Ledger) -> None:
        lines = release_run(first, NIGHTLY, "3", jobs_ended=False)
        assert lines[2].startswith("1 studies wait for this wave no longer; ")
        assert awaited(first, "1.study", by_run=1) == []
        assert (first.expected_waves(NIGHTLY), state(first, 3)) == ([], "given_up")

    def test_one_that_was_given_up_is_not_awaited_again(self, first: Ledger) -> None:
        claim(first, 2, "y")
        first.give_up_waves(NIGHTLY, ["3"])
        validate(first, 1, ("x", "1.study", "a"))
        assert awaited(first, "1.study", by_run=1) == ["2"]

    def test_one_that_was_given_up_may_still_begin(self, first: Ledger) -> None:
        first.give_up_waves(NIGHTLY, ["3"])
        claim(first, 3, "z")
        validate(first, 3, ("z", "1.study", "a"))
        assert awaited(first, "1.study", by_run=1) == ["2", "3"]  # the second wave has not begun either

    def test_one_that_has_claimed_is_not_given_up_but_gives_its_claims_back(self, first: Ledger) -> None:
        claim(first, 3, "z")
        assert first.give_up_waves(NIGHTLY, ["3"]) == 0
        assert awaited(first, "1.study", by_run=1) == ["3"]
        assert len(release_run(first, NIGHTLY, "3", jobs_ended=False)) == 2
        assert awaited(first, "1.study", by_run=1) == []

    def test_a_run_that_is_no_wave_is_not_given_up(self, first: Ledger) -> None:
        begin(first, "other")
        assert first.give_up_waves(NIGHTLY, ["other", "unknown"]) == 0
        assert first.run("other").state == "running"  # type: ignore[union-attr]


def test_objects_are_unvalidated_until_a_run_has_a_verdict_on_them(first: Ledger) -> None:
    claim(first, 2, "y")
    listing = arrivals("x", "y", "z").with_columns(site=pl.lit("")).select(LISTED.names())
    assert sorted(first.find_unvalidated(NIGHTLY, listing)["key"]) == ["in/y", "in/z"]
    assert first.find_unvalidated("other", listing).height == 3
