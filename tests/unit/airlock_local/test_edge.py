"""The demonstration of the edge: what it compares, its table, and the settings that it writes."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from airlock.pipelines import ImagingPipeline, load_pipeline
from airlock_edge.settings import load_settings
from airlock_local.deliver import SourceError
from airlock_local.edge import Edge, demonstrate, find_leaks, find_problems, is_safe, list_outcomes
from airlock_local.pacs import Committed
from airlock_local.settings import ROOT, read_settings

if TYPE_CHECKING:
    from pathlib import Path

SHIPPED = ROOT / "include/pipelines/edge.yaml"
ANSWER = Committed(frozenset({"1.1", "1.2"}), {"1.3": 0x0110, "1.4": 0x0112})
OUTCOMES = {"1.1": ("released", ""), "1.2": ("held", "study_incomplete"), "1.3": ("quarantined", "truncated")}
COUNTS = {"asked": 4, "received": 3, "stored": 3, "decided": 3}


@pytest.mark.parametrize(
    ("disposition", "reason", "safe"),
    [
        ("released", "", True),
        ("held", "study_incomplete", True),
        ("held", "read_back_mismatch", False),
        ("held", "identity_changed", False),
        ("duplicate", "duplicate_same_content", True),
        ("duplicate", "header_changed", False),
        ("quarantined", "truncated", False),
        ("failed", "rejected", False),
    ],
)
def test_what_the_edge_should_commit_to(disposition: str, reason: str, *, safe: bool) -> None:
    assert is_safe(disposition, reason) is safe


def test_the_table_counts_each_pair_of_decision_and_answer_and_all() -> None:
    assert list(list_outcomes(ANSWER, OUTCOMES))[1:-1] == [
        "  instances  Airlock decided   the edge answered",
        "          1  held              committed",
        "          1  never received    refused: unknown to the edge",
        "          1  quarantined       refused: not imported",
        "          1  released          committed",
        "          4  in total",
    ]


def test_what_is_as_it_should_be_is_no_problem() -> None:
    assert list(find_problems(ANSWER, OUTCOMES, **COUNTS)) == []


@pytest.mark.parametrize(
    ("answer", "counts", "said"),
    [
        (ANSWER, COUNTS | {"asked": 5}, "The PACS asked about 5 instances, and the answer has 4."),
        (ANSWER, COUNTS | {"stored": 2}, "The edge acknowledged 3 objects, S3 has 2, and runs have decided about 3."),
        (Committed(frozenset({"1.1"}), ANSWER.failed | {"1.2": 0x0110}), COUNTS, "1 instances were not answered as"),
        (Committed(ANSWER.succeeded | {"1.3"}, {"1.4": 0x0112}), COUNTS, "1 instances were not answered as"),
        (Committed(ANSWER.succeeded | {"1.4"}, {"1.3": 0x0110}), COUNTS, "1 instances were committed about which no"),
    ],
)
def test_each_number_that_is_not_as_it_should_be_is_said(answer: Committed, counts: dict[str, int], said: str) -> None:
    (problem,) = find_problems(answer, OUTCOMES, **counts)
    assert problem.startswith(said)


def test_an_identifier_outside_the_objects_is_said_without_its_value() -> None:
    places = {"log": "1 of doe^jane\n", "metrics": "x 1.2.840.1.11", "keys": "demo/2026-01-31/ab/cd.dcm"}
    (problem,) = find_leaks({"DOE^JANE", "1.2.840.1", "2026"}, places)
    assert problem == "1 identifiers of the sample are in the edge's log, where none should be."


def test_the_settings_that_it_writes_load(tmp_path: Path) -> None:
    pipeline = load_pipeline(SHIPPED)
    assert isinstance(pipeline, ImagingPipeline)
    edge = Edge.write(tmp_path, read_settings({"AIRLOCK_VAR": str(tmp_path)}), pipeline, 104)
    settings = load_settings(edge.file)
    assert settings.peers[0].reports_to == "127.0.0.1:104"
    assert pipeline.edge is not None
    assert settings.commitment.queue_url == pipeline.edge.queue_url
    assert str(edge.prefix) == f"{settings.destination.uri}{settings.site}/"


def test_it_says_how_to_get_the_pacs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SourceError, match="apt-get install orthanc"):
        demonstrate(read_settings({"AIRLOCK_VAR": str(tmp_path / "var")}), os.environ)
    assert not (tmp_path / "var").exists()
