"""The outcome of each resource, from the lines that name it and nothing else."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from airlock.clinical.manifests import Counters
from airlock.clinical.records import OPERATION_OUTCOMES
from airlock.reasons import Reason
from airlock.stages.resources import OUTCOMES
from tests.unit.airlock.clinical.books import (
    JOB,
    account,
    batch,
    find_discrepancies,
    operation_outcomes,
    output,
    unit,
    with_lines,
)

if TYPE_CHECKING:
    from airlock.clinical.manifests import JobOutput

P1, P2 = unit("Patient/p1"), unit("Patient/p2")
OK = ("success", "Patient/p1", 200)


def found(*lines: tuple[str, str, int | None], **job: Any) -> tuple[str, str | None]:
    """Return outcome and reason of Patient/p1 after these lines."""
    rows = account(batch(P1), replace(JOB, **job), output(*lines))
    assert rows.schema == OUTCOMES
    return rows.select("outcome", "reason").row(0)


class TestAccount:
    @pytest.mark.parametrize(
        ("kind", "status", "expected"),
        [
            ("success", 200, ("imported", None)),
            ("success", None, ("imported", None)),
            ("failure", 400, ("rejected", "rejected")),
            ("failure", 422, ("rejected", "rejected")),
            ("failure", None, ("rejected", "rejected")),
            ("failure", 500, ("server_error", "server_error")),
            ("failure", 503, ("server_error", "server_error")),
            ("warning", 200, ("imported_with_warning", "stored_with_issues")),
            ("success", 400, ("unaccounted", "not_in_manifest")),
            ("warning", 500, ("unaccounted", "not_in_manifest")),
        ],
    )
    def test_a_line_decides_by_its_folder_and_its_status(
        self, kind: str, status: int | None, expected: tuple[str, str | None]
    ) -> None:
        assert found((kind, "Patient/p1", status)) == expected

    def test_a_warned_resource_may_be_a_success_too(self) -> None:
        assert found(OK, ("warning", "Patient/p1", 200)) == ("imported_with_warning", "stored_with_issues")

    def test_success_and_failure_at_once_prove_nothing(self) -> None:
        assert found(OK, ("failure", "Patient/p1", 400)) == ("unaccounted", "not_in_manifest")

    def test_a_line_about_another_type_or_id_proves_nothing(self) -> None:
        assert found(("success", "Patient/p2", 200), ("success", "Group/p1", 200)) == ("unaccounted", "not_in_manifest")

    def test_a_line_among_the_results_of_another_file_proves_nothing(self) -> None:
        rows = account(batch(P1), JOB, with_lines(output(OK), file="Group.ndjson"))
        assert rows["outcome"].to_list() == ["unaccounted"]

    @pytest.mark.parametrize("place", ["v1/Patient.ndjson", "staging/b1/v1/Patient.ndjson"])
    def test_sub_folders_count_and_may_begin_at_the_bucket(self, place: str) -> None:
        sent = batch(unit("Patient/p1", staged_key="staging/b1/v1/Patient.ndjson"))
        assert account(sent, JOB, with_lines(output(OK), file=place))["outcome"].to_list() == ["imported"]

    @pytest.mark.parametrize("place", ["Patient.ndjson", "v2/Patient.ndjson", "staging/b2/v1/Patient.ndjson"])
    def test_a_file_of_the_same_name_elsewhere_is_another_file(self, place: str) -> None:
        sent = batch(unit("Patient/p1", staged_key="staging/b1/v1/Patient.ndjson"))
        assert account(sent, JOB, with_lines(output(OK), file=place))["outcome"].to_list() == ["unaccounted"]

    @pytest.mark.parametrize("status", ["COMPLETED", "COMPLETED_WITH_ERRORS", "FAILED"])
    def test_the_jobs_status_does_not_change_a_named_outcome(self, status: str) -> None:
        assert found(OK, status=status) == ("imported", None)

    @pytest.mark.parametrize(
        ("status", "manifest", "reason"),
        [
            ("COMPLETED", True, "not_in_manifest"),
            ("COMPLETED", False, "manifest_missing"),
            ("COMPLETED_WITH_ERRORS", True, "not_in_manifest"),
            ("FAILED", False, "job_failed"),
            ("FAILED", True, "job_failed"),
            ("CANCEL_COMPLETED", False, "job_failed"),
        ],
    )
    def test_the_reason_of_a_resource_that_no_line_names(self, status: str, manifest: bool, reason: str) -> None:
        job = replace(JOB, status=status, message="said the service")
        row = account(batch(P1), job, output(found=manifest)).row(0, named=True)
        assert (row["outcome"], row["reason"], row["detail"]) == ("unaccounted", reason, "said the service")

    @pytest.mark.parametrize("absent", [Reason.JOB_NOT_STARTED, Reason.JOB_UNFINISHED])
    def test_without_a_job_everything_is_unaccounted(self, absent: Reason) -> None:
        rows = account(batch(P1, P2), None, None, absent)
        assert rows["outcome"].to_list() == ["unaccounted"] * 2
        assert rows["reason"].to_list() == [str(absent)] * 2

    def test_every_resource_has_one_row_whatever_the_lines(self) -> None:
        rows = account(batch(P1, P2), JOB, output(OK, OK, ("success", "Patient/p9", 200)))
        assert rows["resource_id"].to_list() == ["p1", "p2"]
        known = {"arrival_id": "a", "line": 1, "patient": "Patient/p1", "content_digest": "digest of Patient/p1"}
        assert rows.row(0, named=True).items() >= known.items()


class TestOperationOutcomes:
    def test_at_most_one_per_resource_of_the_batch(self) -> None:
        results = output(("failure", "Patient/p1", 400), ("failure", "Patient/p1", 400), ("failure", "Patient/p9", 400))
        rows = operation_outcomes(batch(P1, P2), JOB, with_lines(results, outcome="{}"))
        assert rows.schema == OPERATION_OUTCOMES
        assert rows.select("arrival_id", "resource_id", "source", "outcome").rows() == [("a", "p1", "import", "{}")]


class TestDiscrepancies:
    def odd(self, results: JobOutput, progress: Counters | None = None, **job: Any) -> list[str]:
        return find_discrepancies(batch(P1, P2), replace(JOB, **job), results, progress or Counters())

    def test_there_are_none_if_all_counts_agree(self) -> None:
        lines = (OK, ("failure", "Patient/p2", 400))
        counts = {"scanned": 2, "imported": 1, "customer_errors": 1, "server_errors": 0, "files_scanned": 1}
        assert self.odd(output(*lines, **counts), Counters(2, 1, 1, None, 1)) == []

    def test_there_are_none_without_counts(self) -> None:
        assert self.odd(output(OK)) == []

    def test_a_warned_resource_listed_twice_is_one(self) -> None:
        lines = (OK, ("warning", "Patient/p1", 200), ("success", "Patient/p2", 200))
        assert self.odd(output(*lines, scanned=2, imported=2, customer_errors=0, server_errors=0)) == []

    def test_a_resource_that_the_service_lost_is_not_a_discrepancy(self) -> None:
        assert self.odd(output(OK, scanned=2, imported=1, customer_errors=0, server_errors=1)) == []

    @pytest.mark.parametrize(
        ("results", "sentence"),
        [
            (output(found=False), "the job wrote no manifest in time"),
            (output(("success", "Patient/p9", 200)), "1 resources of the result lines are not in the batch"),
            (output(OK, OK), "1 result lines repeat another one"),
            (output(unreadable=3), "3 result lines cannot be read or name no resource: 3 in FAILURE/ have no JSON"),
            (output(scanned=0), "the job scanned 0 resources, the batch has 2"),
            (output(scanned=3), "the job scanned 3 resources, the batch has 2"),
            (output(files_scanned=2), "the job scanned 2 files, the batch has 1"),
            (output(imported=1), "the manifest counts 1 imported resources, the lines name 0"),
            (output(OK, customer_errors=1), "the manifest counts 1 rejected resources, the lines name 0"),
            (
                output(OK, scanned=2, imported=1, customer_errors=0, server_errors=0),
                "the manifest counts 2 scanned resources, but 1 imported or failed ones",
            ),
        ],
    )
    def test_each_is_a_sentence(self, results: JobOutput, sentence: str) -> None:
        assert self.odd(results) == [sentence]

    @pytest.mark.parametrize(
        ("progress", "sentence"),
        [
            (Counters(scanned=1), "the job reports 1 scanned resources, its manifest 2"),
            (Counters(imported=0), "the job reports 0 imported resources, its manifest 1"),
            (Counters(customer_errors=2), "the job reports 2 rejected resources, its manifest 1"),
            (Counters(files_scanned=4), "the job reports 4 scanned files, its manifest 1"),
        ],
    )
    def test_the_jobs_own_report_must_agree(self, progress: Counters, sentence: str) -> None:
        counts = {"scanned": 2, "imported": 1, "customer_errors": 1, "server_errors": 0, "files_scanned": 1}
        assert self.odd(output(OK, ("failure", "Patient/p2", 400), **counts), progress) == [sentence]

    def test_a_job_with_errors_that_no_line_reports(self) -> None:
        lines = (OK, ("success", "Patient/p2", 200))
        sentence = "the job ended with errors, but neither its manifest nor its lines tell of any"
        assert self.odd(output(*lines), status="COMPLETED_WITH_ERRORS") == [sentence]
        assert self.odd(output(OK, ("failure", "Patient/p2", 400)), status="COMPLETED_WITH_ERRORS") == []

    def test_no_sentence_names_a_resource(self) -> None:
        results = output(("success", "Patient/p9", 200), ("success", "Patient/p9", 200), scanned=5)
        assert not [sentence for sentence in self.odd(results) if "p9" in sentence]
