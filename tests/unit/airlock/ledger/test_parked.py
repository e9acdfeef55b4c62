"""Parked resources: what they wait for, when they are due, which run takes them in, and when they leave."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar

import polars as pl
import pytest
from sqlalchemy import select

from airlock.ledger.parked import (
    CONFIRMED,
    COPIES,
    COUNTED,
    DUE,
    FOUND_PARKED,
    PARKED,
    SPARE,
    TAKEN,
    ParkedTakenError,
)
from airlock.ledger.resources import CLAIMS, IMPORTS
from airlock.ledger.tables import parked
from tests.unit.airlock.ledger.parking import END, NOW, P1, bring, hold, park, rows, wait
from tests.unit.airlock.ledger.samples import NIGHTLY, STORE, dispositions, id_of

if TYPE_CHECKING:
    from airlock.ledger import Ledger

OTHER = "other"  # a pipeline of the same data store
E1, O1, O2, R1 = "Encounter/e1", "Observation/o1", "Observation/o2", "ServiceRequest/r1"


def due(ledger: Ledger, now: Any = NOW, most: int = 10) -> set[str]:
    found = ledger.find_due(STORE, NIGHTLY, most, now)
    assert found.schema == DUE
    return set(found.select(pl.format("{}/{}", "resource_type", "resource_id")).to_series())


def name_of(argument: str) -> str:
    """Return the resource that an argument of `wait` names."""
    return argument.replace("_", "/")


def take(ledger: Ledger, run: str, *names: str, as_: str = "object") -> None:
    """Let a run take in resources as one object."""
    units = pl.DataFrame([(id_of(name), 1, id_of(as_)) for name in names], schema=TAKEN, orient="row")
    ledger.take_parked(STORE, NIGHTLY, run, units)


def left(ledger: Ledger) -> set[str]:
    """Return the resources that are still parked."""
    return set(ledger.count_parked(NIGHTLY)["resource_type"])


class TestDue:
    def test_a_resource_is_due_when_the_one_that_it_waits_for_is_imported(self, ledger: Ledger) -> None:
        wait(ledger, "a", Observation_o1=(P1,), Observation_o2=("Patient/p2",))
        assert due(ledger) == set()
        bring(ledger, "b", P1)
        assert due(ledger) == {O1}

    def test_whichever_pipeline_brings_it(self, ledger: Ledger) -> None:
        wait(ledger, "a", Observation_o1=(P1,))
        bring(ledger, "b", P1, pipeline=OTHER)
        assert due(ledger) == {O1}
        assert ledger.find_due(STORE, OTHER, 10, NOW).is_empty()

    def test_only_in_the_same_data_store(self, ledger: Ledger) -> None:
        wait(ledger, "a", Observation_o1=(P1,))
        hold(ledger, "b", P1)
        row = (id_of(P1), *P1.split("/"), "digest", "batch")
        ledger.record_imported_resources("1" * 32, "b", pl.DataFrame([row], schema=IMPORTS, orient="row"))
        assert due(ledger) == set()

    def test_one_that_waits_for_several_is_due_with_the_last(self, ledger: Ledger) -> None:
        wait(ledger, "a", Observation_o1=(P1, E1))
        bring(ledger, "b", P1)
        assert due(ledger) == set()
        bring(ledger, "c", E1)
        assert due(ledger) == {O1}

    def test_one_whose_target_has_come_meanwhile_is_due_at_once(self, ledger: Ledger) -> None:
        bring(ledger, "a", P1)
        wait(ledger, "b", Observation_o1=(P1,), Observation_o2=(P1, E1))
        assert due(ledger) == {O1}
        bring(ledger, "c", E1)
        assert due(ledger) == {O1, O2}

    def test_one_that_waits_for_itself_is_due_at_once(self, ledger: Ledger) -> None:
        wait(ledger, "a", Observation_o1=(O1,))
        assert due(ledger) == {O1}

    def test_what_waits_for_nothing_but_what_is_due_comes_along(self, ledger: Ledger) -> None:
        wait(ledger, "a", Encounter_e1=(P1,), Observation_o1=(P1, E1), Observation_o2=(E1, R1))
        wait(ledger, "b", DiagnosticReport_d1=(O1,))
        bring(ledger, "c", P1)
        assert due(ledger) == {E1, O1, "DiagnosticReport/d1"}

    def test_no_more_than_the_most(self, ledger: Ledger) -> None:
        wait(ledger, "a", Encounter_e1=(P1,), Observation_o1=(E1,), Observation_o2=(E1,))
        bring(ledger, "b", P1)
        assert [len(due(ledger, most=most)) for most in (1, 2, 3)] == [1, 2, 3]

    def test_of_these_what_has_waited_too_long_comes_first_and_then_what_waits_for_the_shortest_time(
        self, ledger: Ledger
    ) -> None:
        ends = {O1: 30, O2: 29, "Condition/c1": 3, "Encounter/late": 2}
        hold(ledger, "a", *ends)
        for name, days in ends.items():
            target = "Patient/p2" if name == "Encounter/late" else P1
            park(ledger, "a", rows(name, target, until=NOW + timedelta(days=days)))
        bring(ledger, "b", P1)
        now = NOW + timedelta(days=2)
        assert [due(ledger, now, most) for most in (1, 2, 3)] == [
            {"Encounter/late"},
            {"Encounter/late", "Condition/c1"},
            {"Encounter/late", "Condition/c1", O2},
        ]

    def test_a_circle_is_not_parted_by_the_most(self, ledger: Ledger) -> None:
        names = [f"{kind}{number}" for kind in ("Encounter_e", "ServiceRequest_s") for number in range(4)]
        waits = {name: (name_of(names[(place + 4) % 8]),) for place, name in enumerate(names)}
        wait(ledger, "a", **waits)
        assert due(ledger) == {name_of(name) for name in names}
        for most, whole in ((1, 0), (2, 2), (3, 2), (7, 6), (8, 8)):
            found = due(ledger, most=most)
            assert len(found) == whole
            assert {waits[name.replace("/", "_")][0] for name in found} == found

    def test_what_comes_after_a_circle_that_is_too_large_comes_in(self, ledger: Ledger) -> None:
        wait(ledger, "a", Encounter_e1=(R1,), ServiceRequest_r1=(E1,))
        wait(ledger, "b", Observation_o1=(P1,))
        bring(ledger, "c", P1)
        assert due(ledger, most=1) == {O1}

    def test_what_has_waited_too_long_comes_with_what_it_waits_for(self, ledger: Ledger) -> None:
        hold(ledger, "a", O1, O2, E1)
        for name, target, days in ((O1, E1, 3), (O2, E1, 3), (E1, P1, 30)):
            park(ledger, "a", rows(name, target, until=NOW + timedelta(days=days)))
        bring(ledger, "b", P1)
        assert due(ledger, NOW + timedelta(days=4), most=2) in ({O1, E1}, {O2, E1})

    def test_what_was_to_come_into_another_data_store_is_looked_at_when_its_time_ends(self, ledger: Ledger) -> None:
        wait(ledger, "a", Observation_o1=(P1,))
        bring(ledger, "b", P1)
        assert [ledger.find_due("1" * 32, NIGHTLY, 10, now).height for now in (NOW, END)] == [0, 1]

    def test_one_whose_time_is_over_is_found_without_what_waits_for_it(self, ledger: Ledger) -> None:
        wait(ledger, "a", Encounter_e1=(P1,))
        hold(ledger, "b", O1)
        park(ledger, "b", rows(O1, E1, until=END + timedelta(days=1)))
        assert due(ledger, END - timedelta(seconds=1)) == set()
        assert due(ledger, END) == {E1}

    def test_the_rows_say_what_brought_it_first(self, ledger: Ledger) -> None:
        wait(ledger, "a", Observation_o1=(P1,))
        bring(ledger, "b", P1)
        (row,) = ledger.find_due(STORE, NIGHTLY, 10, NOW).to_dicts()
        assert (row["arrival_id"], row["line"], row["bucket"], row["key"]) == (id_of(O1), 1, "archive", f"in/{O1}")
        assert (row["clock"], row["site"], row["parked_until"]) == ("place=a last_modified=1", "", END)


class TestCircles:
    def test_two_that_wait_for_each_other_are_due_when_the_second_is_parked(self, ledger: Ledger) -> None:
        wait(ledger, "a", Observation_o1=(R1,))
        assert due(ledger) == set()
        wait(ledger, "b", ServiceRequest_r1=(O1,))
        assert due(ledger) == {O1, R1}

    def test_or_when_the_last_other_one_has_come(self, ledger: Ledger) -> None:
        wait(ledger, "a", Observation_o1=(R1, P1), ServiceRequest_r1=(O1, P1, E1), Observation_o2=(O1,))
        bring(ledger, "b", P1)
        assert due(ledger) == set()
        bring(ledger, "c", E1)
        assert due(ledger) == {O1, R1, O2}

    def test_one_of_several_runs_and_many_members(self, ledger: Ledger) -> None:
        for number in range(4):
            wait(ledger, f"run{number}", **{f"Observation_c{number}": (f"Observation/c{(number + 1) % 4}",)})
            assert len(due(ledger)) == (4 if number == 3 else 0)

    def test_a_chain_is_none(self, ledger: Ledger) -> None:
        wait(ledger, "a", Observation_o1=(R1,), ServiceRequest_r1=(E1,))
        wait(ledger, "b", Encounter_e1=(P1,))
        assert due(ledger) == set()

    def test_none_across_pipelines_since_a_run_takes_in_only_its_own(self, ledger: Ledger) -> None:
        wait(ledger, "a", Observation_o1=(R1,))
        hold(ledger, "b", R1, pipeline=OTHER)
        frame, none = pl.DataFrame(rows(R1, O1), schema=PARKED), pl.Series([], dtype=pl.String)
        ledger.settle_parked(STORE, OTHER, "b", [frame], read=none, unread=none)
        assert due(ledger) == set()


@pytest.fixture
def taking(ledger: Ledger) -> Ledger:
    """Two resources are due, and run t has taken them in."""
    wait(ledger, "a", Observation_o1=(P1,), Encounter_e1=(P1,))
    ledger.settle(NIGHTLY, "a", dispositions(O1, E1, word="parked", study_uid=None))
    bring(ledger, "b", P1)
    hold(ledger, "t", "object")
    take(ledger, "t", O1, E1)
    return ledger


class TestTaking:
    def test_what_a_run_has_taken_in_is_not_due_for_another(self, taking: Ledger) -> None:
        assert due(taking) == due(taking, END) == set()
        hold(taking, "u", "second")
        with pytest.raises(ParkedTakenError):
            take(taking, "u", O1, as_="second")

    def test_of_several_all_or_none(self, ledger: Ledger) -> None:
        wait(ledger, "a", Observation_o1=(P1,), Encounter_e1=(P1,))
        bring(ledger, "b", P1)
        for run in "tu":
            hold(ledger, run, run)
        take(ledger, "t", O1, as_="t")
        with pytest.raises(ParkedTakenError):
            take(ledger, "u", O1, E1, as_="u")
        assert due(ledger) == {E1}

    def test_what_is_settled_leaves(self, taking: Ledger) -> None:
        park(taking, "t", read=["object"])
        assert left(taking) == set()

    def test_what_could_not_be_read_is_due_again(self, taking: Ledger) -> None:
        park(taking, "t", unread=["object"])
        assert due(taking) == {O1, E1}

    def test_what_waits_again_keeps_its_name_and_its_time(self, taking: Ledger) -> None:
        park(taking, "t", rows(O1, R1, held_as="object"), read=["object"])
        assert left(taking) == {"Observation"}
        assert due(taking) == set()
        bring(taking, "c", R1)
        (row,) = taking.find_due(STORE, NIGHTLY, 10, NOW).to_dicts()
        assert (row["arrival_id"], row["parked_at"], row["parked_until"]) == (id_of(O1), NOW, END)

    def test_a_run_that_is_given_back_leaves_it_to_the_next_and_owes_no_object(self, taking: Ledger) -> None:
        assert taking.release_claims(NIGHTLY, "t") == 1
        assert due(taking) == {O1, E1}
        assert taking.count_owed(NIGHTLY).is_empty()

    def test_an_audit_that_is_repeated_parks_nothing_that_has_left(self, taking: Ledger) -> None:
        park(taking, "t", read=["object"])
        park(taking, "a", rows(O1, P1))
        assert left(taking) == set()

    def test_nor_what_it_has_parked_and_another_has_taken(self, taking: Ledger) -> None:
        park(taking, "a", rows(O1, P1), rows(E1, P1))
        with taking._reading() as connection:
            assert set(connection.scalars(select(parked.c.taken_as))) == {id_of("object")}


class TestCopies:
    KEYS = pl.DataFrame({"resource_type": ["Observation"], "resource_id": ["o1"]})

    def test_a_content_is_found_once_however_much_it_waits_for(self, ledger: Ledger) -> None:
        wait(ledger, "a", Observation_o1=(P1, E1))
        found = ledger.find_copies(STORE, NIGHTLY, self.KEYS)
        assert found.schema == COPIES
        content = "Observation", "o1", f"digest of {O1}"
        assert found.drop("body_uri").rows() == [(id_of(O1), 1, *content, "place=a last_modified=1")]
        assert ledger.find_copies(STORE, OTHER, self.KEYS).is_empty()

    def test_its_clock_advances_unless_it_has_another_by_now(self, ledger: Ledger) -> None:
        wait(ledger, "a", Observation_o1=(P1,), Observation_o2=(P1,))
        row = ("Observation", "o1", f"digest of {O1}", "place=b last_modified=2", "place=a last_modified=1")
        newer = pl.DataFrame([row], schema=CONFIRMED, orient="row")
        assert [ledger.confirm_parked(STORE, NIGHTLY, newer) for _ in range(2)] == [1, 0]
        bring(ledger, "b", P1)
        assert ledger.find_due(STORE, NIGHTLY, 10, NOW)["clock"].sort().to_list() == [row[4], row[3]]


class TestComing:
    def coming(self, ledger: Ledger, name: str, run: str = "asks") -> bool:
        keys = pl.DataFrame([name.split("/")], schema=["resource_type", "resource_id"], orient="row")
        return not ledger.find_coming(STORE, NIGHTLY, run, keys).is_empty()

    def test_what_another_run_claims_or_has_brought(self, ledger: Ledger) -> None:
        hold(ledger, "a", P1)
        assert not self.coming(ledger, P1)
        row = (id_of(P1), *P1.split("/"), "digest", "place=a", P1)
        ledger.claim_resources(STORE, NIGHTLY, "a", pl.DataFrame([row], schema=CLAIMS, orient="row"))
        assert self.coming(ledger, P1)
        assert not self.coming(ledger, P1, run="a")
        bring(ledger, "b", "Patient/p2")
        assert self.coming(ledger, "Patient/p2")

    def test_what_waits_itself_once_it_is_due_or_another_run_has_taken_it_in(self, taking: Ledger) -> None:
        wait(taking, "c", Observation_o2=("Patient/p2",))
        assert self.coming(taking, O1)
        assert [self.coming(taking, name, run="t") for name in (O1, O2)] == [False, False]
        bring(taking, "d", "Patient/p2")
        assert self.coming(taking, O2, run="t")


def test_a_parked_content_keeps_none_away_since_it_may_never_come_in(taking: Ledger) -> None:
    keys = pl.DataFrame({"resource_type": ["Observation", "Patient"], "resource_id": ["o1", "p1"]})
    assert taking.contents_of(STORE, keys)["known_digest"].to_list() == [f"digest of {P1}"]


class TestBodies:
    NAMES = (O1, "open", P1, "unknown")
    URIS: ClassVar = {name: f"s3://workspace/runs/nightly/parked/{id_of(name)}-1.json" for name in NAMES}

    def spare(self, ledger: Ledger, *more: str) -> dict[str, bool]:
        """Return the names of the spare bodies, and whether their files are known and settled."""
        found = ledger.find_spare_bodies(pl.Series([*self.URIS.values(), *more], dtype=pl.String))
        assert found.schema == SPARE
        names = {uri: name for name, uri in self.URIS.items()}
        return {names[uri]: is_settled for uri, is_settled in found.iter_rows()}

    def test_one_that_a_row_names_or_whose_file_is_not_settled_is_not_spare(self, taking: Ledger) -> None:
        hold(taking, "open", "open")
        taking.settle(NIGHTLY, "b", dispositions(P1, study_uid=None))
        assert self.spare(taking) == {P1: True, "unknown": False}
        park(taking, "t", read=["object"])
        assert self.spare(taking) == {O1: True, P1: True, "unknown": False}

    def test_nor_is_what_has_another_name(self, taking: Ledger) -> None:
        others = (f"{id_of(P1)}-1.txt", f"{id_of(P1)}.json", "note.json", f"{id_of(P1)}-x.json")
        uris = (f"s3://workspace/runs/nightly/parked/{name}" for name in others)
        assert self.spare(taking, *uris) == {"open": False, "unknown": False}

    def test_one_that_is_parked_again_has_another_body(self, taking: Ledger) -> None:
        """So that of the two copies each stays until its own file is settled."""
        again = self.URIS[O1].replace(id_of(O1), id_of("object"))
        park(taking, "t", rows(O1, R1, held_as="object", body_uri=again), read=["object"])
        taking.settle(NIGHTLY, "t", dispositions("object", word="parked", study_uid=None))
        assert self.spare(taking) == {O1: True, "open": False, "unknown": False}
        assert taking.find_spare_bodies(pl.Series([again])).is_empty()


def test_they_are_counted_by_type_and_what_they_wait_for(ledger: Ledger) -> None:
    wait(ledger, "a", Observation_o1=(P1, E1), Observation_o2=(P1,))
    counted = ledger.count_parked(NIGHTLY)
    assert counted.schema == COUNTED
    expected = [(NIGHTLY, "Observation", "Patient", 2, NOW), (NIGHTLY, "Observation", "Encounter", 1, NOW)]
    assert counted.rows() == ledger.count_parked().rows() == expected
    assert ledger.count_parked(OTHER).is_empty()
    hold(ledger, "b", R1, pipeline=OTHER)
    frame, none = pl.DataFrame(rows(R1, P1), schema=PARKED), pl.Series([], dtype=pl.String)
    ledger.settle_parked(STORE, OTHER, "b", [frame], read=none, unread=none)
    assert sorted(ledger.count_parked(most=1)["pipeline"]) == sorted([NIGHTLY, OTHER]), "one of each"


def test_where_finds_them_by_name_and_by_file(ledger: Ledger) -> None:
    wait(ledger, "a", Observation_o1=(P1,))
    for text in (O1, f"in/{O1}"):
        found = ledger.where(text)
        assert found.parked.schema == FOUND_PARKED
        assert found.parked.select("waits_for_type", "waits_for_id", "due").rows() == [("Patient", "p1", None)]
    assert ledger.where(O1).known_as == ("resource",)
    bring(ledger, "b", P1)
    assert ledger.where(O1).parked["due"].to_list() == [1]
    assert ledger.where(P1).resources["disposition"].to_list() == ["released"]
