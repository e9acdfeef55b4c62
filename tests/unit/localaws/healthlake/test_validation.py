"""The mark that the level ``minimal`` leaves in a resource."""

from __future__ import annotations

import json

import pytest

from localaws.fhir import Issue, Level
from localaws.healthlake.exchange import FhirError
from localaws.healthlake.validation import ISSUE_EXTENSION, check_resource, mark_issues
from tests.unit.localaws.healthlake.rest_plane import PATIENT, changed, validator

ISSUES = (Issue("warning", "value", "must be a date", ("Patient.birthDate",)),)
OTHER = {"url": "http://example.org/other", "valueString": "x"}


def test_issues_are_kept_in_one_extension_beside_others() -> None:
    once = mark_issues(changed(PATIENT, extension=[OTHER]), ISSUES)
    twice = mark_issues(once, ISSUES)
    assert once == twice
    other, mark = twice["extension"]
    assert (other, mark["url"]) == (OTHER, ISSUE_EXTENSION)
    assert json.loads(mark["valueString"])["issue"][0]["location"] == ["Patient.birthDate"]


def test_a_mark_goes_when_nothing_is_wrong_any_more() -> None:
    assert mark_issues(mark_issues(PATIENT, ISSUES), ()) == PATIENT
    assert mark_issues(mark_issues(changed(PATIENT, extension=[OTHER]), ISSUES), ())["extension"] == [OTHER]


def test_an_extension_that_is_no_list_is_kept_as_it_is() -> None:
    assert mark_issues(changed(PATIENT, extension=7), ())["extension"] == 7
    kept, mark = mark_issues(changed(PATIENT, extension=7), ISSUES)["extension"]
    assert (kept, mark["url"]) == (7, ISSUE_EXTENSION)


def test_the_resource_that_was_sent_is_not_changed() -> None:
    sent = changed(PATIENT, extension=[OTHER])
    mark_issues(sent, ISSUES)
    assert sent["extension"] == [OTHER]


def test_only_minimal_stores_what_the_others_refuse() -> None:
    bad = changed(PATIENT, birthDate="2024-13-45")
    for level in (Level.STRICT, Level.STRUCTURE_ONLY):
        with pytest.raises(FhirError) as caught:
            check_resource(validator(), bad, level)
        assert (caught.value.status, caught.value.issues[0].location) == (400, ("Patient.birthDate",))
    stored, issues = check_resource(validator(), bad, Level.MINIMAL)
    assert issues
    assert stored["extension"][0]["url"] == ISSUE_EXTENSION
    assert check_resource(validator(), PATIENT, Level.MINIMAL) == (PATIENT, ())
