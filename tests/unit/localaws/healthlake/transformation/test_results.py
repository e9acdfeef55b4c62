"""Names in the output folder, and the numbers of the drift report."""

from __future__ import annotations

import json

import pytest

from localaws.healthlake.transformation.results import FileResult, Results, name_output_files, write_job_drift


@pytest.mark.parametrize(
    ("keys", "prefix", "expected"),
    [
        (["in/a.xml", "in/b.XML", "in/c"], "in/", ["a", "b", "c"]),
        (["in/a.xml", "in/sub/a.xml"], "in/", ["a", "sub/a"]),
        (["in/a.xml", "in/a", "in/a.txt"], "in/", ["a.xml", "a", "a.txt"]),
        (["in/a.xml.xml", "in/a.xml", "in/a"], "in/", ["a.xml.xml", "a.xml", "a"]),
        (["in/day-1.xml", "in/day-2/b.xml"], "in/day-", ["day-1", "day-2/b"]),
        (["a.xml"], "", ["a"]),
    ],
)
def test_a_file_is_named_by_its_path_below_the_prefix(keys: list[str], prefix: str, expected: list[str]) -> None:
    assert list(name_output_files(keys, prefix).values()) == expected


def test_results_come_back_as_they_were_kept() -> None:
    results = Results([FileResult("a.xml", "converted/a.ndjson", resources=3, skipped={"1.2": 1})], scanned=2)
    assert Results.load(results.dump()) == results


def test_coverage_counts_entries_and_accuracy_counts_resources() -> None:
    file = FileResult(
        "a", "a", resources=4, resources_with_issues=1, processed=2, skipped={"1.2": 1}, failed={"1.3": "E"}
    )
    assert (file.coverage, file.accuracy) == (0.5, 0.75)


def test_a_document_without_entries_is_covered_and_one_without_resources_is_worth_nothing() -> None:
    empty = FileResult("a", "a")
    assert (empty.coverage, empty.accuracy) == (1.0, 0.0)


def test_a_job_without_converted_files_has_a_drift_report() -> None:
    drift = json.loads(write_job_drift(Results([FileResult("a", "ERROR/a.json", "no XML")], scanned=1)))
    assert (drift["avgOverallCoverageRate"], drift["avgResourceAccuracy"], drift["perFileDrift"]) == (0.0, 0.0, [])


def test_the_job_names_what_is_missing_anywhere_once() -> None:
    files = [FileResult("a", "a", skipped={"1.2": 3}), FileResult("b", "b", skipped={"1.2": 1}, failed={"1.3": "E"})]
    drift = json.loads(write_job_drift(Results(files, scanned=2)))
    assert (drift["unknownSections"], drift["missingResources"]) == (["1.2"], ["1.3"])
