from __future__ import annotations

from typing import Any

import pytest

from healthaws.outcomes import Issue, issues_of


def outcome(**issue: Any) -> dict[str, Any]:
    return {"resourceType": "OperationOutcome", "issue": [{"severity": "error", "code": "value", **issue}]}


def only(**issue: Any) -> Issue:
    (found,) = issues_of(outcome(**issue))
    return found


def test_severity_code_and_element_are_kept() -> None:
    assert only(expression=["Patient.name[0].given[1]"]) == Issue("error", "value", "Patient.name[0].given[1]")
    assert str(only(expression=["Patient.birthDate"])) == "value at Patient.birthDate"
    assert str(only()) == "value"


def test_location_is_taken_where_there_is_no_expression() -> None:
    assert only(location=["Patient.gender", "Patient"]).expression == "Patient.gender"


@pytest.mark.parametrize(
    ("severity", "is_error"), [("fatal", True), ("error", True), ("warning", False), ("information", False)]
)
def test_errors(severity: str, is_error: bool) -> None:
    assert only(severity=severity).is_error is is_error


@pytest.mark.parametrize(
    ("told", "kept"),
    [
        ("Patient.identifier.where(value='4711')", "Patient.identifier.where"),
        ("Patient.extension('http://x').value", "Patient.extension"),
        ("/Patient[1]/name", ""),
        ("4711", ""),
        ("Müller", "M"),
        (7, ""),
    ],
)
def test_of_an_expression_only_the_elements_are_kept(told: Any, kept: str) -> None:
    assert only(expression=[told]).expression == kept


def test_texts_are_not_kept() -> None:
    issue = only(diagnostics="Müller is no date", details={"text": "Müller"})
    assert "Müller" not in repr(issue)


def test_what_is_no_code_becomes_unknown_and_what_is_no_severity_an_error() -> None:
    assert only(code="Müller 4711", severity="bad") == Issue("error", "unknown")
    assert only(code=None, severity=None).is_error


@pytest.mark.parametrize("body", [None, [], "x", {"resourceType": "Patient"}, {"resourceType": "OperationOutcome"}])
def test_what_is_no_outcome_has_no_issues(body: Any) -> None:
    assert issues_of(body) == ()
