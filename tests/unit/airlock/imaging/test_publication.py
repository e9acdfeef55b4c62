"""Publication: what of the released studies is sent as FHIR, and which of them are proven in HealthLake afterwards."""

from __future__ import annotations

import json
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest

from airlock.clinical.accounts import JobReading, account_batches
from airlock.clinical.records import BATCHES, GATES
from airlock.imaging.contracts import FhirReferences
from airlock.imaging.fhir.publishing import read_publishing
from airlock.imaging.fhir.study import name_resources
from airlock.imaging.publication import FOLDER, PublicationBusyError, audit, end_claims, find_published, normalize
from airlock.ledger import Job
from airlock.ledger.outbox import MESSAGES
from airlock.records import CONTRACTS, OUTCOMES
from airlock.run import Run
from airlock.stages.batches import find_batches
from airlock.storage.s3uri import S3Uri
from tests.unit.airlock.clinical.books import SECTIONS, Store, ended, rejected, warned
from tests.unit.airlock.imaging.fhir.studies import study
from tests.unit.airlock.world import dicom, frame, outcomes, pipeline, read_arrivals

if TYPE_CHECKING:
    from airlock.imaging.contracts import StudyContract
    from tests.unit.airlock.world import World

HEAD = study(StudyInstanceUID="1.2.1", AccessionNumber="A1")
CHEST = study(StudyInstanceUID="1.2.2", AccessionNumber="A2")  # of the same patient
OTHER = study(StudyInstanceUID="1.2.3", PatientID="P2")
LINE = pipeline(healthlake=SECTIONS["healthlake"], healthimaging={"region_name": "eu-west-1"})
NAMED = name_resources(HEAD, read_publishing(LINE, LINE.healthlake))  # type: ignore[arg-type]  # it has a healthlake section
PATIENT, STUDY = NAMED["Patient"], NAMED["ImagingStudy"]


def name_of(contract: StudyContract) -> FhirReferences:
    return FhirReferences(**name_resources(contract, read_publishing(LINE, LINE.healthlake)))  # type: ignore[arg-type]


def released(world: World, *contracts: StudyContract, name: str = "one", line: Any = LINE) -> Run:
    """Return a run whose imaging audit has found these studies fit to be published."""
    run = Run(line, name, None, S3Uri.parse(line.source.uri), world.s3, world.ledger)
    world.buffered(run, *files_of(name, HEAD, CHEST, OTHER, *contracts))
    publishable(run, *contracts)
    return run


def files_of(name: str, *contracts: StudyContract) -> list[dict[str, Any]]:
    """Return one file of each study."""
    studies = dict.fromkeys(each.StudyInstanceUID for each in contracts)
    return [dicom(f"{name}-{uid}", StudyInstanceUID=uid) for uid in studies]


def publishable(run: Run, *contracts: StudyContract) -> None:
    """Write what the imaging audit leaves of these studies; a later one may find others than the first."""
    rows = [(each.StudyInstanceUID, each.study_key, 1, "digest", each.to_json()) for each in contracts]
    run.workspace.write("publishable", CONTRACTS, pl.DataFrame(rows, schema=CONTRACTS, orient="row"))
    run.workspace.write("outcomes", OUTCOMES, outcomes(*files_of(run.run_id, *contracts)))


def routed(world: World, run: Run, contract: StudyContract) -> None:
    """Tell the ledger that a run has released a study of `PATIENT`."""
    known = contract.model_copy(update={"fhir": FhirReferences(**NAMED), "revision": 1})
    row = (known.StudyInstanceUID, known.study_key, 1, "digest", known.to_json())
    rows = pl.DataFrame([row], schema=CONTRACTS, orient="row")
    world.ledger.revise_contracts(known.datastore_id, run.key, rows["subject"], lambda _: rows)
    gate = {"subject": known.StudyInstanceUID, "subject_key": known.study_key, "gate": "release"}
    world.ledger.record_gates(known.datastore_id, run.key, frame([gate], GATES))


def revised(world: World, run: Run, revision: int, description: str, *, is_released: bool) -> None:
    """Tell the ledger that a run has revised `HEAD`, and maybe released that."""
    known = HEAD.model_copy(update={"StudyDescription": description, "revision": revision})
    row = (known.StudyInstanceUID, known.study_key, revision, f"digest {revision}", known.to_json())
    rows = pl.DataFrame([row], schema=CONTRACTS, orient="row")
    world.ledger.revise_contracts(known.datastore_id, run.key, rows["subject"], lambda _: rows)
    if is_released:
        message = pl.DataFrame([(known.study_key, revision, f"digest {revision}", "uri")], MESSAGES, orient="row")
        world.ledger.record_releases(run.pipeline.name, run.key, known.datastore_id, message)


def sent(run: Run) -> list[str]:
    """Return what the run's batches hold, as Type/id."""
    leg = run.within(FOLDER)
    frames = [leg.workspace.read(f"batches/{batch.batch_id}", BATCHES) for batch in find_batches(leg)]
    return [f"{row['resource_type']}/{row['resource_id']}" for rows in frames for row in rows.iter_rows(named=True)]


def bodies(run: Run) -> dict[str, dict[str, Any]]:
    """Return the resources in the import files."""
    found = {}
    for batch in find_batches(run.within(FOLDER)):
        for item in run.s3.list_objects(S3Uri.parse(batch.input_uri)):
            for line in run.s3.get(S3Uri("work", item.key)).splitlines():
                resource = json.loads(line)
                found[f"{resource['resourceType']}/{resource['id']}"] = resource
    return found


def submitted(run: Run) -> None:
    """Begin the job of each batch that has none; how it ends is not known yet."""
    for batch in find_batches(run.within(FOLDER)):
        if run.ledger.job(batch.batch_id) is None:
            run.ledger.record_job(Job(batch.batch_id, 0, run.key, "token", "job"))


def published(world: World, run: Run, lines: Any = None, **more: Any) -> dict[str, int]:
    """Publish, and settle: the jobs say what is told of each resource, and success otherwise."""
    normalize(run)
    ended(world, run.within(FOLDER), lines, **more)  # type: ignore[arg-type]  # it needs of a pipeline its healthlake
    counts = audit(run)
    end_claims(run)
    return counts


def proven(run: Run) -> set[str]:
    """Return the studies that count as published, by their StudyInstanceUID."""
    keys = {each.study_key: each.StudyInstanceUID for each in (HEAD, CHEST, OTHER)}
    return {keys[key] for key in find_published(run)}


class TestSending:
    def test_a_study_is_sent_with_all_that_belongs_to_it(self, world: World) -> None:
        run = released(world, HEAD)
        normalize(run)
        assert sorted(sent(run)) == sorted([PATIENT, STUDY, *NAMED["Endpoint"]])
        assert bodies(run)[STUDY]["subject"]["reference"] == PATIENT

    def test_a_patient_of_two_studies_is_sent_once(self, world: World) -> None:
        run = released(world, HEAD, CHEST, OTHER)
        normalize(run)
        kinds = [name.partition("/")[0] for name in sent(run)]
        assert (kinds.count("Patient"), kinds.count("ImagingStudy"), len(set(sent(run)))) == (2, 3, len(kinds))

    def test_files_are_of_one_type_and_lie_in_the_runs_own_folder(self, world: World) -> None:
        run = released(world, HEAD, OTHER)
        (batch,) = normalize(run)
        names = [key.rpartition("/")[2] for key in world.keys(batch.input_uri)]
        assert names == ["Endpoint.00000.ndjson", "ImagingStudy.00000.ndjson", "Patient.00000.ndjson"]
        assert "/fhir/" in str(run.within(FOLDER).workspace.root)

    def test_a_resource_in_the_store_with_this_content_is_not_sent_again(self, world: World) -> None:
        published(world, released(world, HEAD))
        run = released(world, HEAD, name="two")
        assert normalize(run) == []
        assert audit(run) == {"published": 1, "not_published": 0}

    def test_only_changed_resources_are_sent(self, world: World) -> None:
        published(world, released(world, HEAD))
        run = released(world, study(StudyInstanceUID="1.2.1", StudyDescription="Head, again"), name="two")
        normalize(run)
        assert sent(run) == [STUDY]

    def test_a_patient_tells_of_the_studies_released_before(self, world: World) -> None:
        first = released(world, HEAD)
        routed(world, first, HEAD)
        published(world, first)
        assert bodies(first)[PATIENT]["gender"] == "female"
        later = study(StudyInstanceUID="1.2.2", PatientSex="M")
        run = released(world, later.model_copy(update={"fhir": FhirReferences(**NAMED)}), name="two")
        normalize(run)
        assert bodies(run)[PATIENT]["gender"] == "male"

    def test_a_patient_tells_of_a_newer_study_that_another_run_is_about_to_release(self, world: World) -> None:
        newer = study(StudyInstanceUID="1.2.2", StudyDate="20301231", PatientName="New^Name")
        first = released(world, newer)
        known = newer.model_copy(update={"fhir": name_of(newer), "revision": 1})
        row = (known.StudyInstanceUID, known.study_key, 1, "digest", known.to_json())
        rows = pl.DataFrame([row], schema=CONTRACTS, orient="row")
        world.ledger.revise_contracts(known.datastore_id, first.key, rows["subject"], lambda _: rows)
        published(world, first)
        older = HEAD.model_copy(update={"fhir": name_of(HEAD)})
        run = released(world, older, name="two")
        normalize(run)
        assert PATIENT not in sent(run), "it is as the newer study has it"

    def test_what_another_run_has_released_since_the_audit_is_sent(self, world: World) -> None:
        run, other = released(world, HEAD), released(world, name="two")
        revised(world, other, 2, "Released", is_released=True)
        normalize(run)
        assert bodies(run)[STUDY]["description"] == "Released"

    def test_what_another_run_holds_is_not_sent(self, world: World) -> None:
        run, other = released(world, HEAD), released(world, name="two")
        revised(world, other, 2, "Held", is_released=False)
        normalize(run)
        assert bodies(run)[STUDY]["description"] == HEAD.StudyDescription

    def test_what_was_released_before_another_run_held_it_is_left_to_its_run(self, world: World) -> None:
        run, other, third = released(world, HEAD, OTHER), released(world, name="two"), released(world, name="three")
        revised(world, other, 2, "Released", is_released=True)
        revised(world, third, 3, "Held", is_released=False)
        normalize(run)
        assert STUDY not in sent(run)
        assert audit(run)["not_published"] == 2, "no job has run"

    def test_nothing_released_sends_nothing(self, world: World) -> None:
        run = released(world)
        assert normalize(run) == []
        assert audit(run) == {"published": 0, "not_published": 0}

    def test_a_resource_that_another_run_is_publishing_makes_the_task_fail(self, world: World) -> None:
        first, run = released(world, HEAD), released(world, CHEST, name="two")
        normalize(first)
        with pytest.raises(PublicationBusyError, match=r"1 resources .* python -m airlock\.ledger release") as caught:
            normalize(run)
        assert f"--pipeline nightly --run {first.key}" in str(caught.value)
        assert "P1" not in str(caught.value)
        assert find_batches(run.within(FOLDER)) == []

    def test_a_run_that_has_to_wait_holds_nothing_itself(self, world: World) -> None:
        normalize(released(world, HEAD))
        with pytest.raises(PublicationBusyError):
            normalize(released(world, CHEST, OTHER, name="two"))
        run = released(world, OTHER, name="three")
        normalize(run)
        assert len(sent(run)) == 4

    def test_its_resources_are_free_once_that_run_is_released(self, world: World) -> None:
        first, run = released(world, HEAD), released(world, CHEST, name="two")
        world.ledger.record_job(Job("images", 0, first.key, "token", "job", "COMPLETED"))
        normalize(first)
        with pytest.raises(PublicationBusyError):
            normalize(run)
        world.ledger.release_resources("nightly", first.key)
        normalize(run)
        assert PATIENT in sent(run)

    def test_until_that_run_has_ended(self, world: World) -> None:
        first, run = released(world, HEAD), released(world, CHEST, name="two")
        normalize(first)
        with pytest.raises(PublicationBusyError):
            normalize(run)
        published(world, first)
        normalize(run)
        assert PATIENT not in sent(run)

    def test_a_pipeline_without_a_data_store_publishes_nothing(self, world: World) -> None:
        with pytest.raises(ValueError, match="pipeline 'nightly' publishes nothing: it has no healthlake section"):
            normalize(released(world, HEAD, line=pipeline()))


class TestProof:
    def test_a_study_of_which_all_is_in_is_published(self, world: World) -> None:
        run = released(world, HEAD, CHEST, OTHER)
        assert find_published(run).is_empty()
        assert published(world, run) == {"published": 3, "not_published": 0}
        assert proven(run) == {"1.2.1", "1.2.2", "1.2.3"}

    @pytest.mark.parametrize(
        ("name", "line"),
        [
            (STUDY, rejected()),
            (STUDY, rejected(500)),
            (STUDY, warned()),
            (STUDY, None),
            (NAMED["Endpoint"][0], rejected()),
            (NAMED["Endpoint"][1], None),
        ],
    )
    def test_one_resource_that_is_not_keeps_its_study_back(self, world: World, name: str, line: Any) -> None:
        run = released(world, HEAD, OTHER)
        published(world, run, {name: line})
        assert "1.2.1" not in proven(run)

    def test_a_patient_that_is_not_keeps_back_all_studies_that_have_it(self, world: World) -> None:
        run = released(world, HEAD, CHEST, OTHER)
        assert published(world, run, {PATIENT: rejected()}) == {"published": 1, "not_published": 2}
        assert proven(run) == {"1.2.3"}

    def test_counts_that_contradict_the_lines_prove_nothing(self, world: World) -> None:
        run = released(world, HEAD)
        counts = {"TotalNumberOfScannedFiles": 99, "TotalNumberOfResourcesScanned": 99}
        assert published(world, run, progress=counts) == {"published": 0, "not_published": 1}

    @pytest.mark.parametrize("status", ["COMPLETED", "COMPLETED_WITH_ERRORS"])
    def test_a_jobs_status_proves_nothing(self, world: World, status: str) -> None:
        run = released(world, HEAD)
        published(world, run, {PATIENT: None}, status=status)
        assert proven(run) == set()

    def test_without_a_job_nothing_is(self, world: World) -> None:
        run = released(world, HEAD)
        normalize(run)
        assert audit(run) == {"published": 0, "not_published": 1}

    def test_a_resource_that_was_not_imported_is_sent_by_the_next_run(self, world: World) -> None:
        published(world, released(world, HEAD), {PATIENT: rejected()})
        run = released(world, HEAD, name="two")
        normalize(run)
        assert sent(run) == [PATIENT]
        assert published(world, run) == {"published": 1, "not_published": 0}


class TestForeignPatients:
    def test_a_patient_that_a_file_has_brought_is_not_written(self, world: World) -> None:
        bring = Run(LINE, "files", None, S3Uri.parse(LINE.source.uri), world.s3, world.ledger)
        world.buffered(bring, dicom("file"))
        arrival_id = read_arrivals(bring)["arrival_id"].item()
        kind, name = PATIENT.split("/")
        claim = {"arrival_id": arrival_id, "resource_type": kind, "resource_id": name, "content_digest": "d"}
        rows = pl.DataFrame([claim | {"clock": "place=a last_modified=1", "patient": PATIENT}])
        store = SECTIONS["healthlake"]["datastore_id"]
        world.ledger.claim_resources(store, LINE.name, bring.key, rows)
        world.ledger.record_imported_resources(store, bring.key, rows.with_columns(batch_id=pl.lit("b")))
        run = released(world, HEAD)
        assert published(world, run) == {"published": 1, "not_published": 0}
        assert PATIENT not in sent(run)
        assert STUDY in sent(run)

    def test_nor_one_that_the_ledger_does_not_know(self, world: World) -> None:
        run = released(world, HEAD)
        normalize(run, Store({PATIENT: {"resourceType": "Patient"}}))
        assert PATIENT not in sent(run)

    def test_airlocks_own_is_written_again_although_its_import_was_not_proven(self, world: World) -> None:
        published(world, released(world, HEAD), {PATIENT: None})
        run = released(world, study(StudyInstanceUID="1.2.2", PatientName="Roe^Jane"), name="two")
        normalize(run, Store({PATIENT: {"resourceType": "Patient"}}))
        assert PATIENT in sent(run)


class TestReruns:
    def test_the_same_again_gives_the_same_batches_and_bytes(self, world: World) -> None:
        run = released(world, HEAD, CHEST)
        first = normalize(run), bodies(run)
        assert (normalize(run), bodies(run)) == first

    def test_the_order_of_the_studies_decides_nothing(self, world: World) -> None:
        run = released(world, HEAD, CHEST, OTHER)
        first = normalize(run)
        rows = run.workspace.read("publishable", CONTRACTS).reverse()
        run.workspace.write("publishable", CONTRACTS, rows)
        assert normalize(run) == first

    def test_once_a_job_was_begun_the_files_stand(self, world: World) -> None:
        run = released(world, HEAD)
        published(world, run)
        first = find_batches(run.within(FOLDER))
        run.workspace.write("publishable", CONTRACTS, run.workspace.read("publishable", CONTRACTS).clear())
        assert normalize(run) == first
        assert sent(run)

    def test_auditing_again_gives_the_same(self, world: World) -> None:
        run = released(world, HEAD, OTHER)
        first = published(world, run, {STUDY: rejected()})
        assert audit(run) == first
        assert proven(run) == {"1.2.3"}

    def test_a_later_run_that_changes_a_resource_unsays_nothing(self, world: World) -> None:
        first = released(world, HEAD)
        published(world, first)
        published(world, released(world, study(StudyInstanceUID="1.2.1", PatientName="Roe^Jane"), name="two"))
        assert audit(first) == {"published": 1, "not_published": 0}

    def test_a_patient_that_a_later_run_changes_unsays_nothing_of_a_study_that_found_it_there(
        self, world: World
    ) -> None:
        published(world, released(world, HEAD))
        second = released(world, CHEST, name="two")
        published(world, second)
        assert PATIENT not in sent(second)
        later = study(StudyInstanceUID="1.2.1", StudyDate="20301231", PatientName="New^Name")
        third = released(world, later, name="three")
        published(world, third)
        assert PATIENT in sent(third)
        assert audit(second) == audit(second) == {"published": 1, "not_published": 0}
        publishable(second)
        audit(second)
        assert proven(second) == {"1.2.2"}, "even if an audit in between did not find it"

    def test_a_study_released_later_does_not_make_an_older_run_send_the_patient_again(self, world: World) -> None:
        first = released(world, HEAD.model_copy(update={"fhir": FhirReferences(**NAMED)}))
        published(world, first)
        later = study(StudyInstanceUID="1.2.2", StudyDate="20301231", PatientName="New^Name")
        routed(world, released(world, later, name="two"), later)
        assert normalize(first) == find_batches(first.within(FOLDER))
        assert sent(first).count(PATIENT) == 1


class TestFurtherBatches:
    """A study may become publishable after the first jobs were begun: its images came in late."""

    def test_it_is_sent_alone_in_a_batch_of_its_own(self, world: World) -> None:
        run = released(world, HEAD)
        published(world, run)
        first, before = find_batches(run.within(FOLDER)), bodies(run)
        publishable(run, HEAD, OTHER)
        batches = normalize(run)
        assert batches[:-1] == first == find_batches(run.within(FOLDER))[:-1]
        assert len(sent(run)) == len(set(sent(run))) == 8
        assert before.items() <= bodies(run).items()

    def test_and_it_is_published_with_the_others(self, world: World) -> None:
        run = released(world, HEAD)
        published(world, run)
        publishable(run, HEAD, OTHER)
        assert published(world, run) == {"published": 2, "not_published": 0}
        assert normalize(run) == find_batches(run.within(FOLDER))

    def test_a_failed_resource_of_the_first_batch_is_not_sent_again_unasked(self, world: World) -> None:
        run = released(world, HEAD)
        published(world, run, {STUDY: rejected()})
        publishable(run, HEAD, OTHER)
        normalize(run)
        assert sent(run).count(STUDY) == 1
        assert published(world, run, {STUDY: rejected()}) == {"published": 1, "not_published": 1}

    def test_a_patient_that_reads_otherwise_by_then_is_sent_again_and_the_later_one_counts(self, world: World) -> None:
        run, later = released(world, HEAD), study(StudyInstanceUID="1.2.2", StudyDate="20301231", PatientName="N^N")
        published(world, run)
        publishable(run, HEAD, later)
        normalize(run)
        assert sent(run).count(PATIENT) == 2
        assert published(world, run) == {"published": 2, "not_published": 0}
        again = released(world, HEAD, later, name="two")
        assert normalize(again) == []

    def test_one_that_is_refused_then_leaves_the_earlier_one_in_the_store(self, world: World) -> None:
        run, later = released(world, HEAD), study(StudyInstanceUID="1.2.2", StudyDate="20301231", PatientName="N^N")
        published(world, run)
        publishable(run, HEAD, later)
        assert published(world, run, {PATIENT: rejected()}) == {"published": 1, "not_published": 1}
        assert proven(run) == {"1.2.1"}, "what the first audit saw of the first job stands"
        assert normalize(released(world, HEAD, name="two")) == []

    def test_also_if_both_are_audited_at_once(self, world: World) -> None:
        published(world, released(world, study(StudyInstanceUID="1.2.1", PatientName="Old^Name"), name="before"))
        run, later = released(world, HEAD), study(StudyInstanceUID="1.2.2", StudyDate="20301231", PatientName="N^N")
        normalize(run)
        ended(world, run.within(FOLDER))  # type: ignore[arg-type]  # as above
        with ExitStack() as stack:
            # By an audit that broke off.
            account_batches(run.within(FOLDER), stack, JobReading(run.pipeline.healthlake, wait_seconds=0))
        publishable(run, HEAD, later)
        published(world, run, {PATIENT: rejected()})
        again = released(world, HEAD, name="two")
        assert normalize(again) == [], "the ledger knows the first batch's Patient"

    def test_a_batch_whose_job_was_never_begun_is_planned_anew(self, world: World) -> None:
        run = released(world, HEAD)
        (never,) = normalize(run)
        publishable(run, HEAD, OTHER)
        (batch,) = normalize(run)
        assert batch.batch_id != never.batch_id
        assert len(sent(run)) == 8


class TestClaims:
    def test_a_resource_that_a_job_may_still_import_stays_claimed(self, world: World) -> None:
        run = released(world, HEAD)
        normalize(run)
        submitted(run)
        assert audit(run) == {"published": 0, "not_published": 1}
        with pytest.raises(PublicationBusyError):
            normalize(released(world, CHEST, name="two"))

    def test_what_is_published_stays_claimed_until_its_studies_are_settled(self, world: World) -> None:
        later = study(StudyInstanceUID="1.2.1", StudyDate="20301231", PatientName="New^Name")
        run, waiting = released(world, HEAD), released(world, later, name="two")
        normalize(run)
        ended(world, run.within(FOLDER))  # type: ignore[arg-type]  # it needs of a pipeline its healthlake
        audit(run)
        with pytest.raises(PublicationBusyError):
            normalize(waiting)
        end_claims(run)
        normalize(waiting)
        assert PATIENT in sent(waiting)

    def test_also_while_more_is_planned(self, world: World) -> None:
        run = released(world, HEAD)
        normalize(run)
        submitted(run)
        audit(run)
        publishable(run, HEAD, OTHER)
        normalize(run)
        with pytest.raises(PublicationBusyError):
            normalize(released(world, CHEST, name="two"))

    def test_and_while_more_has_to_wait(self, world: World) -> None:
        run = released(world, HEAD)
        normalize(run)
        submitted(run)
        normalize(released(world, OTHER, name="two"))
        publishable(run, HEAD, OTHER)
        with pytest.raises(PublicationBusyError):
            normalize(run)
        with pytest.raises(PublicationBusyError):
            normalize(released(world, CHEST, name="three"))

    def test_a_further_job_that_may_still_bring_a_resource_keeps_it_claimed(self, world: World) -> None:
        run, later = released(world, HEAD), study(StudyInstanceUID="1.2.2", StudyDate="20301231", PatientName="N^N")
        published(world, run)
        publishable(run, HEAD, later)
        normalize(run)
        submitted(run)
        assert audit(run) == {"published": 1, "not_published": 1}
        with pytest.raises(PublicationBusyError):
            normalize(released(world, study(StudyInstanceUID="1.2.4", PatientName="M^M"), name="two"))

    def test_a_resource_on_its_way_stays_claimed_though_its_next_content_has_to_wait(self, world: World) -> None:
        run, later = released(world, HEAD), study(StudyInstanceUID="1.2.2", StudyDate="20301231", PatientName="N^N")
        normalize(run)
        submitted(run)
        normalize(released(world, OTHER, name="two"))
        publishable(run, HEAD, later, OTHER)
        with pytest.raises(PublicationBusyError):
            normalize(run)
        with pytest.raises(PublicationBusyError):
            normalize(released(world, study(StudyInstanceUID="1.2.4"), name="three"))

    def test_an_imported_resource_may_be_changed_by_another_run_while_more_is_planned(self, world: World) -> None:
        run = released(world, HEAD)
        published(world, run)
        later = study(StudyInstanceUID="1.2.1", StudyDate="20301231", PatientName="New^Name")
        normalize(released(world, later, name="two"))
        publishable(run, HEAD, OTHER)
        normalize(run)
        assert len(sent(run)) == 8

    @pytest.mark.parametrize("line", [rejected(), rejected(500), None])
    def test_a_resource_that_was_not_imported_is_free_for_the_next_run(self, world: World, line: Any) -> None:
        published(world, released(world, HEAD), {PATIENT: line})
        run = released(world, CHEST, name="two")
        normalize(run)
        assert PATIENT in sent(run)

    def test_a_resource_that_may_be_overwritten_is_sent_again(self, world: World) -> None:
        published(world, released(world, HEAD))
        later = study(StudyInstanceUID="1.2.1", StudyDate="20301231", PatientName="New^Name")
        published(world, released(world, later, name="two"), {PATIENT: None})  # of which nobody knows what became
        run = released(world, HEAD, name="three")
        normalize(run)
        assert PATIENT in sent(run)
