"""A run's reports on this machine: the audit at the terminal, and the files in ``var``."""

from __future__ import annotations

import csv
import filecmp
import json
import re
import shutil
from typing import TYPE_CHECKING, Any

from airlock.stages.reporting import describe_units

if TYPE_CHECKING:
    from pathlib import Path

REPORTS = "reports"  # the folder below var/ that keeps the reports of every run
PAGE = "report.html"  # report.json for people, to mail or keep
LISTS = ("dispositions.csv", "operation-outcomes.ndjson")  # the second one of clinical pipelines only
COMMAND = "./airlock"  # the command line on the local stack, from the folder of make run
_UID = re.compile(r"[0-9.]{1,64}")
_KEY = re.compile(r"[0-9a-f]{16}")
_IN_WORDS = {"stopped": "without an accepted file"}
# By the reason that all files of a delivery have: what they are not, and the pipeline of the other kind.
_OTHER_KIND = {
    "not_fhir": ("None of the files is FHIR", "sample"),
    "not_dicom": ("None of the files is DICOM", "clinical"),
}
_SUBJECTS = ("studies", "publication", "patients", "files")  # the subjects whose gates a report counts, by its kind


def audit_lines(report: dict[str, Any], delivered: int) -> list[str]:
    """Return the lines of a run's audit.

    Parameters
    ----------
    report
        report.json.
    delivered
        Number of files of the delivery; earlier runs settled those that are not arrivals.
    """
    lines = ["", f"Audit of {_describe_arrivals(report)}: {_describe_balance(report)}"]
    if not report["arrivals"]:
        lines.append(f"Nothing new: earlier runs settled {delivered} files.")
    elif delivered > report["arrivals"]:
        lines.append(f"Earlier runs settled {delivered - report['arrivals']} of {delivered} files.")
    titles = ("verdicts", "outcomes", "dispositions", *_SUBJECTS, "patient_match")
    lines += [f"  {title:<13} {_list_counts(report[title])}" for title in titles if title in report]
    if report.get("reading", {}).get("arrivals"):
        lines.append(f"  {'headers':<13} {_describe_reading(report['reading'])}")
    if "validation_level" in report:
        lines.append(f"  {'validation':<13} {report['validation_level']}")
    lines.append(f"  {'import jobs':<13} {len(report['jobs'])}")
    if report["reasons"]:
        lines.append("  reasons")
    lines += [f"  {_count_of(reason):>5}  {code}: {reason['sentence']}" for code, reason in report["reasons"].items()]
    return lines


def _describe_arrivals(report: dict[str, Any]) -> str:
    return describe_units(report) if "resources" in report else f"{report['arrivals']} files"


def _describe_reading(reading: dict[str, Any]) -> str:
    cost = f"{reading['requests_per_arrival']:.2f} requests and {reading['kib_per_arrival']:.1f} KiB each"
    left = sum(reading["fallbacks"].values())
    return f"{cost}, {left} left to pydicom" if left else cost


def _count_of(reason: dict[str, Any]) -> int:
    number: int = reason["arrivals"] if "arrivals" in reason else reason["units"]
    return number


def _describe_balance(report: dict[str, Any]) -> str:
    if report["balanced"]:
        return "the books balance."
    return "THE BOOKS DO NOT BALANCE, nothing is released: " + "; ".join(report["problems"])


def _list_counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{n} {_IN_WORDS.get(name, name)}" for name, n in counts.items() if n) or "none"


def copy_reports(var: Path, kept: Path) -> dict[str, Any]:
    """Copy a run's reports to ``var``, and return report.json.

    A run without arrivals does not replace the lists there: people may be working on them.

    Parameters
    ----------
    var
        The folder of the newest reports.
    kept
        The folder of the run's own reports.
    """
    report: dict[str, Any] = json.loads((kept / "report.json").read_bytes())
    for name in ("report.json", PAGE):
        shutil.copy2(kept / name, var)
    if report["arrivals"]:
        for name in LISTS:
            (var / name).unlink(missing_ok=True)
            if (kept / name).exists():
                shutil.copy2(kept / name, var)  # with its time, by which `_origin` finds it
    return report


def report_lines(report: dict[str, Any], var: Path, kept: Path) -> list[str]:
    """Return lines with the paths of a run's reports, and commands that explain what is held."""
    lines = ["", f"Report:      {var / 'report.json'}", f"To read:     {var / PAGE}"]
    files, outcomes = (var / name for name in LISTS)
    if report["arrivals"]:
        lines += [f"Files:       {files}"]
        lines += [f"FHIR errors: {outcomes}"] if outcomes.exists() and outcomes.stat().st_size else []
    elif files.exists():
        lines.append(f"Files:       {files} is unchanged, since nothing arrived in this run{_origin(files, var)}")
    return [*lines, f"Run folder:  {kept}", *_ways_on(report, files)]


def _ways_on(report: dict[str, Any], files: Path) -> list[str]:
    """Return the commands by which a person goes on if something is held."""
    if not report.get("held"):
        return []
    name = report["pipeline"]
    studies = _held_study(files) if report["arrivals"] else []
    named = (one.get("subject_key") or one.get("study_key") or "" for one in report["held"])
    keys = [key for key in named if _KEY.fullmatch(key)]
    return [
        *(f"Held study:  {COMMAND} where {uid}" for uid in studies),
        *(f"Held:        {COMMAND} where {key}" for key in keys[: not studies]),
        f"All held:    {COMMAND} held {name}",
        f"Later:       {COMMAND} report {name} shows what became of it; the files above stay as they are",
    ]


def _origin(files: Path, var: Path) -> str:
    """Return the path of the same list among the kept reports; an empty text if a person has changed the list."""
    same = [path for path in sorted((var / REPORTS).glob(f"*/{files.name}")) if filecmp.cmp(path, files)]
    return f"; it is a copy of {same[-1]}" if same else ""


def _held_study(files: Path) -> list[str]:
    """Return the StudyInstanceUID of the first held file that has one, in a list; an empty list without one."""
    with files.open(encoding="utf-8", newline="") as lines:
        for row in csv.DictReader(lines):
            uid = row.get("study_instance_uid") or ""
            # The value comes from a file and is pasted into a shell: only a UID may pass.
            if row["disposition"] == "held" and _UID.fullmatch(uid):
                return [uid]
    return []


def hint_of_kind(report: dict[str, Any]) -> list[str]:
    """Return a line if all files are of another kind than the pipeline's."""
    for reason, (found, other) in _OTHER_KIND.items():
        number = _count_of(report["reasons"].get(reason, {"arrivals": 0}))
        if number and number == report["arrivals"]:
            return [f"{found}: {number} of {number} files. For these, try: make run PIPELINE={other} SOURCE=..."]
    return []
