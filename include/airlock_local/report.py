"""A run's reports on this machine: the audit as a person reads it at the terminal, and the files that people use."""

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
LISTS = ("dispositions.csv", "operation-outcomes.ndjson")  # the second one of clinical pipelines only
_UID = re.compile(r"[0-9.]{1,64}")
_SUBJECTS = ("studies", "publication", "patients", "files")  # what a report counts releases of, by its kind


def audit_lines(report: dict[str, Any], delivered: int) -> list[str]:
    """Lay out the audit of a run.

    Parameters
    ----------
    report
        report.json.
    delivered
        How many files the delivery has; when none of them is an arrival, earlier runs settled them.
    """
    lines = ["", f"audit: {_arrived(report)}, {_balance(report)}"]
    if not report["arrivals"]:
        lines.append(f"nothing new: {delivered} files were settled by earlier runs")
    elif delivered > report["arrivals"]:
        lines.append(f"{delivered - report['arrivals']} of {delivered} files were settled by earlier runs")
    titles = ("verdicts", "outcomes", "dispositions", *_SUBJECTS)
    lines += [f"  {title:<13} {_counts(report[title])}" for title in titles if title in report]
    if report.get("reading", {}).get("arrivals"):
        lines.append(f"  {'headers':<13} {_reading(report['reading'])}")
    if "validation_level" in report:
        lines.append(f"  {'validation':<13} {report['validation_level']}")
    lines.append(f"  {'import jobs':<13} {len(report['jobs'])}")
    if report["reasons"]:
        lines.append("  reasons")
    lines += [f"  {_number(reason):>5}  {code}: {reason['sentence']}" for code, reason in report["reasons"].items()]
    return lines


def _arrived(report: dict[str, Any]) -> str:
    return describe_units(report) if "resources" in report else f"{report['arrivals']} arrivals"


def _reading(reading: dict[str, Any]) -> str:
    cost = f"{reading['requests_per_arrival']:.2f} requests and {reading['kib_per_arrival']:.1f} KiB each"
    left = sum(reading["fallbacks"].values())
    return f"{cost}, {left} left to pydicom" if left else cost


def _number(reason: dict[str, Any]) -> int:
    number: int = reason["arrivals"] if "arrivals" in reason else reason["units"]
    return number


def _balance(report: dict[str, Any]) -> str:
    if report["balanced"]:
        return "the books balance"
    return "THE BOOKS DO NOT BALANCE, so nothing is released: " + "; ".join(report["problems"])


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{number} {name}" for name, number in counts.items() if number) or "none"


def show(var: Path, kept: Path) -> dict[str, Any]:
    """Copy a run's reports to where people look first, and return report.json.

    A run without arrivals leaves the lists there as they are: people may be at work on them.

    Parameters
    ----------
    var
        Where people look.
    kept
        The folder with the run's reports.
    """
    report: dict[str, Any] = json.loads((kept / "report.json").read_bytes())
    shutil.copy2(kept / "report.json", var)
    if report["arrivals"]:
        for name in LISTS:
            (var / name).unlink(missing_ok=True)
            if (kept / name).exists():
                shutil.copy2(kept / name, var)  # with its time, by which it is known again
    return report


def place_lines(report: dict[str, Any], var: Path, kept: Path) -> list[str]:
    """Return lines that name a run's reports, once `show` has copied them, and a command about a held study."""
    lines = ["", f"report: {var / 'report.json'}"]
    files, said = (var / name for name in LISTS)
    if report["arrivals"]:
        lines += [f"files:  {files}"]
        lines += [f"said:   {said}"] if said.exists() else []
        lines += [f'where:  make cli CMD="where {uid}"' for uid in _held_study(files)]
    elif files.exists():
        lines.append(f"files:  {files} is left as it is, since nothing arrived in this run{_origin(files, var)}")
    return [*lines, f"kept:   {kept}"]


def _origin(files: Path, var: Path) -> str:
    """Return the path of the same list among the kept reports; nothing if a person has changed it."""
    same = [path for path in sorted((var / REPORTS).glob(f"*/{files.name}")) if filecmp.cmp(path, files)]
    return f"; it is a copy of {same[-1]}" if same else ""


def _held_study(files: Path) -> list[str]:
    """Return the StudyInstanceUID of the first held file that has one: a list of one, or of none."""
    with files.open(encoding="utf-8", newline="") as lines:
        for row in csv.DictReader(lines):
            uid = row.get("study_instance_uid") or ""
            # What a file says of itself is copied into a shell: nothing but a UID may be.
            if row["disposition"] == "held" and _UID.fullmatch(uid):
                return [uid]
    return []
