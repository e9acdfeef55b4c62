"""The files of the output folder."""

from __future__ import annotations

import json
from typing import Any

import pytest

from localaws.faults import read_fault
from localaws.imaging.results import (
    FAILURE,
    SERVER_ERROR,
    SUCCESS,
    WARNING,
    Outcome,
    Results,
    write_manifest,
    write_result_files,
)
from localaws.settings import Settings


def imported(key: str, *warnings: str) -> Outcome:
    return Outcome(key, "i" * 32, 1, True, list(warnings))


def rejected(key: str, exception_type: str = "ValidationException") -> Outcome:
    outcome = Outcome(key)
    outcome.reject(exception_type, "because")
    return outcome


def files(*outcomes: Outcome, faults: tuple[dict[str, Any], ...] = (), **choices: str) -> dict[str, list[Any]]:
    switched = [read_fault(fault) for fault in faults]
    written = write_result_files(Results(list(outcomes), []), switched, "s3://in/a/", Settings(choices=choices))
    return {path: [json.loads(line) for line in body.splitlines()] for path, body in written}


def test_lines_have_the_documented_shapes() -> None:
    found = files(imported("a"), rejected("b"), imported("c", "INVALID_OFFSET_TABLE"))
    response = {"imageSetId": "i" * 32, "imageSetVersion": 1, "isPrimary": True}
    assert found[SUCCESS] == [{"inputFile": "a", "importResponse": response}]
    exception = {"exceptionType": "ValidationException", "message": "because"}
    assert found[FAILURE] == [{"inputFile": "b", "exception": exception}]
    (warning,) = found[WARNING][0]["importResponse"]["warnings"]
    assert (warning["warning_reason_code"], warning["type"]) == (45330, "InvalidOffsetTable")


@pytest.mark.parametrize(
    ("form", "name"),
    [
        ("key", "a/b c+ä.dcm"),
        ("relative", "b c+ä.dcm"),
        ("uri", "s3://in/a/b c+ä.dcm"),
        ("percent_encoded", "a/b%20c%2B%C3%A4.dcm"),
    ],
)
def test_a_file_is_named_as_chosen(form: str, name: str) -> None:
    found = files(imported("a/b c+ä.dcm"), rejected("a/b c+ä.dcm"), dicom_input_file=form)
    assert {line["inputFile"] for lines in found.values() for line in lines} == {name}


def test_a_file_without_lines_is_not_written() -> None:
    assert files(imported("a")).keys() == {SUCCESS}
    assert files() == {}


def test_warned_files_stand_in_success_too_if_so_set() -> None:
    assert SUCCESS not in files(imported("a", "OTHER"))
    assert [line["inputFile"] for line in files(imported("a", "OTHER"), warned_in_success="yes")[SUCCESS]] == ["a"]


def test_a_partial_manifest_lacks_lines_of_every_kind() -> None:
    found = files(
        imported("x/a"), rejected("x/b"), imported("y/c"), faults=({"kind": "manifest_partial", "key": "x/*"},)
    )
    assert [line["inputFile"] for lines in found.values() for line in lines] == ["y/c"]


def test_the_counters_add_up() -> None:
    results = Results([imported("a"), imported("b", "OTHER"), rejected("c"), rejected("d", SERVER_ERROR)], [{"x": 1}])
    summary = json.loads(write_manifest(results, "job", "d" * 32, "s3://bucket/in/", "s3://bucket/out/f/"))[
        "jobSummary"
    ]
    counts = {name.removeprefix("numberOf"): value for name, value in summary.items() if name.startswith("numberOf")}
    assert counts == {
        "ScannedFiles": 4,
        "ImportedFiles": 2,
        "FilesWithCustomerError": 1,
        "FilesWithServerError": 1,
        "GeneratedImageSets": 1,
    }
    assert summary["warningsOutputS3Uri"] == "s3://bucket/out/f/WARNING/"


def test_results_survive_the_database() -> None:
    results = Results([imported("a", "OTHER"), rejected("b")], [{"imageSetId": "i"}])
    assert Results.load(results.dump()) == results
