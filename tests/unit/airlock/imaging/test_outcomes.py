"""Only a line that names a file of the batch makes an outcome."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest

from airlock.imaging.outcomes import account, find_discrepancies, list_notes
from airlock.reasons import Reason
from airlock.records import OUTCOMES
from tests.unit.airlock.job_output import files, output
from tests.unit.airlock.world import ended_job

if TYPE_CHECKING:
    from airlock.stages.jobs import EndedJob

DONE = ended_job()
FAILED = ended_job(status="FAILED", message="no access to the bucket")


def line(key: str, kind: str = "success", **changes: Any) -> dict[str, Any]:
    return {"staged_key": key, "kind": kind} | changes


def one(*lines: dict[str, Any], job: EndedJob = DONE, found: bool = True, **counts: int | None) -> dict[str, Any]:
    """Return what becomes of the only file, "a"."""
    return account(files("a"), job, output(*lines, found=found, **counts)).row(0, named=True)


def what(row: dict[str, Any]) -> tuple[str, str | None]:
    return row["outcome"], row["reason"]


class TestOneFile:
    def test_a_success_line_makes_it_imported(self) -> None:
        row = one(line("a", image_set_version=1))
        assert what(row) == ("imported", None)
        assert row == {
            "arrival_id": "a-a",
            "batch_id": "b1",
            "job_id": "j1",
            "outcome": "imported",
            "reason": None,
            "detail": None,
            "warnings": [],
            "image_set_id": "i1",
            "image_set_version": 1,
            "SOPInstanceUID": "1.1.1.a",
            "SeriesInstanceUID": "1.1.1",
            "StudyInstanceUID": "1.1",
        }

    def test_no_line_leaves_it_unaccounted_whatever_the_job_says(self) -> None:
        assert what(one()) == ("unaccounted", "not_in_manifest")
        assert what(one(scanned=1, imported=1)) == ("unaccounted", "not_in_manifest")
        assert what(one(found=False)) == ("unaccounted", "manifest_missing")
        failed = one(job=FAILED)
        assert (*what(failed), failed["detail"]) == ("unaccounted", "job_failed", "no access to the bucket")
        assert what(one(job=FAILED, found=False)) == ("unaccounted", "job_failed")

    def test_a_failed_jobs_lines_count_too(self) -> None:
        assert what(one(line("a"), job=FAILED)) == ("imported", None)
        assert what(one(line("a", "failure", exception_type="ValidationException"), job=FAILED)) == (
            "rejected",
            "rejected",
        )

    def test_a_line_for_another_file_is_none_for_this_one(self) -> None:
        for key in ("A", "a ", "b", "prefix/a", ""):
            assert what(one(line(key))) == ("unaccounted", "not_in_manifest")

    def test_warned_and_imported(self) -> None:
        row = one(line("a"), line("a", "warning", warnings=["OTHER", "X"], detail="text"))
        assert what(row) == ("imported_with_warning", "service_warning")
        assert (row["warnings"], row["detail"]) == (["OTHER", "X"], "OTHER, X: text")

    def test_non_primary_in_either_line(self) -> None:
        assert what(one(line("a", is_primary=False))) == ("non_primary", "non_primary")
        assert what(one(line("a"), line("a", "warning", is_primary=False, warnings=["X"]))) == (
            "non_primary",
            "non_primary",
        )

    def test_an_image_set_of_which_no_line_says_that_it_is_primary_is_looked_at(self) -> None:
        assert what(one(line("a", is_primary=None))) == ("imported", "primary_unknown")
        warned = line("a", "warning", is_primary=None, warnings=["X"])
        assert what(one(warned)) == ("imported_with_warning", "primary_unknown")
        assert what(one(line("a"), warned)) == ("imported_with_warning", "service_warning")
        assert what(one(line("a", "failure", is_primary=None))) == ("rejected", "rejected")

    @pytest.mark.parametrize(
        ("sets", "expected"),
        [
            ({"primary_sets": frozenset({"i1"})}, ("imported", None)),
            ({"non_primary_sets": frozenset({"i1"})}, ("non_primary", "non_primary")),
            ({"primary_sets": frozenset({"i2"})}, ("imported", "primary_unknown")),
        ],
    )
    def test_where_no_line_says_so_the_image_set_does(self, sets: dict[str, Any], expected: tuple[str, str]) -> None:
        told = replace(output(line("a", is_primary=None)), **sets)
        assert what(account(files("a"), DONE, told).row(0, named=True)) == expected

    def test_a_success_of_an_object_that_was_replaced_meanwhile_proves_nothing(self) -> None:
        lines = line("a"), line("b"), line("c", "failure", exception_type="ValidationException")
        rows = account(files("a", "b", "c"), DONE, output(*lines), replaced=["a", "c"])
        assert rows["outcome"].to_list() == ["unaccounted", "imported", "rejected"]
        assert rows["reason"].to_list() == ["replaced_during_import", None, "rejected"]
        assert rows["image_set_id"].to_list() == ["i1", "i1", None]

    def test_two_lines_that_contradict_each_other_prove_nothing(self) -> None:
        both = line("a"), line("a", "failure", exception_type="ValidationException", detail="bad")
        assert one(*both)["outcome"] == "unaccounted"
        assert one(*reversed(both))["outcome"] == "unaccounted"

    def test_the_same_line_twice_is_one(self) -> None:
        assert what(one(line("a"), line("a"))) == ("imported", None)

    @pytest.mark.parametrize(
        ("kind", "customer", "server", "outcome"),
        [
            ("ValidationException", 1, 0, "rejected"),
            ("InternalServerException", 1, 0, "rejected"),
            ("ValidationException", 0, 1, "server_error"),
            ("ValidationException", 1, 1, "rejected"),
            ("InternalServerException", 1, 1, "server_error"),
            ("NeverHeardOf", 1, 1, "server_error"),
            ("ValidationException", None, None, "rejected"),
            ("InternalServerException", None, None, "server_error"),
            (None, None, None, "rejected"),
            ("ValidationException", 0, 0, "rejected"),
        ],
    )
    def test_whose_fault_a_failure_is_tell_the_counts_then_the_type(
        self, kind: str | None, customer: int | None, server: int | None, outcome: str
    ) -> None:
        row = one(line("a", "failure", exception_type=kind, detail="x"), customer_errors=customer, server_errors=server)
        assert (*what(row), row["detail"], row["image_set_id"]) == (outcome, outcome, "x", None)

    def test_without_a_job_it_is_unaccounted(self) -> None:
        for reason in (Reason.JOB_NOT_STARTED, Reason.JOB_UNFINISHED):
            row = account(files("a"), None, None, reason).row(0, named=True)
            assert (*what(row), row["job_id"]) == ("unaccounted", reason, None)
        assert account(files("a"), None, None)["reason"].to_list() == ["job_not_started"]

    @pytest.mark.parametrize("job", [None, DONE])
    def test_what_could_not_be_staged_keeps_its_reason(self, job: dict[str, str] | None) -> None:
        rows = account(files("a", reason="object_changed"), job, output(line("a")) if job else None)
        assert what(rows.row(0, named=True)) == ("unaccounted", "object_changed")


class TestBatch:
    def test_every_file_has_one_outcome_and_no_other_has_any(self) -> None:
        rows = account(files("a", "b", "c"), DONE, output(line("b"), line("foreign"), line("a", "failure")))
        assert rows["arrival_id"].to_list() == ["a-a", "a-b", "a-c"]
        assert rows["outcome"].to_list() == ["rejected", "imported", "unaccounted"]
        assert rows.schema == OUTCOMES

    def test_an_empty_batch_has_none(self) -> None:
        assert account(files(), DONE, output()).equals(OUTCOMES.to_frame())
        assert account(files(), None, None).equals(OUTCOMES.to_frame())

    def test_a_batch_that_lists_a_key_twice_is_refused(self) -> None:
        with pytest.raises(pl.exceptions.ComputeError):
            account(files("a", "a"), DONE, output(line("a")))


class TestDiscrepancies:
    def found(self, *lines: dict[str, Any], unreadable: int = 0, found: bool = True, **counts: int | None) -> list[str]:
        return find_discrepancies(files("a", "b"), output(*lines, unreadable=unreadable, found=found, **counts))

    def test_of_a_job_that_agrees_there_are_none(self) -> None:
        assert self.found(line("a"), line("b"), scanned=2, imported=2, customer_errors=0, server_errors=0) == []
        failed = line("b", "failure")
        assert self.found(line("a"), failed, scanned=2, imported=1, customer_errors=1, server_errors=0) == []
        assert self.found(line("a"), failed, scanned=2, imported=1, customer_errors=0, server_errors=1) == []
        assert self.found(line("a"), line("b")) == []

    @pytest.mark.parametrize("scanned", [0, 1, 3])
    def test_another_number_of_files_scanned(self, scanned: int) -> None:
        assert self.found(line("a"), line("b"), scanned=scanned) == [
            f"the job scanned {scanned} files, the batch has 2"
        ]

    def test_another_number_imported_or_failed(self) -> None:
        assert self.found(line("a"), line("b"), imported=1) == [
            "the manifest counts 1 imported files, the lines name 2"
        ]
        assert self.found(line("a"), line("b", "failure"), imported=2) == [
            "the manifest counts 2 imported files, the lines name 1"
        ]
        assert self.found(line("a"), line("b"), customer_errors=1, server_errors=1) == [
            "the manifest counts 2 failed files, the lines name 0"
        ]

    def test_files_that_are_not_in_the_batch(self) -> None:
        found = self.found(line("a"), line("b"), line("MUELLER"), line("MUELLER"), line("other"))
        assert found == ["2 result lines name files that are not in the batch"]

    def test_lines_that_cannot_be_read(self) -> None:
        assert self.found(line("a"), line("b"), unreadable=3) == ["3 result lines cannot be read"]

    def test_a_manifest_that_never_came(self) -> None:
        assert self.found(line("a"), line("b"), found=False) == ["the job wrote no manifest in time"]

    def test_what_could_not_be_staged_is_not_expected(self) -> None:
        batch = pl.concat([files("a"), files("b", reason="object_gone")])
        assert find_discrepancies(batch, output(line("a"), scanned=1, imported=1)) == []

    def test_a_job_none_of_whose_lines_says_that_an_image_set_is_primary_is_noted_once(self) -> None:
        silent = line("a", is_primary=None), line("b", is_primary=None)
        (notes,) = list_notes(output(*silent)).values()
        assert len(notes) == 1
        assert list_notes(output(line("a"), silent[1])) == {}
        assert list_notes(output(line("a", "failure"))) == {}
        assert self.found(*silent) == []  # it holds nothing

    def test_a_job_over_nothing_agrees(self) -> None:
        assert find_discrepancies(files(), output(scanned=0, imported=0, customer_errors=0, server_errors=0)) == []
