from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import polars as pl
import pytest
from sqlalchemy import text, update

from airlock.ledger.gates import GATES
from airlock.ledger.outbox import MESSAGES
from airlock.ledger.tables import runs
from airlock.records import CONTRACTS, study_key, subject_key
from tests.unit.airlock.ledger.samples import (
    NIGHTLY,
    NO_SERIES,
    NO_STUDIES,
    STORE,
    arrivals,
    begin,
    claims,
    dispositions,
    id_of,
    imports,
    uids,
)

if TYPE_CHECKING:
    from airlock.ledger import Ledger

STUDY = "1.study"
ROUTE = "s3://downstream/contracts/"


def decide(ledger: Ledger, run: str, subject: str, gate: str, reason: str | None = None) -> None:
    row = (subject, study_key(subject), gate, reason)
    ledger.record_gates(STORE, run, pl.DataFrame([row], schema=GATES, orient="row"))


def settle(ledger: Ledger, run: str, name: str, word: str, reason: str | None = None) -> None:
    rows = dispositions(name, word=word).with_columns(reason=pl.lit(reason, pl.String))
    ledger.settle(NIGHTLY, run, rows)


@pytest.fixture
def told(ledger: Ledger) -> Ledger:
    """Run a: file good is in and held, since file bad is quarantined. The study's contract waits to be sent."""
    begin(ledger, "a")
    ledger.claim(NIGHTLY, "a", arrivals("good", "bad"))
    ledger.claim_instances(STORE, NIGHTLY, "a", claims(("good", "1.good")))
    ledger.record_imported(STORE, "a", imports(("good", "1.good")), NO_STUDIES, NO_SERIES)
    settle(ledger, "a", "good", "held", "study_incomplete")
    settle(ledger, "a", "bad", "quarantined", "truncated")
    decide(ledger, "a", STUDY, "hold", "study_incomplete")
    contract = pl.DataFrame([(STUDY, study_key(STUDY), 1, "digest", "{}")], schema=CONTRACTS, orient="row")
    ledger.revise_contracts(STORE, "a", uids(STUDY), lambda _: contract)
    message = pl.DataFrame([(study_key(STUDY), 1, "digest", "s3://w/c.json")], schema=MESSAGES, orient="row")
    ledger.enqueue(NIGHTLY, "a", ROUTE, message)
    return ledger


class TestWhere:
    @pytest.mark.parametrize("name", [STUDY, study_key(STUDY)])
    def test_a_study_is_found_with_all_that_is_known_of_it(self, told: Ledger, name: str) -> None:
        found = told.where(name)
        assert found.known_as[0] == ("StudyInstanceUID" if name == STUDY else "study_key")
        assert found.arrivals.select("key", "disposition", "reason", "run_id").rows() == [
            ("in/bad", "quarantined", "truncated", "scheduled__a"),
            ("in/good", "held", "study_incomplete", "scheduled__a"),
        ]
        assert found.instances.select("SOPInstanceUID", "state", "image_set_id").rows() == [
            ("1.good", "imported", "image-set")
        ]
        assert found.gates.select("gate", "reason", "released", "pipeline").rows() == [
            ("hold", "study_incomplete", False, NIGHTLY)
        ]
        assert found.contracts["revision"].to_list() == [1]
        assert found.routes.select("destination", "state", "attempts").rows() == [(ROUTE, "pending", 0)]

    @pytest.mark.parametrize(
        ("name", "way", "key"),
        [
            ("1.good", "SOPInstanceUID", "in/good"),
            ("1.bad", "SOPInstanceUID", "in/bad"),
            ("in/bad", "key", "in/bad"),
            ("s3://archive/in/bad", "key", "in/bad"),
            (id_of("bad"), "arrival_id", "in/bad"),
        ],
    )
    def test_one_file_is_found_by_each_of_its_names(self, told: Ledger, name: str, way: str, key: str) -> None:
        found = told.where(name)
        assert found.known_as == (way,)
        assert found.arrivals["key"].to_list() == [key]
        assert found.gates["subject"].to_list() == [STUDY], "what is known of its study comes with it"

    def test_an_instance_that_is_released_or_not_settled_is_found_too(self, told: Ledger) -> None:
        settle(told, "a", "good", "released")
        told.claim(NIGHTLY, "a", arrivals("new"))
        told.claim_instances(STORE, NIGHTLY, "a", claims(("new", "1.new")))
        assert told.where("1.good").arrivals["disposition"].to_list() == ["released"]
        assert told.where("1.new").arrivals["disposition"].to_list() == [None]

    def test_an_arrival_that_came_again_is_shown_in_every_generation(self, told: Ledger) -> None:
        settle(told, "a", "bad", "quarantined", "access_denied")
        begin(told, "b")
        told.claim(NIGHTLY, "b", arrivals("bad"))
        assert told.where("in/bad").arrivals["run_key"].to_list() == ["a", "b"]

    def test_a_person_who_overrode_a_hold_is_named(self, told: Ledger) -> None:
        told.override_holds(STORE, "a", uids(STUDY), "ada", "seen")
        found = told.where(STUDY)
        assert found.gates["released"].to_list() == [True]
        assert found.overrides.select("overridden_by", "override_reason", "held_reason").rows() == [
            ("ada", "seen", "study_incomplete")
        ]

    def test_a_fhir_resource_is_found_by_its_type_and_id(self, told: Ledger) -> None:
        resource = {"arrival_id": [id_of("good")], "resource_type": ["Patient"], "resource_id": ["p1"]}
        rows = pl.DataFrame(resource | {"content_digest": ["d"], "clock": [None], "patient": [None]})
        told.claim_resources(STORE, NIGHTLY, "a", rows)
        told.record_imported_resources(STORE, "a", rows.with_columns(batch_id=pl.lit("b")))
        decide(told, "a", "Patient/p1", "hold", "awaiting_review")
        found = told.where("Patient/p1")
        assert found.known_as == ("resource", "subject")
        assert found.resources.select("resource_type", "resource_id", "run_key").rows() == [("Patient", "p1", "a")]
        assert found.gates["reason"].to_list() == ["awaiting_review"]
        assert told.where("in/good").resources["resource_id"].to_list() == ["p1"], "and by the file that brought it"

    def test_a_patient_is_found_by_the_key_that_held_shows(self, told: Ledger) -> None:
        decide(told, "a", "Patient/p1", "hold", "patient_held")
        (key,) = told.held().filter(pl.col("subject") == "Patient/p1")["subject_key"]
        found = told.where(key)
        assert found.known_as == ("subject_key",)
        assert found.gates.select("subject", "reason").rows() == [("Patient/p1", "patient_held")]

    def test_a_patient_that_was_released_is_found_by_its_key_too(self, told: Ledger) -> None:
        key = study_key("Patient/p2")
        decide(told, "a", "Patient/p2", "release")
        assert told.where(key).known_as == (), "no hold, and nothing was sent of it"
        message = pl.DataFrame([(key, 1, "digest", "s3://w/p2.json")], schema=MESSAGES, orient="row")
        told.record_releases(NIGHTLY, "a", STORE, message)
        assert told.where(key).gates["subject"].to_list() == ["Patient/p2"]

    def test_a_key_names_the_patient_of_one_data_store_only(self, told: Ledger) -> None:
        begin(told, "b", pipeline="another")
        keys = {}
        for store, run in ((STORE, "a"), ("another store", "b")):
            keys[store] = subject_key(store, "Patient/123")
            hold = ("Patient/123", keys[store], "hold", "patient_held")
            told.record_gates(store, run, pl.DataFrame([hold], schema=GATES, orient="row"))
            told.override_holds(store, run, uids("Patient/123"), "ada", f"seen in {store}")
        for store, key in keys.items():
            for found in (told.where(key), told.where(key, store), told.where("Patient/123", store)):
                assert found.gates["datastore_id"].to_list() == [store]
                assert found.overrides["override_reason"].to_list() == [f"seen in {store}"]
        assert told.where("Patient/123").gates.height == 2, "the id is the name of a Patient in each"

    def test_a_resource_of_another_data_store_is_left_out(self, told: Ledger) -> None:
        resource = {"arrival_id": [id_of("good")], "resource_type": ["Patient"], "resource_id": ["p1"]}
        rows = pl.DataFrame(resource | {"content_digest": ["d"], "clock": [None], "patient": [None]})
        told.claim_resources(STORE, NIGHTLY, "a", rows)
        assert told.where("Patient/p1", STORE).known_as == ("resource",)
        assert told.where("Patient/p1", "another store").known_as == ()

    @pytest.mark.parametrize("name", ["", "1.2.3", "in/", "s3://elsewhere/in/bad", "%", "' OR 1=1 --", "Patient/none"])
    def test_what_is_not_there_is_not_found(self, told: Ledger, name: str) -> None:
        found = told.where(name)
        assert found.known_as == ()
        assert found.arrivals.is_empty()


class TestHeld:
    def test_a_hold_is_listed_with_its_reason_and_its_run(self, told: Ledger) -> None:
        held = told.held()
        assert held.select("pipeline", "subject", "reason", "run_id").rows() == [
            (NIGHTLY, STUDY, "study_incomplete", "scheduled__a")
        ]
        assert told.held("another").is_empty()
        assert told.unreleased(held).rows() == [
            (STUDY, STORE, "held", "study_incomplete", 1),
            (STUDY, STORE, "quarantined", "truncated", 1),
        ]

    def test_files_of_the_same_study_in_another_data_store_do_not_count(self, told: Ledger) -> None:
        begin(told, "b", pipeline="another")
        told.claim("another", "b", arrivals("copy"))
        told.settle("another", "b", dispositions("copy", word="held").with_columns(reason=pl.lit("service_warning")))
        hold = (STUDY, study_key(STUDY), "hold", "service_warning")
        told.record_gates("another store", "b", pl.DataFrame([hold], schema=GATES, orient="row"))
        assert told.unreleased(told.held()).rows() == [
            (STUDY, STORE, "held", "study_incomplete", 1),
            (STUDY, STORE, "quarantined", "truncated", 1),
            (STUDY, "another store", "held", "service_warning", 1),
        ]

    def test_it_counts_from_the_first_hold_that_no_release_followed(self, told: Ledger) -> None:
        began = told.held()["since"].item()
        begin(told, "b")
        decide(told, "b", STUDY, "hold", "patient_id_conflict")
        [held] = told.held().to_dicts()
        assert (held["reason"], held["since"], held["run_key"]) == ("patient_id_conflict", began, "b")

    def test_what_a_later_run_or_a_person_released_is_not_held(self, told: Ledger) -> None:
        begin(told, "b")
        decide(told, "b", STUDY, "release")
        assert told.held().is_empty()
        decide(told, "a", "2.study", "hold", "service_warning")
        assert told.held()["subject"].to_list() == ["2.study"]
        told.override_holds(STORE, "a", uids("2.study"), "ada", "harmless")
        assert told.held().is_empty()

    def test_a_file_that_is_held_counts_itself(self, told: Ledger) -> None:
        subject = f"file/{id_of('bad')}"
        decide(told, "a", subject, "hold", "truncated")
        held = told.held().filter(pl.col("subject") == subject)
        assert told.unreleased(held).rows() == [(subject, STORE, "quarantined", "truncated", 1)]


def test_a_run_is_found_by_its_key_by_its_id_and_as_the_newest(ledger: Ledger) -> None:
    begin(ledger, "a", "b")
    begin(ledger, "c", pipeline="another")
    with ledger._writing("runs") as connection:  # it began long ago
        early = datetime(2020, 1, 1, tzinfo=UTC)
        connection.execute(update(runs).where(runs.c.run_key == "a").values(started_at=early))
    names = ["a", "scheduled__a", None, "c", "no such run"]
    found = [ledger.find_run(NIGHTLY, name) for name in names]
    assert [run.run_key if run else None for run in found] == ["a", "a", "b", None, None]
    assert ledger.find_run("none") is None


@pytest.mark.parametrize("name", ["in/bad", "1.bad", STUDY])
def test_no_question_reads_all_arrivals(told: Ledger, name: str) -> None:
    """An archive has ten million of them."""
    from airlock.ledger.lookup import _select_by_each_name

    with told._reading() as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(text("SET LOCAL enable_seqscan = off"))  # a table this small is read as a whole
        for statement in (each for ways in _select_by_each_name(name).values() for each in ways):
            explain = "EXPLAIN QUERY PLAN " if connection.dialect.name == "sqlite" else "EXPLAIN "
            compiled = statement.compile(connection, compile_kwargs={"literal_binds": True})
            plan = "\n".join(str(row) for row in connection.execute(text(explain + str(compiled).replace(":", "\\:"))))
            assert "SCAN arrivals" not in plan
            assert "Seq Scan on arrivals" not in plan
