"""Fault switches: reading, matching, counting."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from localaws.errors import AwsError
from localaws.faults import (
    CALL_KINDS,
    CHANGE_KINDS,
    DATA_TRANSFORMATION,
    DICOM_IMPORT,
    FHIR_IMPORT,
    JOB_KINDS,
    FaultBoard,
    read_fault,
)
from localaws.state import State

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from pathlib import Path


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    with closing(State(tmp_path / "state.db", [])) as opened:
        yield opened


def claimed(
    board: FaultBoard,
    state: State,
    name: str = "night-1",
    uri: str = "s3://bucket/a/",
    kinds: Collection[str] = JOB_KINDS,
) -> list[str]:
    with state.write() as connection:
        return [fault.kind for fault in board.for_job(connection, kinds, name, uri)]


def claim_and_fail(board: FaultBoard, state: State) -> None:
    with state.write() as connection:
        assert board.for_job(connection, JOB_KINDS, "j", "s3://bucket/")
        connection.execute("INSERT INTO no_such_table VALUES (1)")


@pytest.mark.parametrize("kind", sorted(CALL_KINDS | CHANGE_KINDS | JOB_KINDS))
def test_each_kind_is_enough_by_itself(kind: str) -> None:
    assert read_fault({"kind": kind}).kind == kind


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ([], "kind"),
        ({"kind": "earthquake"}, "manifest_late"),
        ({"kind": "manifest_late", "second": 1}, "second"),
        ({"kind": "manifest_late", "seconds": -1}, "seconds"),
        ({"kind": "manifest_late", "times": 0}, "times"),
        ({"kind": "manifest_late", "times": "two"}, "times"),
        ({"kind": "manifest_late", "key": "*"}, "key"),
        ({"kind": "manifest_late", "operation": "Get*"}, "operation"),
        ({"kind": "manifest_partial", "share": 2}, "share"),
        ({"kind": "manifest_partial", "key": 5}, "key"),
        ({"kind": "lost_response", "answer": "404"}, "drop or 500"),
        ({"kind": "role_not_assumable", "answer": "drop"}, "AccessDeniedException or ValidationException"),
        ({"kind": "manifest_late", "answer": "drop"}, "answer must be left out"),
        ({"kind": "queued_long", "key": "*"}, "key"),
        ({"kind": "lost_response", "id": "mine"}, "id"),
    ],
)
def test_a_wrong_fault_is_refused_by_name(body: Any, named: str) -> None:
    with pytest.raises(AwsError, match=named):
        read_fault(body)


def test_a_wrong_list_changes_nothing(state: State) -> None:
    board = FaultBoard(state)
    board.replace([{"kind": "manifest_late"}])
    with pytest.raises(AwsError):
        board.replace({})
    with pytest.raises(AwsError):
        board.replace([{"kind": "manifest_missing"}, {"kind": "nothing"}])
    assert [fault["kind"] for fault in board.standing()] == ["manifest_late"]


def test_patterns_choose_the_jobs(state: State) -> None:
    board = FaultBoard(state)
    board.replace(
        [
            {"kind": "manifest_late", "job_name": "night-*"},
            {"kind": "manifest_missing", "input_s3_uri": "s3://bucket/b/*"},
            {"kind": "throttle_storm"},
        ]
    )
    assert claimed(board, state) == ["manifest_late"]
    assert claimed(board, state, "day", "s3://bucket/b/1/") == ["manifest_missing"]
    assert claimed(board, state, "day") == []


def test_a_fault_is_spent_after_its_number_of_times_even_over_a_restart(state: State) -> None:
    FaultBoard(state).replace([{"kind": "manifest_late", "times": 2}])
    assert claimed(FaultBoard(state), state) == ["manifest_late"]
    assert claimed(FaultBoard(state), state) == ["manifest_late"]
    assert claimed(FaultBoard(state), state) == []
    assert FaultBoard(state).standing()[0]["remaining"] == 0


def test_a_fault_of_a_job_that_was_not_made_is_not_used_up(state: State) -> None:
    board = FaultBoard(state)
    board.replace([{"kind": "manifest_late", "times": 1}])
    with pytest.raises(sqlite3.OperationalError):
        claim_and_fail(board, state)
    assert claimed(board, state) == ["manifest_late"]


def test_a_job_that_does_not_know_a_kind_leaves_it_for_one_that_does(state: State) -> None:
    board = FaultBoard(state)
    board.replace([{"kind": "cancelled", "times": 1}, {"kind": "queued_long", "times": 1}])
    claims = [claimed(board, state, kinds=kinds) for kinds in (DICOM_IMPORT, DATA_TRANSFORMATION, FHIR_IMPORT)]
    assert claims == [[], ["queued_long"], ["cancelled"]]


def test_call_faults_choose_the_operation(state: State) -> None:
    board = FaultBoard(state)
    board.replace([{"kind": "throttle_storm", "operation": "Get*", "times": 1}])
    assert board.for_call("StartDICOMImportJob", "", "") == []
    assert [fault.kind for fault in board.for_call("GetDICOMImportJob", "", "")] == ["throttle_storm"]
    assert board.for_call("GetDICOMImportJob", "", "") == []


def test_a_share_touches_about_that_share_of_the_keys() -> None:
    fault = read_fault({"kind": "server_error_on_files", "share": 0.3})
    touched = [number for number in range(1000) if fault.touches(f"a/{number}.dcm")]
    assert 220 < len(touched) < 380
    assert touched == [number for number in range(1000) if fault.touches(f"a/{number}.dcm")]
    assert all(read_fault({"kind": "server_error_on_files"}).touches(f"{number}") for number in range(100))


def test_only_what_starts_a_job_needs_a_role(state: State) -> None:
    board = FaultBoard(state)
    board.replace([{"kind": "role_not_assumable"}])
    operations = ("StartFHIRImportJob", "StartDataTransformationJob", "DescribeFHIRImportJob", "ListFHIRImportJobs")
    struck = [name for name in operations if board.for_call(name, "", "")]
    assert struck == ["StartFHIRImportJob", "StartDataTransformationJob"]


@pytest.mark.parametrize(
    ("body", "answer"),
    [
        ({"kind": "lost_response"}, "drop"),
        ({"kind": "lost_response", "answer": "500"}, "500"),
        ({"kind": "cancelled"}, "CANCEL_COMPLETED"),
        ({"kind": "cancelled", "answer": "CANCEL_FAILED"}, "CANCEL_FAILED"),
        ({"kind": "role_not_assumable"}, "AccessDeniedException"),
        ({"kind": "role_not_assumable", "answer": "ValidationException"}, "ValidationException"),
    ],
)
def test_the_first_answer_of_a_kind_is_its_default(body: dict[str, str], answer: str) -> None:
    assert read_fault(body).chosen_answer == answer
