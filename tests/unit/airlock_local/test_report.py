"""Which reports lie where after which run, and what the terminal says of them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from airlock_local.report import copy_reports, hint_of_kind, report_lines

if TYPE_CHECKING:
    from pathlib import Path

HEAD = "key,study_instance_uid,disposition\n"
ROWS = f"{HEAD}a.dcm,1.2.1,released\nb.dcm,,held\nc.dcm,1.2.3,held\nd.dcm,1.2.4,held\n"


def run(
    var: Path,
    name: str,
    arrivals: int,
    rows: str = HEAD,
    *,
    issues: str | None = None,
    held: tuple[dict[str, str], ...] = (),
) -> list[str]:
    """Show the reports of a run, and return what the terminal says of them."""
    kept = var / "reports" / name
    kept.mkdir(parents=True)
    report = {"run_key": name, "pipeline": "sample", "arrivals": arrivals, "held": held}
    (kept / "report.json").write_text(json.dumps(report))
    (kept / "report.html").write_text(f"<title>{name}</title>")
    (kept / "dispositions.csv").write_text(rows)
    if issues is not None:
        (kept / "operation-outcomes.ndjson").write_text(issues)
    return report_lines(copy_reports(var, kept), var, kept)


def shown(var: Path) -> str:
    return str(json.loads((var / "report.json").read_text())["run_key"])


def test_a_run_with_arrivals_is_shown_with_its_list_and_a_study_that_is_held(tmp_path: Path) -> None:
    lines = run(tmp_path, "first", 4, ROWS, held=({"study_key": "0123456789abcdef", "reason": "study_incomplete"},))
    assert (shown(tmp_path), (tmp_path / "dispositions.csv").read_text()) == ("first", ROWS)
    assert lines[1:] == [
        f"Report:      {tmp_path}/report.json",
        f"To read:     {tmp_path}/report.html",
        f"Files:       {tmp_path}/dispositions.csv",
        f"Run folder:  {tmp_path}/reports/first",
        "Held study:  ./airlock where 1.2.3",
        "All held:    ./airlock held sample",
        "Later:       ./airlock report sample shows what became of it; the files above stay as they are",
    ]


def test_an_empty_run_leaves_the_list_and_says_whose_it_is(tmp_path: Path) -> None:
    run(tmp_path, "first", 4, ROWS, issues="{}")
    for again in ("second", "third"):
        lines = run(tmp_path, again, 0, issues="")
        assert shown(tmp_path) == again
        assert (tmp_path / "report.html").read_text() == f"<title>{again}</title>"
        assert (tmp_path / "dispositions.csv").read_text() == ROWS
        assert (tmp_path / "operation-outcomes.ndjson").read_text() == "{}"
        why = "since nothing arrived in this run"
        whose = f"it is a copy of {tmp_path}/reports/first/dispositions.csv"
        assert lines[3] == f"Files:       {tmp_path}/dispositions.csv is unchanged, {why}; {whose}"
        assert lines[4:] == [f"Run folder:  {tmp_path}/reports/{again}"]


def test_a_list_that_a_person_has_changed_is_left_too(tmp_path: Path) -> None:
    run(tmp_path, "first", 4, ROWS)
    (tmp_path / "dispositions.csv").write_text(HEAD + "c.dcm,1.2.3,held\n")
    lines = run(tmp_path, "second", 0)
    assert (tmp_path / "dispositions.csv").read_text() == HEAD + "c.dcm,1.2.3,held\n"
    assert lines[3].endswith("since nothing arrived in this run")


def test_an_empty_first_run_names_no_list(tmp_path: Path) -> None:
    assert [line.split(":")[0] for line in run(tmp_path, "first", 0)[1:]] == ["Report", "To read", "Run folder"]
    assert not (tmp_path / "dispositions.csv").exists()


def test_the_issues_of_an_earlier_run_do_not_pass_for_those_of_a_later_one(tmp_path: Path) -> None:
    assert f"FHIR errors: {tmp_path}/operation-outcomes.ndjson" in run(tmp_path, "clinical", 1, issues="{}")
    run(tmp_path, "imaging", 1, ROWS)
    assert not (tmp_path / "operation-outcomes.ndjson").exists()


def test_a_clinical_run_without_issues_names_no_file_for_them(tmp_path: Path) -> None:
    lines = run(tmp_path, "clinical", 1, issues="")
    assert [line.split(":")[0] for line in lines[1:]] == ["Report", "To read", "Files", "Run folder"]


def test_a_patient_that_is_held_is_named_by_its_key(tmp_path: Path) -> None:
    held = ({"subject_key": "../x", "reason": "patient_held"}, {"subject_key": "0123456789abcdef"})
    lines = run(tmp_path, "clinical", 1, held=held)
    assert lines[-3:-1] == ["Held:        ./airlock where 0123456789abcdef", "All held:    ./airlock held sample"]


@pytest.mark.parametrize("uid", ["1.2; rm -rf ~", "$(id)", "\x1b]0;owned\x07", "1.2\u202e3", ""])
def test_what_is_no_uid_is_not_put_into_a_command(tmp_path: Path, uid: str) -> None:
    assert not [
        line
        for line in run(tmp_path, "first", 1, f"{HEAD}a.dcm,{uid},held\n", held=({"study_key": uid},))
        if line.startswith(("Held study", "Held:"))
    ]


@pytest.mark.parametrize(
    ("reasons", "pipeline"),
    [
        ({"not_fhir": {"units": 2}}, "sample"),
        ({"not_dicom": {"arrivals": 2}}, "clinical"),
        ({"not_dicom": {"arrivals": 1}, "truncated": {"arrivals": 1}}, None),
        ({}, None),
    ],
)
def test_files_of_another_kind_name_the_pipeline_for_them(
    reasons: dict[str, dict[str, int]], pipeline: str | None
) -> None:
    hint = hint_of_kind({"arrivals": 2, "reasons": reasons})
    assert [f"PIPELINE={pipeline}" in line for line in hint] == ([] if pipeline is None else [True])
