"""The audit as a person reads it at the terminal, from the run's report.json."""

from __future__ import annotations

from typing import Any


def audit_lines(report: dict[str, Any], delivered: int) -> list[str]:
    """Lay out the audit of a run.

    Parameters
    ----------
    report
        report.json.
    delivered
        How many files the delivery has; when none of them is an arrival, earlier runs settled them.
    """
    studies = report["studies"]
    lines = ["", f"audit: {report['arrivals']} arrivals, {_balance(report)}"]
    if not report["arrivals"]:
        lines.append(f"nothing new: {delivered} files were settled by earlier runs")
    elif delivered > report["arrivals"]:
        lines.append(f"{delivered - report['arrivals']} of {delivered} files were settled by earlier runs")
    lines += [f"  {title:<13} {_counts(report[title])}" for title in ("verdicts", "outcomes", "dispositions")]
    lines.append(f"  {'studies':<13} {_counts(studies)}")
    lines.append(f"  {'import jobs':<13} {len(report['jobs'])}")
    if report["reasons"]:
        lines.append("  reasons")
    lines += [f"  {reason['arrivals']:>5}  {code}: {reason['sentence']}" for code, reason in report["reasons"].items()]
    return lines


def _balance(report: dict[str, Any]) -> str:
    if report["balanced"]:
        return "the books balance"
    return "THE BOOKS DO NOT BALANCE, so nothing is released: " + "; ".join(report["problems"])


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{number} {name}" for name, number in counts.items() if number) or "none"
