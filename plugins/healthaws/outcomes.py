"""The parts of an OperationOutcome that are safe to log: codes and elements, never values."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

ERRORS = frozenset({"fatal", "error"})
SEVERITY = re.compile(r"fatal|error|warning|information")
CODE = re.compile(r"[a-z][a-z-]{1,39}")
# The part of an expression that names elements; what follows may be a filter with a value in it.
ELEMENT = re.compile(r"[A-Za-z]\w*(?:\[\d+\])?(?:\.[A-Za-z]\w*(?:\[\d+\])?)*", re.ASCII)


@dataclass(frozen=True)
class Issue:
    """
    One issue of an OperationOutcome without its texts, which may quote the resource.

    Attributes
    ----------
    severity : str
        fatal, error, warning or information.
    code : str
        Of http://hl7.org/fhir/ValueSet/issue-type.
    expression : str
        The first element that the issue names, as in ``Patient.name[0].given``; empty if it names none.

    See Also
    --------
    https://hl7.org/fhir/R4/operationoutcome.html
    """

    severity: str
    code: str
    expression: str = ""

    @property
    def is_error(self) -> bool:
        """Whether the issue makes the resource or the request invalid."""
        return self.severity in ERRORS

    def __str__(self) -> str:
        return f"{self.code} at {self.expression}" if self.expression else self.code


def issues_of(outcome: Any) -> tuple[Issue, ...]:
    """
    Return the issues of an OperationOutcome.

    Parameters
    ----------
    outcome : Any
        A parsed body; any other body than an OperationOutcome has no issues.
    """
    if not isinstance(outcome, dict) or outcome.get("resourceType") != "OperationOutcome":
        return ()
    return tuple(_issue(issue) for issue in outcome.get("issue") or () if isinstance(issue, dict))


def _issue(issue: Mapping[str, Any]) -> Issue:
    # HealthLake documents `location` where FHIR R4 prefers `expression`.
    elements = issue.get("expression") or issue.get("location") or [""]
    return Issue(
        severity=_match(SEVERITY, issue.get("severity"), whole=True) or "error",
        code=_match(CODE, issue.get("code"), whole=True) or "unknown",
        expression=_match(ELEMENT, elements[0] if isinstance(elements, list) else "", whole=False),
    )


def _match(pattern: re.Pattern[str], value: Any, *, whole: bool) -> str:
    found = (pattern.fullmatch if whole else pattern.match)(value if isinstance(value, str) else "")
    return found.group() if found else ""
