"""What an import job leaves: read for its declared fields only, late, partial or broken as it may be."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airlock.clinical import manifests
from airlock.clinical.manifests import (
    RESULTS,
    Counters,
    JobOutput,
    is_final,
    keep_output,
    keep_progress,
    proves_more,
    read_kept,
    read_output,
    read_progress,
)
from airlock.storage.s3 import S3
from airlock.storage.s3uri import S3Uri
from airlock.storage.workspace import Workspace
from tests.unit.airlock.clinical.books import (
    JOB,
    account,
    batch,
    find_discrepancies,
    lines_of,
    manifest,
    ndjson,
    operation_outcomes,
    outcome,
    output,
    result,
    unit,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

FOLDER = S3Uri("work", "output/f-FHIR_IMPORT-j1/")
MANIFEST = "Manifest.json"


def leave(s3: S3, name: str, content: Any) -> None:
    """Write one object of the output folder: bytes, an object, or a list of lines."""
    if not isinstance(content, bytes):
        content = ndjson(content) if isinstance(content, list) else json.dumps(content).encode()
    s3.put(FOLDER.join(name), content)


def read(s3: S3) -> JobOutput:
    return read_output(s3, FOLDER, 0)


def only(found: JobOutput, column: str) -> Any:
    (value,) = lines_of(found)[column].to_list()
    return value


class TestFolder:
    def test_every_result_file_is_read_and_its_sub_folder_kept(self, s3: S3) -> None:
        leave(s3, MANIFEST, manifest(3))
        leave(s3, "SUCCESS/v1-0/Patient.ndjson", [result("Patient/p1")])
        leave(s3, "FAILURE/Observation.ndjson", [result("Observation/o1", status=400)])
        leave(s3, "SUCCESS_WITH_SEARCH_VALIDATION_FAILURES/Patient.ndjson", [result("Patient/p2")])
        found = read(s3)
        assert found.manifest_found
        assert set(lines_of(found).select("kind", "file", "resource_type", "resource_id").iter_rows()) == {
            ("success", "v1-0/Patient.ndjson", "Patient", "p1"),
            ("failure", "Observation.ndjson", "Observation", "o1"),
            ("warning", "Patient.ndjson", "Patient", "p2"),
        }

    def test_folders_that_are_not_there_are_empty(self, s3: S3) -> None:
        leave(s3, MANIFEST, manifest(0))
        assert (read(s3).lines.rows, read(s3).unreadable_lines) == (0, 0)

    def test_what_lies_outside_the_result_folders_is_nothing(self, s3: S3) -> None:
        s3.put(S3Uri("work", "output/.healthlake_write_access_check_file.temp"), b"")
        leave(s3, "FAILURES/else.ndjson", [result("Patient/p1")])
        found = read(s3)
        assert (found.manifest_found, found.lines.rows, found.unreadable_lines) == (False, 0, 0)

    def test_either_spelling_of_the_manifest_is_read_the_capital_first(self, s3: S3) -> None:
        leave(s3, "manifest.json", manifest(1))
        assert read(s3).counters.scanned == 1
        leave(s3, MANIFEST, manifest(2))
        assert read(s3).counters.scanned == 2


class TestCounters:
    def test_each_is_taken_from_its_field(self, s3: S3) -> None:
        leave(s3, MANIFEST, manifest(9, 6, 2, 1, numberOfScannedFiles=3))
        assert read(s3).counters == Counters(9, 6, 2, 1, 3)

    @pytest.mark.parametrize("value", [None, "3", 3.0, True, 2**63, [3]])
    def test_what_is_no_number_is_not_taken_for_one(self, s3: S3, value: Any) -> None:
        leave(s3, MANIFEST, {"numberOfResourcesScanned": value})
        assert read(s3).manifest_found
        assert read(s3).counters == Counters()

    @pytest.mark.parametrize("content", [b'{"numberOf', b"[]", b"\xff", b"", b"[" * 100_000])
    def test_a_manifest_that_cannot_be_read_is_none_yet(self, s3: S3, content: bytes) -> None:
        leave(s3, MANIFEST, content)
        assert not read(s3).manifest_found


class TestLines:
    def test_the_status_and_what_the_first_error_says_are_kept(self, s3: S3) -> None:
        blob = outcome()
        blob["issue"].insert(0, {"severity": "warning", "code": "informational", "diagnostics": "a mere warning"})
        leave(s3, "FAILURE/a.ndjson", [result("Patient/p1", status=422, blob=blob)])
        assert only(read(s3), "status_code") == 422
        assert only(read(s3), "detail") == "Observation.code: min cardinality is 1"
        assert json.loads(only(read(s3), "outcome")) == blob

    def test_an_outcome_may_be_a_text_of_json(self, s3: S3) -> None:
        leave(s3, "FAILURE/a.ndjson", [result("Patient/p1", blob=json.dumps(outcome()))])
        assert json.loads(only(read(s3), "outcome")) == outcome()

    @pytest.mark.parametrize(
        ("issue", "detail"),
        [
            ({"diagnostics": None, "details": {"text": "said here"}, "location": None}, "said here"),
            ({"expression": ["Patient.name"], "location": ["elsewhere"]}, "Patient.name: min cardinality is 1"),
            ({"diagnostics": 7, "location": "no list"}, None),
            ({"diagnostics": "half of \ud800", "location": [5]}, "half of ?"),
            ({"diagnostics": "x" * 1000, "location": []}, "x" * 500),
        ],
    )
    def test_the_detail_is_whatever_the_issue_has(self, s3: S3, issue: dict[str, Any], detail: str | None) -> None:
        leave(s3, "FAILURE/a.ndjson", [result("Patient/p1", blob=outcome(**issue))])
        assert only(read(s3), "detail") == detail

    @pytest.mark.parametrize("blob", [None, "no JSON", {"resourceType": "Patient", "name": "x"}, [outcome()], 5])
    def test_what_is_no_outcome_is_left_out(self, s3: S3, blob: Any) -> None:
        leave(s3, "FAILURE/a.ndjson", [result("Patient/p1", blob=blob)])
        assert (only(read(s3), "outcome"), only(read(s3), "detail")) == (None, None)

    def test_an_outcome_beyond_all_measure_is_replaced_by_a_pointer(self, s3: S3) -> None:
        leave(s3, "FAILURE/a.ndjson", [result("Patient/p1", blob=outcome("x" * manifests.OUTCOME_LENGTH))])
        assert json.loads(only(read(s3), "outcome"))["issue"][0]["code"] == "too-long"

    def test_of_a_success_no_outcome_is_kept(self, s3: S3) -> None:
        leave(s3, "SUCCESS/a.ndjson", [result("Patient/p1", blob=outcome())])
        assert only(read(s3), "outcome") is None

    @pytest.mark.parametrize("response", [None, "text", {"statusCode": "bad"}, {"statusCode": None}])
    def test_a_line_without_a_usable_answer_still_names_its_resource(self, s3: S3, response: Any) -> None:
        leave(s3, "FAILURE/a.ndjson", [result("Patient/p1", UpdateResourceResponse=response)])
        assert only(read(s3), "resource_id") == "p1"
        assert only(read(s3), "status_code") is None

    @pytest.mark.parametrize(
        "line",
        [
            "no JSON",
            '{"lineId": 1, "resourceId": "p1", "resou',
            "[]",
            "null",
            '{"resourceId": "p1", "resourceType": "Patient", "lineId": NaN}',
            '{"line": 1, "errorMessage": "no JSON"}',
            '{"resourceId": 5, "resourceType": "Patient"}',
            '{"resourceId": "p1"}',
            "[" * 100_000,
        ],
    )
    def test_a_line_that_names_no_resource_is_counted(self, s3: S3, line: str) -> None:
        leave(s3, "FAILURE/a.ndjson", [result("Patient/p1"), line, "", result("Patient/p2")])
        assert (read(s3).lines.rows, read(s3).unreadable_lines) == (2, 1)

    def test_a_line_beyond_all_measure_is_counted_and_not_held(self, s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(manifests, "LINE_BYTES", 1000)
        leave(s3, "FAILURE/a.ndjson", [result("Patient/p1", blob=outcome("x" * 2000)), result("Patient/p2")])
        assert (only(read(s3), "resource_id"), read(s3).unreadable_lines) == ("p2", 1)

    def test_more_lines_than_are_held_at_once(self, s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(manifests, "_AT_ONCE", 2)
        leave(s3, "SUCCESS/a.ndjson", [result(f"Patient/p{number}") for number in range(5)])
        assert lines_of(read(s3))["resource_id"].to_list() == ["p0", "p1", "p2", "p3", "p4"]


class Clock:
    """Time that passes only by waiting, while the job's next output appears."""

    def __init__(self, s3: S3, *steps: tuple[str, Any]) -> None:
        self.now, self.s3, self.steps = 0.0, s3, iter(steps)

    def pause(self, seconds: float) -> None:
        self.now += seconds
        for name, content in [next(self.steps, ("", None))]:
            if name:
                leave(self.s3, name, content)

    def read(self, wait_seconds: float) -> JobOutput:
        return read_output(self.s3, FOLDER, wait_seconds, clock=lambda: self.now, pause=self.pause)


class TestWaiting:
    def test_a_late_manifest_and_late_lines_are_waited_for(self, s3: S3) -> None:
        lines = [result("Patient/p1"), result("Patient/p2")]
        clock = Clock(s3, (MANIFEST, manifest(2)), ("SUCCESS/a.ndjson", lines[:1]), ("SUCCESS/a.ndjson", lines))
        assert clock.read(300).named == 2
        assert clock.now == 3 * 2

    def test_no_longer_than_allowed(self, s3: S3) -> None:
        clock = Clock(s3)
        assert not clock.read(5).manifest_found
        assert clock.now == 5

    def test_a_line_that_cannot_be_read_may_be_whole_later(self, s3: S3) -> None:
        leave(s3, MANIFEST, manifest(1))
        leave(s3, "SUCCESS/a.ndjson", b'{"resourceType": "Pat')
        clock = Clock(s3, ("SUCCESS/a.ndjson", [result("Patient/p1")]))
        assert clock.read(300).unreadable_lines == 0

    def test_what_the_service_lost_is_not_waited_for(self, s3: S3) -> None:
        leave(s3, MANIFEST, manifest(2, server=1))
        leave(s3, "SUCCESS/a.ndjson", [result("Patient/p1")])
        clock = Clock(s3)
        assert not is_final(clock.read(300)), "its line may still come"
        assert clock.now == 0

    def test_a_result_file_that_did_not_change_is_not_read_again(self, s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
        read_files: list[str] = []
        stream = S3.stream

        def counted(self: S3, uri: S3Uri, etag: str | None = None) -> Iterator[bytes]:
            read_files.append(uri.key.removeprefix(FOLDER.key))
            return stream(self, uri, etag)

        monkeypatch.setattr(S3, "stream", counted)
        leave(s3, "SUCCESS/a.ndjson", [result("Patient/p1")])
        Clock(s3, ("SUCCESS/b.ndjson", [result("Patient/p2")]), (MANIFEST, manifest(2))).read(300)
        assert read_files == ["SUCCESS/a.ndjson", "SUCCESS/b.ndjson"]


class TestKept:
    def test_what_was_read_is_there_without_the_output_bucket(self, s3: S3) -> None:
        workspace = Workspace(s3, S3Uri("work", "runs/one/"))
        found = output(("success", "Patient/p1", 200), ("failure", "Patient/p2", None), scanned=2, imported=1)
        keep_output(workspace, "b1", "j1", found)
        kept = read_kept(workspace, "b1", "j1")
        assert kept is not None
        assert lines_of(kept).equals(lines_of(found))
        assert (kept.counters, kept.manifest_found, kept.unreadable_lines) == (found.counters, True, 0)

    def test_another_jobs_output_is_not_it(self, s3: S3) -> None:
        workspace = Workspace(s3, S3Uri("work", "runs/one/"))
        assert read_kept(workspace, "b1", "j1") is None
        keep_output(workspace, "b1", "j1", output())
        assert read_kept(workspace, "b1", "j2") is None

    @pytest.mark.parametrize(
        ("found", "final"),
        [
            (output(("success", "Patient/p1", 200), scanned=1), True),
            (output(("success", "Patient/p1", 200), ("success", "Patient/p1", 200), scanned=2), False),
            (output(scanned=1), False),
            (output(scanned=0), True),
            (output(("success", "Patient/p1", 200)), False),
            (output(("success", "Patient/p1", 200), scanned=1, unreadable=1), False),
            (output(("success", "Patient/p1", 200), scanned=1, found=False), False),
        ],
    )
    def test_an_output_is_final_when_all_that_it_counts_is_named(self, found: JobOutput, final: bool) -> None:
        assert is_final(found) == final

    def test_a_manifest_proves_more_than_lines_and_lines_more_than_none(self) -> None:
        line = ("success", "Patient/p1", 200)
        nothing, lines, both = output(found=False), output(line, found=False), output(line)
        assert proves_more(lines, nothing)
        assert proves_more(output(), lines)
        assert proves_more(both, output())
        assert not proves_more(both, both)


class TestProgress:
    def test_the_jobs_own_report_is_kept(self, s3: S3) -> None:
        workspace = Workspace(s3, S3Uri("work", "runs/one/"))
        report = {
            "TotalNumberOfScannedFiles": 2,
            "TotalNumberOfResourcesScanned": 9,
            "TotalNumberOfResourcesImported": 8,
            "TotalNumberOfResourcesWithCustomerError": 1,
        }
        keep_progress(workspace, "b1", {"JobId": "j1", "JobProgressReport": report})
        assert read_progress(workspace, "b1") == Counters(9, 8, 1, None, 2)

    @pytest.mark.parametrize("properties", [{}, {"JobProgressReport": None}])
    def test_a_job_without_one_reports_nothing(self, s3: S3, properties: dict[str, Any]) -> None:
        workspace = Workspace(s3, S3Uri("work", "runs/one/"))
        assert read_progress(workspace, "b1") == Counters()
        keep_progress(workspace, "b1", properties)
        assert read_progress(workspace, "b1") == Counters()


FIELDS = [
    *("lineId", "resourceId", "resourceType", "UpdateResourceResponse", "jsonBlob", "statusCode", "issue", "severity"),
    *("diagnostics", "details", "text", "location", "expression", *manifest(0)),
]
WORDS = ["Patient", "p1", "OperationOutcome", "error"]
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(WORDS),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=5)
        | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=5).map(lambda one: result("Patient/p1") | one)
    ),
    max_leaves=12,
)
garbage = st.binary(max_size=30) | json_values.map(lambda value: json.dumps(value).encode())


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(written=garbage, lines=st.dictionaries(st.sampled_from([*RESULTS]), st.lists(garbage, max_size=3)))
def test_no_garbage_breaks_the_account(s3: S3, written: bytes, lines: dict[str, list[bytes]]) -> None:
    leave(s3, MANIFEST, written)
    for kind, each in lines.items():
        leave(s3, f"{RESULTS[kind]}Patient.ndjson", b"\n".join(each))
    found = read(s3)
    sent = batch(unit("Patient/p1"), unit("Patient/p2"))
    accounted = account(sent, JOB, found)
    assert accounted["resource_id"].to_list() == ["p1", "p2"]
    assert accounted["outcome"].null_count() == 0
    assert operation_outcomes(sent, JOB, found).height <= 2
    assert all(isinstance(each, str) for each in find_discrepancies(sent, JOB, found, Counters()))
