"""Issues and the OperationOutcome made of them."""

from __future__ import annotations

from localaws.fhir import Findings, Issue, operation_outcome


def test_a_valid_resource_gets_one_informational_issue() -> None:
    assert operation_outcome(()) == {
        "resourceType": "OperationOutcome",
        "issue": [
            {
                "severity": "information",
                "code": "informational",
                "details": {"text": "Informational Note"},
                "diagnostics": "Validation successful",
            }
        ],
    }


def test_an_issue_says_what_is_wrong_and_where() -> None:
    issue = Issue("error", "required", "Observation.status is required", ("Observation.status",))
    assert issue.to_json() == {
        "severity": "error",
        "code": "required",
        "details": {"text": "Required element missing"},
        "diagnostics": "Observation.status is required",
        "location": ["Observation.status"],
    }


def test_only_errors_and_fatal_issues_refuse() -> None:
    def rejected(*severities: str) -> bool:
        return Findings.of(Issue(severity, "invalid", "x") for severity in severities).rejected

    assert not rejected()
    assert not rejected("warning", "information")
    assert rejected("warning", "error")
    assert rejected("fatal")
