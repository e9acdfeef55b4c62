"""Publication: what of the released studies is sent as FHIR, and which of them are proven in HealthLake afterwards."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest

from airlock.clinical.records import BATCHES, GATES
from airlock.contracts import FhirReferences
from airlock.fhir.publishing import publishing
from airlock.fhir.study import references
from airlock.normalize import find_batches
from airlock.publication import FOLDER, PublicationBusyError, audit, normalize, published_studies
from airlock.records import CONTRACTS, OUTCOMES
from airlock.run import Run
from airlock.s3uri import S3Uri
from tests.unit.airlock.clinical.books import SECTIONS, ended, rejected, warned
from tests.unit.airlock.fhir.studies import study
from tests.unit.airlock.world import dicom, frame, outcomes, pipeline

if TYPE_CHECKING:
    from airlock.contracts import StudyContract
    from tests.unit.airlock.world import World

HEAD = study(StudyInstanceUID="1.2.1", AccessionNumber="A1")
CHEST = study(StudyInstanceUID="1.2.2", AccessionNumber="A2")  # of the same patient
OTHER = study(StudyInstanceUID="1.2.3", PatientID="P2")
LINE = pipeline(healthlake=SECTIONS["healthlake"])
NAMED = references(HEAD, publishing(LINE, LINE.healthlake))  # type: ignore[arg-type]  # it has a healthlake section
PATIENT, STUDY = NAMED["Patient"], NAMED["ImagingStudy"]


def released(world: World, *contracts: StudyContract, name: str = "one", line: Any = LINE) -> Run:
    """Return a run whose imaging audit has found these studies fit to be published."""
    run = Run(line, name, None, S3Uri.parse(line.source.uri), world.s3, world.ledger)
    files = [dicom(f"{name}-{each.StudyInstanceUID}", StudyInstanceUID=each.StudyInstanceUID) for each in contracts]
    world.buffered(run, *files)
    rows = [(each.StudyInstanceUID, each.study_key, 1, "digest", each.to_json()) for each in contracts]
    run.workspace.write("publishable", CONTRACTS, pl.DataFrame(rows, schema=CONTRACTS, orient="row"))
    run.workspace.write("outcomes", OUTCOMES, outcomes(*files))
    return run


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


def published(world: World, run: Run, lines: Any = None, **more: Any) -> dict[str, int]:
    """Publish: the jobs say what is told of each resource, and success otherwise."""
    normalize(run)
    ended(world, run.within(FOLDER), lines, **more)  # type: ignore[arg-type]  # it needs of a pipeline its healthlake
    return audit(run)


def proven(run: Run) -> set[str]:
    """Return the studies that count as published, by their StudyInstanceUID."""
    keys = {each.study_key: each.StudyInstanceUID for each in (HEAD, CHEST, OTHER)}
    return {keys[key] for key in published_studies(run)}


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

    def test_what_is_there_with_this_content_is_not_sent_again(self, world: World) -> None:
        published(world, released(world, HEAD))
        run = released(world, HEAD, name="two")
        assert normalize(run) == []
        assert audit(run) == {"published": 1, "not_published": 0}

    def test_what_changed_is_sent_alone(self, world: World) -> None:
        published(world, released(world, HEAD))
        run = released(world, study(StudyInstanceUID="1.2.1", StudyDescription="Head, again"), name="two")
        normalize(run)
        assert sent(run) == [STUDY]

    def test_a_patient_tells_of_the_studies_released_before(self, world: World) -> None:
        where = FhirReferences(**NAMED)
        first = released(world, HEAD)
        known = HEAD.model_copy(update={"fhir": where, "revision": 1})
        row = (known.StudyInstanceUID, known.study_key, 1, "digest", known.to_json())
        contract = pl.DataFrame([row], schema=CONTRACTS, orient="row")
        world.ledger.revise_contracts(HEAD.datastore_id, first.key, contract["subject"], lambda _: contract)
        gate = {"subject": "1.2.1", "subject_key": HEAD.study_key, "gate": "release"}
        world.ledger.record_gates(HEAD.datastore_id, first.key, frame([gate], GATES))
        published(world, first)
        assert bodies(first)[PATIENT]["gender"] == "female"
        later = study(StudyInstanceUID="1.2.2", PatientSex="M")
        run = released(world, later.model_copy(update={"fhir": where}), name="two")
        normalize(run)
        assert "gender" not in bodies(run)[PATIENT]  # a contradiction is not told

    def test_nothing_released_sends_nothing(self, world: World) -> None:
        run = released(world)
        assert normalize(run) == []
        assert audit(run) == {"published": 0, "not_published": 0}

    def test_what_another_run_is_publishing_has_to_wait(self, world: World) -> None:
        normalize(released(world, HEAD))
        run = released(world, CHEST, name="two")
        with pytest.raises(PublicationBusyError, match=r"1 resources .* airlock\.ledger release") as caught:
            normalize(run)
        assert "P1" not in str(caught.value)
        assert find_batches(run.within(FOLDER)) == []

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
        assert published_studies(run) == set()
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

    def test_what_did_not_come_in_is_sent_by_the_next_run_alone(self, world: World) -> None:
        published(world, released(world, HEAD), {PATIENT: rejected()})
        run = released(world, HEAD, name="two")
        normalize(run)
        assert sent(run) == [PATIENT]
        assert published(world, run) == {"published": 1, "not_published": 0}


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
