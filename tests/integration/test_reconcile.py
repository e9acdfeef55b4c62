"""A reconciliation finds every difference between the ledger, S3 and HealthImaging, and nothing else."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from airflow.sdk.exceptions import AirflowFailException
from sqlalchemy import delete, insert
from typer.testing import CliRunner

from airlock.ledger import Ledger, LedgerError
from airlock.ledger.columns import ComparisonKind, StoreOrigin
from airlock.ledger.comparison_tables import data_stores, foreign_sets
from airlock.ledger.database import writing
from airlock.ledger.tables import gates
from airlock.records import study_key
from airlock.stages.reconcile import Request, reconcile
from airlock.stages.reconcile_scope import ReconcileError, Scope
from airlock.storage.s3uri import S3Uri
from airlock.storage.workspace import Workspace
from airlock_cli.app import app
from tests.chain import DATASTORE, HEALTHLAKE, pipeline
from tests.dicom_files import ct, sop_uid, study_uid
from tests.integration.between_runs.runs import WorkerKilled, by_hand, given
from tests.integration.reconciling import Reconciler
from tests.integration.seeded_differences import Differences, deliver, name_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from typer.testing import Result

    from airlock.pipelines import ImagingPipeline
    from tests.chain import Place
    from tests.integration.seeded_differences import Found

pytestmark = pytest.mark.slow


@pytest.fixture
def differences(place: Place, tmp_path: Path) -> Iterator[Differences]:
    with place.ledger() as ledger:
        yield Differences(place, tmp_path / "localaws.db", ledger)


def seed(differences: Differences, each: int, outputs: int) -> tuple[int, Found]:
    """Make so many differences of each kind; return their number and the findings."""
    expected: Found = set()
    groups = differences.makers()
    for number, makers in enumerate(groups):
        for make in makers:
            expected |= make(list(range(number * each + 1, (number + 1) * each + 1)))
    expected |= differences.delete_outputs(outputs)
    differences.settle()
    return sum(map(len, groups)) * each + outputs, expected


def reconcile_seeded(differences: Differences, each: int, outputs: int, files_per_job: int) -> dict[str, Any]:
    line = pipeline(limits={"files_per_job": files_per_job})
    studies = len(differences.makers()) * each + 5  # five stay as they are
    differences.place.put(deliver(studies))
    given(by_hand(differences.place, "one", line=line).run()["dispositions"] == {"released": 2 * studies})
    person = Reconciler(differences.place, line)
    before = person.report(content=True, pixels=True)
    assert (before["findings"], before["counts"]["pixels"]) == ({}, 2 * studies)
    number, expected = seed(differences, each, outputs)
    report = person.report(content=True, pixels=True)
    assert person.open_findings() == expected
    assert number >= 10 * each
    return report


def test_every_seeded_difference_is_found_and_no_other(differences: Differences) -> None:
    report = reconcile_seeded(differences, each=1, outputs=1, files_per_job=10)
    assert report["left_out"] == {}


@pytest.mark.proof
@pytest.mark.timeout(1800)
def test_a_thousand_seeded_differences_are_found_and_no_other(differences: Differences) -> None:
    report = reconcile_seeded(differences, each=77, outputs=10, files_per_job=100)
    assert sum(one["findings"] for one in report["findings"].values()) >= 1_000


@pytest.fixture
def two_studies(differences: Differences) -> Differences:
    """A released delivery of two studies, with two instances each."""
    differences.place.put(deliver(2))
    given(by_hand(differences.place, "one").run()["dispositions"] == {"released": 4})
    return differences


def lose(differences: Differences, study: int) -> None:
    """Delete a study's image set, and reconcile."""
    differences.delete_sets([study])
    differences.settle()
    given(Reconciler(differences.place).report()["counts"]["forgotten"] == 2)


def test_a_redrive_imports_again_what_the_store_has_lost(two_studies: Differences) -> None:
    place = two_studies.place
    before = two_studies.image_set(1)
    lose(two_studies, 1)
    again = by_hand(place, "two", redrive_findings=True, redrive_why="somebody deleted the image set")
    assert again.run()["dispositions"] == {"released": 2}
    assert two_studies.image_set(1) != before
    newest = max((one for one in place.contracts() if one["study_key"] == key(1)), key=lambda one: one["revision"])
    assert {one["image_set_id"] for one in newest["series"][0]["instances"]} == {two_studies.image_set(1)}


def test_a_redrive_of_findings_takes_nothing_twice(two_studies: Differences) -> None:
    place = two_studies.place
    lose(two_studies, 1)
    by_hand(place, "two", redrive_findings=True, redrive_why="somebody deleted the image set").run()
    with pytest.raises(AirflowFailException, match="found nothing lost that is not imported again"):
        by_hand(place, "three", redrive_findings=True, redrive_why="once more").until("buffer")


def test_a_finding_is_closed_when_the_difference_is_gone_and_the_report_says_so(two_studies: Differences) -> None:
    person = Reconciler(two_studies.place)
    lose(two_studies, 1)
    by_hand(two_studies.place, "two", redrive_findings=True, redrive_why="somebody deleted it").run()
    assert len(person.open_findings()) == 2
    assert person.report()["closed"] == {"missing_in_store": 2}
    assert person.open_findings() == set()


@pytest.mark.parametrize(("study", "other"), [(1, 50_001), (2, 1)])
def test_an_image_set_that_was_moved_to_another_study_is_one_finding(
    two_studies: Differences, monkeypatch: pytest.MonkeyPatch, study: int, other: int
) -> None:
    """It is not foreign, whether the ledger knows the other study or not, and which of them is compared first."""
    monkeypatch.setattr("airlock.imaging.reconcile.STUDIES_PER_PAGE", 1)
    found = two_studies.move(study, study_uid(other))
    two_studies.settle()
    person = Reconciler(two_studies.place)
    given(person.report(parts=("store",))["counts"]["listed"] == 2)
    assert person.open_findings() == found


def test_an_object_that_is_replaced_once_more_keeps_its_finding(
    two_studies: Differences, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next run takes the newest content; until then the finding is as true as before."""
    person = Reconciler(two_studies.place)
    found = two_studies.replace_objects([1])
    given(person.report(parts=("source",))["findings"].keys() == {"other_content"})
    two_studies.place.put({name_of(1, 1): ct(1, 1, 1, pixel=8)})
    close = Ledger.close_findings
    monkeypatch.setattr(Ledger, "close_findings", killing(lambda *_, **__: None))
    with pytest.raises(WorkerKilled):  # the page is recorded, and the comparison goes on after it
        person.report(parts=("source",))
    monkeypatch.setattr(Ledger, "close_findings", close)
    report = person.report(parts=("source",))
    assert (report["comparison"], report["counts"]["young"], report["closed"]) == (2, 1, {})
    assert person.open_findings() == found
    assert person.report(subject=key(1), parts=("source",))["closed"] == {}


def test_what_is_still_missing_stays_one_finding(two_studies: Differences) -> None:
    person = Reconciler(two_studies.place)
    lose(two_studies, 1)
    found = person.open_findings()
    for scope in ({}, {"subject": key(1)}, {"sample": 2}):
        report = person.report(**scope)
        assert report["closed"] == {}
        assert person.open_findings() == found


def test_what_was_out_of_reach_counts_as_stored_again(two_studies: Differences) -> None:
    """The service answers for a while as if an image set were gone, and then has it after all."""
    person, name = Reconciler(two_studies.place), two_studies.image_set(1)
    with two_studies.hidden(name):
        given(person.report()["counts"]["forgotten"] == 2)
    report = person.report()
    assert report["closed"] == {"missing_in_store": 2}
    assert two_studies.image_set(1) == name
    assert person.report(content=True)["findings"] == {}


def test_a_study_that_has_lost_a_file_is_held_until_it_is_there_again(two_studies: Differences) -> None:
    place = two_studies.place
    lose(two_studies, 1)
    place.put({"study-0001/3.dcm": ct(1, 1, 3)})
    assert by_hand(place, "two").run()["dispositions"] == {"held": 1}
    by_hand(place, "three", redrive_findings=True, redrive_why="somebody deleted it").run()
    newest = max((one for one in place.contracts() if one["study_key"] == key(1)), key=lambda one: one["revision"])
    assert newest["NumberOfStudyRelatedInstances"] == 3


@pytest.mark.parametrize("is_removed", [False, True])
def test_what_was_lost_may_come_again_for_another_patient(two_studies: Differences, *, is_removed: bool) -> None:
    place = two_studies.place
    lose(two_studies, 1)
    if is_removed:
        given(Reconciler(place).remove(key(1), "wrong patient") == 2)
    place.put({name_of(1, number): ct(1, 1, number, PatientID="RIGHT") for number in (1, 2)})
    assert by_hand(place, "two").run()["dispositions"] == {"released": 2}


def test_what_was_removed_on_purpose_is_not_imported_again(two_studies: Differences) -> None:
    person = Reconciler(two_studies.place)
    lose(two_studies, 1)
    assert person.remove(key(1), "wrong patient") == 2
    assert person.open_findings() == set()
    with pytest.raises(AirflowFailException, match="found nothing lost"):
        by_hand(two_studies.place, "two", redrive_findings=True, redrive_why="all of it").until("buffer")
    assert person.report(content=True)["findings"] == {}  # the contract still names what was removed


def test_above_the_limit_nothing_is_forgotten_and_a_person_is_asked(two_studies: Differences) -> None:
    person = Reconciler(two_studies.place)
    two_studies.delete_sets([1, 2])
    two_studies.settle()
    report = person.report(forget_at_most=3)
    assert report["still_counted_as_stored"] == 4
    assert report["counts"]["forgotten"] == 0
    assert person.report(forget_at_most=4)["counts"]["forgotten"] == 4


def test_a_study_of_an_open_run_is_left_out(two_studies: Differences) -> None:
    place, person = two_studies.place, Reconciler(two_studies.place)
    place.put({"study-0001/3.dcm": ct(1, 1, 3)})
    chain = by_hand(place, "two")
    chain.until("import")  # the image set has another version by now, and audit has not looked at it
    report = person.report(content=True)
    assert report["findings"] == {}
    assert report["left_out"] == {"a run has files of the study": 1}
    assert person.report(sample=2, content=True)["sample"]["compared"] == 1  # it proves nothing of what it left out
    chain.onward("audit")
    assert person.report(content=True)["findings"] == {}


def test_a_lost_image_set_that_is_being_changed_is_neither_forgotten_nor_there(two_studies: Differences) -> None:
    """The store had it out of reach, too much to forget; now it is there and somebody is changing it."""
    person, name = Reconciler(two_studies.place), two_studies.image_set(1)
    with two_studies.hidden(name):
        given(person.report(forget_at_most=1)["still_counted_as_stored"] == 2)
    with two_studies.locked(name):
        report = person.report()
    assert (report["counts"]["forgotten"], report["closed"]) == (0, {})
    assert person.report()["closed"] == {"missing_in_store": 2}


def test_what_comes_back_as_not_primary_counts_so(two_studies: Differences) -> None:
    person, name = Reconciler(two_studies.place), two_studies.image_set(1)
    with two_studies.hidden(name):
        given(person.report()["counts"]["forgotten"] == 2)
    two_studies.demote(name)
    given(person.report()["closed"] == {"missing_in_store": 2})
    assert person.report()["findings"] == {}


def test_an_output_that_many_studies_rest_on_is_one_finding_and_all_of_them_differ(
    differences: Differences, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("airlock.imaging.reconcile.STUDIES_PER_PAGE", 2)
    differences.place.put(deliver(5))
    given(by_hand(differences.place, "one").run()["dispositions"] == {"released": 10})
    given(len(differences.delete_outputs(1)) == 1)
    report = Reconciler(differences.place).report(sample=5)
    assert report["findings"]["no_evidence"]["findings"] == 1
    assert report["sample"]["differing"] == 5


def test_an_interrupted_comparison_goes_on(differences: Differences, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("airlock.imaging.reconcile.STUDIES_PER_PAGE", 2)
    monkeypatch.setattr("airlock.imaging.reconcile.LISTED_PER_PART", 3)
    place = differences.place
    place.put(deliver(7))
    given(by_hand(place, "one").run()["dispositions"] == {"released": 14})
    expected = differences.delete_sets([2, 6]) | differences.import_foreign_studies([1])
    differences.settle()
    person = Reconciler(place)
    attempts = 0
    while True:
        attempts += 1
        try:
            with killed_at_page(differences.ledger, 1):
                report = person.report()
            break
        except WorkerKilled:
            given(attempts < 30)
    assert attempts > 5
    assert person.open_findings() == expected
    assert report["comparison"] == 1
    assert report["counts"]["studies"] == 7


@pytest.mark.parametrize(
    ("kind", "name"), [(Ledger, "forget_missing"), (Workspace, "write_json"), (Ledger, "end_comparison")]
)
def test_an_interruption_at_the_end_loses_no_report(
    two_studies: Differences, monkeypatch: pytest.MonkeyPatch, kind: type, name: str
) -> None:
    """The command is killed when it has forgotten, when it has written its report, or before it has ended."""
    two_studies.delete_sets([1])
    two_studies.settle()
    person, call = Reconciler(two_studies.place), getattr(kind, name)
    monkeypatch.setattr(kind, name, killing(call if name != "end_comparison" else lambda *_: None))
    with pytest.raises(WorkerKilled):
        person.report()
    monkeypatch.setattr(kind, name, call)
    report = person.report()
    assert (report["comparison"], report["counts"]["forgotten"], report["closed"]) == (1, 2, {})
    assert report["findings"]["missing_in_store"]["findings"] == 2
    assert person.report()["comparison"] == 2


def killing(call: Callable[..., Any]) -> Callable[..., Any]:
    """Return a method whose process is killed after it."""

    def kill(*arguments: Any, **named: Any) -> Any:
        call(*arguments, **named)
        raise WorkerKilled

    return kill


def test_two_processes_do_not_go_on_with_one_comparison(two_studies: Differences) -> None:
    person = Reconciler(two_studies.place)
    other = Reconciler(two_studies.place)
    with two_studies.place.ledger() as ledger:
        comparer = person.comparer(ledger)
        pages = comparer.pages

        def overtaken(*arguments: Any) -> Any:
            for page in pages(*arguments):
                other.report()
                yield page

        comparer.pages = overtaken  # type: ignore[method-assign]
        with pytest.raises(LedgerError, match="another process has gone on with it"):
            reconcile(comparer, "nightly", Request(Scope(), "an operator"), lambda done: done)


def test_throttling_slows_a_comparison_down_and_does_not_end_it(two_studies: Differences) -> None:
    two_studies.place.faults({"kind": "throttle_storm", "operation": "SearchImageSets", "times": 2})
    report = Reconciler(two_studies.place).report()
    assert report["findings"] == {}
    assert report["requests"]["SearchImageSets"] == 3


def test_a_data_store_that_does_not_exist_is_refused(two_studies: Differences) -> None:
    settings = pipeline().healthimaging.model_dump() | {"datastore_id": "e" * 32}
    with pytest.raises(ReconcileError, match="There is no data store"):
        Reconciler(two_studies.place, pipeline(healthimaging=settings)).report()
    assert Reconciler(two_studies.place).report()["comparison"] == 1  # nothing was begun


@pytest.mark.parametrize("known", [None, StoreOrigin.ADOPTING])
def test_a_data_store_that_the_ledger_does_not_know_is_refused(
    two_studies: Differences, known: StoreOrigin | None
) -> None:
    """If the ledger was lost, all would count as foreign, and somebody might delete it."""
    with writing(two_studies.ledger._engine) as connection:
        connection.execute(delete(gates))
        connection.execute(delete(data_stores))
    if known is not None:
        two_studies.ledger.note_store(DATASTORE, known)
    with pytest.raises(ReconcileError, match=r"airlock ledger adopt --datastore"):
        Reconciler(two_studies.place).report()


def test_a_foreign_set_of_an_adopted_store_is_no_finding(two_studies: Differences) -> None:
    ((_, name),) = two_studies.import_foreign_studies([1])
    row = {"object_id": name, "datastore_id": DATASTORE, "recorded_at": datetime.now(UTC)}
    with writing(two_studies.ledger._engine) as connection:
        connection.execute(insert(foreign_sets).values(row))
    assert Reconciler(two_studies.place).report()["findings"] == {}


def key(study: int) -> str:
    return study_key(study_uid(study))


@contextmanager
def killed_at_page(ledger: Ledger, number: int) -> Iterator[None]:
    """Kill a comparison after so many pages of it were recorded."""
    record = Ledger.advance_comparison
    recorded = 0

    def kill(self: Ledger, *arguments: Any) -> Any:
        nonlocal recorded
        if recorded == number:
            raise WorkerKilled
        recorded += 1
        return record(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Ledger, "advance_comparison", kill)
        yield


def test_the_command_estimates_compares_and_writes_a_report(two_studies: Differences, command: Command) -> None:
    estimate = json.loads(command("nightly", "--dry-run", "--json").stdout)
    assert {one["what"]: one["number"] for one in estimate["requests"]} == {
        "SearchImageSets": 2,
        "S3 HEAD of the objects in the archive": 4,
        "S3 HEAD of contracts and job outputs": 4,
    }
    assert estimate["cost"] > 0
    assert two_studies.ledger.last_comparison(ComparisonKind.RECONCILE) is None
    assert command("nightly").exit_code == 0
    two_studies.delete_sets([1])
    two_studies.settle()
    answered = command("nightly", "--json")
    report = json.loads(answered.stdout)
    assert answered.exit_code == 1
    assert report["findings"]["missing_in_store"]["findings"] == 2
    address = S3Uri.parse(report["findings_uri"])
    body = two_studies.place.s3().get_object(Bucket=address.bucket, Key=address.key)["Body"].read().decode()
    lines = list(csv.DictReader(io.StringIO(body)))
    assert {line["subject"] for line in lines} == {sop_uid(1, 1, 1), sop_uid(1, 1, 2)}
    assert all(line["what_to_do"].startswith("The data store has lost") for line in lines)


def test_the_command_refuses_what_does_not_fit(two_studies: Differences, command: Command) -> None:
    given(two_studies.ledger is not None)
    for options, text in (
        (("--patient", "Patient/p1"), "--patient does not fit a pipeline of kind imaging"),
        (("--study", "1.2.3", "--sample", "5"), "exclude each other"),
        (("--study", "1.2.3"), "The ledger does not know this study"),
    ):
        answered = command("nightly", *options)
        assert answered.exit_code == 2
        assert text in answered.stderr


def test_what_an_imaging_pipeline_has_published_is_compared_on_demand(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = pipeline(healthlake=HEALTHLAKE)
    place.put(deliver(2))
    given(by_hand(place, "one", line=line).run()["dispositions"] == {"released": 4})
    call = command_for(line, place, tmp_path, monkeypatch)
    assert call("nightly", "--published", "--content").exit_code == 0
    first, second = place.fhir().search("ImagingStudy", {})
    lost, changed = first["id"], second["id"]
    place.fhir().delete("ImagingStudy", lost)
    place.fhir().update({name: value for name, value in second.items() if name != "meta"} | {"status": "cancelled"})
    place.fhir().update({"resourceType": "Patient", "id": "of-another-system"})
    assert call("nightly", "--published", "--content").exit_code == 1
    findings = Reconciler(place, line).findings_about(line.healthlake.datastore_id)
    assert findings == {("missing_in_store", f"ImagingStudy/{lost}"), ("other_content", f"ImagingStudy/{changed}")}
    place.put({f"study-{study:04}/3.dcm": ct(study, 1, 3) for study in (1, 2)})
    given(by_hand(place, "two", line=line).run()["dispositions"] == {"released": 2})
    assert call("nightly", "--published", "--content").exit_code == 0
    assert place.stored(f"ImagingStudy/{lost}") is not None
    refused = call("nightly", "--published", "--study", "1.2.3")
    assert (refused.exit_code, "--published compares with HealthLake only" in refused.stderr) == (2, True)


Command = Callable[..., "Result"]


@pytest.fixture
def command(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Call ``airlock reconcile`` with these arguments."""
    return command_for(pipeline(), place, tmp_path, monkeypatch)


def command_for(line: ImagingPipeline, place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Call ``airlock reconcile`` with these arguments, about this pipeline."""
    folder = tmp_path / "pipelines"
    folder.mkdir()
    content = line.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    (folder / "nightly.yaml").write_text(yaml.safe_dump(content | {"schema": "airlock.pipeline/1", "kind": "imaging"}))
    for name, value in {
        "AIRLOCK_PIPELINES": str(folder),
        "AIRLOCK_LEDGER_URL": place.ledger_url,
        "AWS_ENDPOINT_URL": place.s3_endpoint,
        "AWS_ENDPOINT_URL_MEDICAL_IMAGING": place.imaging_endpoint,
        "AWS_ENDPOINT_URL_HEALTHLAKE": place.imaging_endpoint,
        "AWS_DISABLE_HOST_PREFIX_INJECTION": "true",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)

    def call(*arguments: str) -> Result:
        result = CliRunner().invoke(app, ["reconcile", *arguments], prog_name="airlock")
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return call
