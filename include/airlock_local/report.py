"""The audit as a person reads it at the terminal, from the run's report.json."""

from __future__ import annotations

from typing import Any

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
    if "resources" not in report:
        return f"{report['arrivals']} arrivals"
    return f"{report['resources']} resources in {report['arrivals']} files"


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
