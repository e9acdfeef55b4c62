"""The audit of a clinical run whose jobs left this or that: outcomes, gates, contracts, ledger and report agree."""

from __future__ import annotations

import csv
import io
import json
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest

from airlock.clinical.accounts import JobReading, account_batches
from airlock.clinical.audit import audit
from airlock.clinical.contracts import ClinicalContract
from airlock.clinical.records import BATCHES, GATES, VERDICTS, file_subject
from airlock.ledger import Job
from airlock.records import ARRIVALS, CONTRACTS, subject_key
from airlock.stages.batches import find_batches
from airlock.stages.resources import DISPOSITIONS, FILES, OUTCOMES
from airlock.storage.s3uri import S3Uri
from tests.ledger_rows import count_arrivals, read_dispositions
from tests.unit.airlock.clinical.books import (
    CCDA,
    MINIMAL,
    STORE,
    Store,
    audited,
    delivered,
    ended,
    manifest,
    observation,
    organization,
    outcome,
    patient,
    rejected,
    warned,
    words,
)

if TYPE_CHECKING:
    from airlock.pipelines import ClinicalPipeline
    from airlock.run import Run
    from tests.unit.airlock.world import World

P1, P2, ORG = patient("p1"), patient("p2"), organization("g1")
O1, O2 = observation("o1", "p1"), observation("o2", "p2")
FILES_OF_TWO = {"a.ndjson": [P1, O1], "b.ndjson": [P2, O2, ORG]}
ALL = ("Patient/p1", "Observation/o1", "Patient/p2", "Observation/o2", "Organization/g1")
RELEASED = ("released", None)
NO_READ_BACK = {"read_back_sample": 0}


def contracts(run: Run[ClinicalPipeline]) -> dict[str, ClinicalContract]:
    rows = run.workspace.read("contracts", CONTRACTS)
    return {
        subject: ClinicalContract.model_validate_json(text)
        for subject, text in rows.select("subject", "contract").iter_rows()
    }


def references(run: Run[ClinicalPipeline], subject: str) -> list[str]:
    return [one.reference for one in contracts(run)[subject].resources]


def stored(world: World, *names: str) -> dict[str, str]:
    """Return which of these resources the ledger knows in the data store, and by which run."""
    keys = pl.DataFrame([name.split("/") for name in names], schema=["resource_type", "resource_id"], orient="row")
    known = world.ledger.known_resources(STORE, keys)
    return {f"{kind}/{name}": run for kind, name, _, run in known.iter_rows()}


class TestGoodRun:
    def test_everything_agrees(self, world: World) -> None:
        run, found = audited(world, "one", FILES_OF_TWO | {"c.ndjson": ["no JSON"]})
        assert (found.balanced, found.open_arrivals) == (True, 0)
        assert words(run) == dict.fromkeys(ALL, RELEASED) | {"c.ndjson:1": ("quarantined", "not_json")}
        assert set(stored(world, *ALL)) == set(ALL)
        assert count_arrivals(world.ledger, "records") == {"released": 2, "quarantined": 1}
        record = world.ledger.run(run.key)
        assert record is not None
        assert (record.state, record.report) == ("audited", found.report)

    def test_the_report_counts_units(self, world: World) -> None:
        _, found = audited(world, "one", FILES_OF_TWO | {"c.ndjson": ["no JSON", O1]}, {"Observation/o2": rejected()})
        report = found.report
        assert {name: report[name] for name in ("schema", "kind", "arrivals", "resources", "validation_level")} == {
            "schema": "airlock.report/1",
            "kind": "clinical",
            "arrivals": 3,
            "resources": 6,
            "validation_level": "strict",
        }
        assert report["verdicts"] == {"accept": 5, "duplicate": 1, "quarantine": 1}
        assert report["outcomes"] == {"imported": 4, "rejected": 1}
        assert report["dispositions"] == {"released": 4, "duplicate": 1, "failed": 1, "quarantined": 1}
        assert report["reasons"]["rejected"]["units"] == 1
        assert report["patients"] == {"released": 2, "held": 0}
        assert report["files"] == {"released": 1, "held": 0, "failed": 1, "quarantined": 1}
        (job,) = report["jobs"]
        assert (job["resources"], job["files"], job["status"], job["discrepancies"]) == (5, 3, "COMPLETED", [])

    def test_the_lists_lie_beside_the_report(self, world: World) -> None:
        run, found = audited(world, "one", FILES_OF_TWO, {"Observation/o2": rejected()})
        assert found.report_uri == f"{run.workspace.root}audit/report.json"
        assert json.loads(world.s3.get(S3Uri.parse(found.report_uri))) == found.report
        table = csv.DictReader(io.StringIO(world.s3.get(S3Uri.parse(found.dispositions_uri)).decode()))
        assert [(row["key"], row["line"], row["reason"]) for row in table] == [("in/one/b.ndjson", "2", "rejected")]
        (line,) = world.s3.get(run.workspace.root.join("audit/operation-outcomes.ndjson")).splitlines()
        assert json.loads(line)["outcome"] == outcome()

    def test_released_resources_are_in_the_contracts_of_patients_and_files(self, world: World) -> None:
        run, _ = audited(world, "one", FILES_OF_TWO, {"Observation/o2": rejected()})
        brought = run.workspace.read("arrivals/0000", ARRIVALS).filter(pl.col("key").str.ends_with("b.ndjson"))
        file = file_subject(brought["arrival_id"][0])
        assert set(contracts(run)) == {"Patient/p1", "Patient/p2", file}
        assert references(run, "Patient/p1") == ["Observation/o1", "Patient/p1"]
        assert references(run, "Patient/p2") == ["Patient/p2"]
        assert references(run, file) == ["Organization/g1"]
        assert contracts(run)["Patient/p1"].resources[0].source == "s3://archive/in/one/a.ndjson"

    def test_auditing_again_gives_the_same(self, world: World) -> None:
        lines = {"Observation/o2": rejected(500), "Observation/o1": rejected()}
        run, first = audited(world, "one", FILES_OF_TWO, lines)
        schemas = {"outcomes": OUTCOMES, "gates": GATES, "dispositions": DISPOSITIONS, "contracts": CONTRACTS}
        before = {name: run.workspace.read(name, schema) for name, schema in schemas.items()}
        kept = read_dispositions(world.ledger, "records", run.key), stored(world, *ALL)
        assert audit(run, Store()) == first
        for name, rows in before.items():
            assert run.workspace.read(name, schemas[name]).equals(rows), name
        assert read_dispositions(world.ledger, "records", run.key).equals(kept[0])
        assert stored(world, *ALL) == kept[1]

    def test_an_empty_delivery_balances(self, world: World) -> None:
        _, found = audited(world, "one", {})
        assert (found.balanced, found.report["arrivals"], found.open_arrivals) == (True, 0, 0)


class TestBadOutput:
    def test_a_completed_job_that_rejected_everything_releases_nothing(self, world: World) -> None:
        run, found = audited(world, "one", {"a.ndjson": [P1, O1]}, dict.fromkeys(ALL, rejected()))
        assert found.balanced
        assert set(words(run).values()) == {("failed", "rejected")}
        assert contracts(run) == {}
        assert stored(world, *ALL) == {}, "a later delivery may bring them"
        assert count_arrivals(world.ledger, "records") == {"failed": 1}

    def test_a_resource_that_no_line_names_holds_its_patient(self, world: World) -> None:
        run = delivered(world, "one", FILES_OF_TWO, audit=NO_READ_BACK)
        ended(world, run, {"Observation/o1": None}, written=manifest(5, server=1))
        audit(run, Store())
        assert words(run) == dict.fromkeys(ALL, RELEASED) | {
            "Observation/o1": ("failed", "not_in_manifest"),
            "Patient/p1": ("held", "patient_held"),
        }
        assert "Patient/p1" not in contracts(run)
        assert set(stored(world, *ALL)) == {*ALL} - {"Observation/o1", "Patient/p1"}, "brought again, both are taken"

    @pytest.mark.parametrize("written", [manifest(0), None])
    def test_counts_that_disagree_hold_the_whole_batch(self, world: World, written: Any) -> None:
        run = delivered(world, "one", FILES_OF_TWO, audit=NO_READ_BACK)
        ended(world, run, written=written)
        found = audit(run, Store())
        assert set(words(run).values()) == {("held", "job_counts_disagree")}
        assert found.report["jobs"][0]["discrepancies"]
        assert contracts(run) == {}

    def test_a_progress_report_that_disagrees_holds_the_whole_batch(self, world: World) -> None:
        run = delivered(world, "one", FILES_OF_TWO, audit=NO_READ_BACK)
        ended(world, run, progress={"TotalNumberOfResourcesScanned": 4})
        found = audit(run, Store())
        assert set(words(run).values()) == {("held", "job_counts_disagree")}
        sentence = "the job reports 4 scanned resources, its manifest 5"
        assert found.report["jobs"][0]["discrepancies"] == [sentence]

    def test_a_failed_jobs_message_is_kept(self, world: World) -> None:
        run = delivered(world, "one", {"a.ndjson": [P1]}, audit=NO_READ_BACK)
        ended(world, run, {"Patient/p1": None}, status="FAILED", message="no access", written=None)
        assert (audit(run, Store()).balanced, words(run)["Patient/p1"]) == (True, ("failed", "job_failed"))
        assert run.workspace.read("dispositions", DISPOSITIONS)["detail"].to_list() == ["no access"]

    def test_a_resource_stored_with_issues_is_held_alone(self, world: World) -> None:
        run, found = audited(world, "one", FILES_OF_TWO, {"Observation/o1": warned()}, **MINIMAL)
        assert words(run)["Observation/o1"] == ("held", "stored_with_issues")
        assert words(run)["Patient/p1"] == RELEASED
        assert references(run, "Patient/p1") == ["Patient/p1"]
        assert "Observation/o1" in stored(world, "Observation/o1")
        assert found.report["validation_level"] == "minimal"

    def test_a_held_file_says_so_of_its_other_resources(self, world: World) -> None:
        whole_files = NO_READ_BACK | {"hold_incomplete_files": True}
        run, _ = audited(world, "one", FILES_OF_TWO, {"Observation/o2": rejected()}, audit=whole_files)
        assert words(run) == dict.fromkeys(ALL, RELEASED) | {
            "Observation/o2": ("failed", "rejected"),
            "Patient/p2": ("held", "file_held"),
            "Organization/g1": ("held", "file_held"),
        }

    def test_an_output_that_was_read_once_is_not_needed_again(self, world: World) -> None:
        run, first = audited(world, "one", FILES_OF_TWO, {"Observation/o2": rejected()})
        world.s3.delete("work", [item.key for item in world.s3.list_objects(S3Uri("work", "output/"))])
        assert audit(run, Store()) == first

    def test_a_complete_output_is_not_changed_by_later_objects_in_its_folder(self, world: World) -> None:
        run, first = audited(world, "one", {"a.ndjson": [P1]})
        (line,) = [item for item in world.s3.list_objects(S3Uri("work", "output/")) if "SUCCESS" in item.key]
        world.s3.put(S3Uri("work", line.key.replace("SUCCESS", "FAILURE")), world.s3.get(S3Uri("work", line.key)))
        assert audit(run, Store()) == first

    def test_a_late_output_is_found_by_the_next_audit(self, world: World) -> None:
        run = delivered(world, "one", FILES_OF_TWO, audit=NO_READ_BACK)
        ended(world, run, dict.fromkeys(ALL), written=None)
        audit(run, Store())
        assert {reason for _, reason in words(run).values()} == {"manifest_missing"}
        ended(world, run)
        assert audit(run, Store()).balanced
        assert words(run) == dict.fromkeys(ALL, RELEASED)


class TestReadBack:
    def held(self, *resources: dict[str, Any]) -> Store:
        return Store({f"{one['resourceType']}/{one['id']}": one for one in resources})

    def test_a_resource_that_the_store_does_not_hold_holds_its_patient(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("airlock.clinical.read_back.TRIES", 1)
        run = delivered(world, "one", FILES_OF_TWO)
        ended(world, run)
        assert audit(run, self.held(P1, P2, O2, ORG)).balanced
        assert words(run) == dict.fromkeys(ALL, RELEASED) | {
            "Observation/o1": ("held", "read_back_mismatch"),
            "Patient/p1": ("held", "patient_held"),
        }

    def test_a_store_that_holds_the_sent_resources(self, world: World) -> None:
        run = delivered(world, "one", FILES_OF_TWO)
        ended(world, run)
        reader = self.held(P1, P2, O1, O2, ORG)
        audit(run, reader)
        assert words(run) == dict.fromkeys(ALL, RELEASED)
        assert sorted(reader.asked) == sorted(ALL)


class TestBrokenOff:
    def test_before_buffer_there_is_a_report_of_nothing(self, world: World) -> None:
        run = delivered(world, "other", {})
        empty = replace(run, run_id="one")
        found = audit(empty, Store())
        assert (found.report["arrivals"], found.balanced) == (0, False)
        assert "buffer has not frozen a delivery" in found.report["problems"][0]

    def test_a_file_of_a_shard_that_was_not_parsed_is_open(self, world: World) -> None:
        run = delivered(world, "one", FILES_OF_TWO, audit=NO_READ_BACK)
        ended(world, run)
        for name, rows in (("files/0000", FILES), ("verdicts", VERDICTS)):
            kept = run.workspace.read(name, rows)
            gone = run.workspace.read("arrivals/0000", ARRIVALS)["arrival_id"][1]
            run.workspace.write(name, rows, kept.filter(pl.col("arrival_id") != gone))
        for batch in find_batches(run):
            rows_ = run.workspace.read(f"batches/{batch.batch_id}", BATCHES)
            run.workspace.write(f"batches/{batch.batch_id}", BATCHES, rows_.filter(pl.col("arrival_id") != gone))
        found = audit(run, Store())
        assert (found.open_arrivals, found.report["problems"]) == (1, [])
        assert words(run)["b.ndjson:"] == ("failed", "undecided")
        assert count_arrivals(world.ledger, "records") == {"claimed": 1, "held": 1}

    @pytest.mark.parametrize(("started", "reason"), [(False, "job_not_started"), (True, "job_unfinished")])
    def test_before_a_job_ended_its_files_stay_open_and_its_resources_claimed(
        self, world: World, started: bool, reason: str
    ) -> None:
        run = delivered(world, "one", {"a.ndjson": [P1, O1], "bad.ndjson": ["no JSON"]}, audit=NO_READ_BACK)
        (batch,) = find_batches(run)
        if started:
            run.ledger.record_job(Job(batch.batch_id, 0, run.key, "token", "job-1", input_uri=batch.input_uri))
        found = audit(run, Store())
        assert (found.balanced, found.open_arrivals, len(found.report["jobs"])) == (True, 1, started)
        assert words(run)["Patient/p1"] == ("failed", reason)
        assert count_arrivals(world.ledger, "records") == {"claimed": 1, "quarantined": 1}
        other = delivered(world, "two", {"a.ndjson": [P1]})
        assert other.workspace.read("verdicts", VERDICTS)["reason"].to_list() == ["instance_claimed"]
        record = world.ledger.run(run.key)
        assert record is not None
        assert record.state == "open"

    def test_once_the_job_has_ended_the_audit_comes_to_an_end(self, world: World) -> None:
        run = delivered(world, "one", FILES_OF_TWO, audit=NO_READ_BACK)
        audit(run, Store())
        ended(world, run)
        assert audit(run, Store()).open_arrivals == 0
        assert words(run) == dict.fromkeys(ALL, RELEASED)

    def test_books_that_do_not_balance_hold_everything_and_settle_nothing(self, world: World) -> None:
        run = delivered(world, "one", FILES_OF_TWO, audit=NO_READ_BACK)
        ended(world, run)
        run.workspace.write("verdicts", VERDICTS, run.workspace.read("verdicts", VERDICTS)[1:])
        found = audit(run, Store())
        assert not found.balanced
        assert "outcomes: 1 units do not belong there" in found.report["problems"]
        assert set(words(run).values()) == {("held", "run_unbalanced")}
        assert contracts(run) == {}
        assert count_arrivals(world.ledger, "records") == {"claimed": 2}


class TestDeliveries:
    def test_a_later_delivery_adds_to_the_contract(self, world: World) -> None:
        audited(world, "one", {"a.ndjson": [P1]})
        run, _ = audited(world, "two", {"b.ndjson": [O1]})
        assert contracts(run)["Patient/p1"].revision == 2
        assert references(run, "Patient/p1") == ["Observation/o1", "Patient/p1"]
        assert contracts(run)["Patient/p1"].subject_key == subject_key(STORE, "Patient/p1")

    def test_the_same_delivery_again_changes_nothing(self, world: World) -> None:
        audited(world, "one", {"a.ndjson": [P1, O1]})
        run, found = audited(world, "two", {"again.ndjson": [P1, O1]})
        assert found.report["dispositions"] == {"duplicate": 2}
        assert contracts(run) == {}
        assert count_arrivals(world.ledger, "records") == {"released": 1, "duplicate": 1}

    def test_new_content_is_the_next_revision_and_an_older_run_does_not_take_it_back(self, world: World) -> None:
        one, _ = audited(world, "one", {"a.ndjson": [P1, O1]})
        two, _ = audited(world, "two", {"a.ndjson": [observation("o1", "p1", status="amended")]})
        latest = contracts(two)["Patient/p1"]
        assert latest.revision == 2
        audit(one, Store())
        assert contracts(one)["Patient/p1"] == latest
        assert set(words(one).values()) == {RELEASED}
        assert stored(world, "Observation/o1") == {"Observation/o1": two.key}

    def test_a_rejected_resource_may_come_again(self, world: World) -> None:
        audited(world, "one", {"a.ndjson": [P1, O1]}, {"Observation/o1": rejected()})
        run, _ = audited(world, "two", {"b.ndjson": [O1]})
        assert words(run) == {"Observation/o1": RELEASED}

    def test_a_file_with_a_resource_that_another_run_claims_comes_again(self, world: World) -> None:
        claims = delivered(world, "one", {"a.ndjson": [P1]}, audit=NO_READ_BACK)
        run, _ = audited(world, "two", {"b.ndjson": [P1, ORG]})
        assert words(run) == {"Patient/p1": ("quarantined", "instance_claimed"), "Organization/g1": RELEASED}
        ended(world, claims, {"Patient/p1": rejected()})
        audit(claims, Store())
        again = replace(run, run_id="three")
        world.ledger.open_run(again.key, "records", "three", None)
        listing = run.workspace.read("arrivals/0000", ARRIVALS)
        world.ledger.claim("records", again.key, listing)
        assert world.ledger.held_total("records", again.key)[0] == 1

    def test_a_duplicate_in_another_file_fails_with_the_resource_that_was_not_imported(self, world: World) -> None:
        run, _ = audited(world, "one", {"a.ndjson": [P1], "b.ndjson": [P1]}, {"Patient/p1": rejected()})
        assert set(words(run).values()) == {("failed", "rejected")}
        assert count_arrivals(world.ledger, "records") == {"failed": 2}


class TestReview:
    def test_converted_data_is_held_until_it_is_approved(self, world: World) -> None:
        run = delivered(world, "one", {"a.ndjson": [P1, O1]}, **CCDA, audit=NO_READ_BACK)
        ended(world, run)
        audit(run, Store())
        whole = run.workspace.read("outcomes", OUTCOMES)
        other = whole.with_columns(content_digest=pl.lit("of other content"))
        for approved in (None, OUTCOMES.to_frame(), whole.head(1), other):
            assert audit(run, Store(), None if approved is None else [approved]).balanced
            assert set(words(run).values()) == {("held", "awaiting_review")}
            assert contracts(run) == {}
        audit(run, Store(), [whole])
        assert set(words(run).values()) == {RELEASED}
        assert references(run, "Patient/p1") == ["Observation/o1", "Patient/p1"]

    def test_other_data_needs_no_approval(self, world: World) -> None:
        run, _ = audited(world, "one", {"a.ndjson": [P1]})
        assert words(run) == {"Patient/p1": RELEASED}


class TestAccountBatches:
    def test_it_stands_by_itself(self, world: World) -> None:
        run = delivered(world, "one", FILES_OF_TWO)
        ended(world, run, {"Observation/o2": rejected()})
        with ExitStack() as stack:
            accounts = account_batches(run, stack, JobReading(run.pipeline.healthlake, wait_seconds=0))
            assert all(rows.schema == OUTCOMES for rows in accounts.outcomes)
            assert accounts.outcomes.rows == 5
            assert accounts.suspect == []
            assert [rows["resource_id"].to_list() for rows in accounts.operation_outcomes] == [["o2"]]

    def test_a_run_without_batches_has_none(self, world: World) -> None:
        run = delivered(world, "one", {})
        with ExitStack() as stack:
            accounts = account_batches(run, stack, JobReading(run.pipeline.healthlake, wait_seconds=0))
            assert (accounts.outcomes.rows, accounts.jobs, accounts.suspect) == (0, [], [])


class TestWhatTheProofIsOf:
    @pytest.mark.parametrize(
        ("made", "says"),
        [({"DatastoreId": "9" * 32}, "DatastoreId"), ({"ValidationLevel": "minimal"}, "ValidationLevel")],
    )
    def test_a_job_of_another_store_or_level_proves_nothing(self, world: World, made: Any, says: str) -> None:
        run = delivered(world, "one", FILES_OF_TWO, audit=NO_READ_BACK)
        ended(world, run)
        for batch in find_batches(run):
            content = {"DatastoreId": STORE, "ValidationLevel": "strict"} | made
            run.workspace.write_json(f"made/{batch.batch_id}.json", content)
        found = audit(run, Store())
        assert not found.balanced
        assert says in found.report["problems"][0]
        assert {word for word, _ in words(run).values()} == {"held"}

    def test_a_resource_that_a_later_run_imported_is_not_compared(self, world: World) -> None:
        first = delivered(world, "one", {"a.ndjson": [P1]})
        ended(world, first)
        store = Store({"Patient/p1": P1})
        audit(first, store)
        changed = P1 | {"active": False}
        second = delivered(world, "two", {"a.ndjson": [changed]})
        ended(world, second)
        audit(second, Store({"Patient/p1": changed}))
        first.s3.delete("work", [item.key for item in first.s3.list_objects(S3Uri("work", "staging/"))])
        first.s3.delete("work", [first.workspace.root.join("read-back.json").key])
        audit(first, Store({"Patient/p1": changed}))
        assert words(first)["Patient/p1"] == RELEASED

    def test_a_sample_that_was_proven_is_not_read_back_again(self, world: World) -> None:
        run = delivered(world, "one", {"a.ndjson": [P1]})
        ended(world, run)
        audit(run, Store({"Patient/p1": P1}))
        run.s3.delete("work", [item.key for item in run.s3.list_objects(S3Uri("work", "staging/"))])
        audit(run, Store())
        assert words(run)["Patient/p1"] == RELEASED
