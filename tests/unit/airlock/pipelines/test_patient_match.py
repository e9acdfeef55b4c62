"""The rules by which a study's Patient is found: a closed list, and a wrong one is refused with the fix."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from airlock.pipelines import Publish
from airlock.pipelines.patient_match import PLACEHOLDER_IDS
from airlock.pipelines.rules import matches
from tests.unit.airlock.world import pipeline

MRN = "urn:oid:1.2.3"
RULE = {"type": "identifier", "system": MRN}
CROSSWALK = {"type": "crosswalk", "uri": "s3://lists/crosswalk.csv"}


def publish(*rules: dict[str, Any], **more: Any) -> Publish:
    content = {"issuer_systems": {"NORTH": MRN}, "patient_match": {"rules": list(rules)} | more}
    return Publish.model_validate(content)


def test_it_is_off_unless_it_is_asked_for() -> None:
    assert Publish().patient_match is None


def test_rules_are_read_by_their_type() -> None:
    found = publish(RULE, CROSSWALK, {"type": "order", "system": "urn:orders"}).patient_match
    assert found is not None
    assert (found.systems, found.crosswalk, found.order_systems) == (
        {MRN},
        "s3://lists/crosswalk.csv",
        {"": "urn:orders"},
    )


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        ([RULE | {"system": "urn:other"}], "no issuer has the system 'urn:other' (there are: urn:oid:1.2.3)"),
        ([], "at least 1 item"),
        ([CROSSWALK], "no rule of type identifier"),
        ([RULE, CROSSWALK, CROSSWALK], "more than one crosswalk"),
        ([RULE, {"type": "order", "system": "a"}, {"type": "order", "system": "b"}], "two rules of type order"),
        ([{"type": "name"}], "does not match any of the expected tags"),
        ([RULE | {"guard": False}], "Extra inputs are not permitted"),
        ([RULE, {"type": "crosswalk", "uri": "s3://lists/"}], "is not the address of one object"),
    ],
)
def test_a_rule_that_cannot_be_meant_is_refused(rules: list[dict[str, Any]], said: str) -> None:
    with pytest.raises(ValidationError) as raised:
        publish(*rules)
    assert said in str(raised.value)


def test_orders_of_several_sites_need_a_rule_each() -> None:
    match: dict[str, Any] = {"issuer_systems": {"NORTH": MRN}, "patient_match": {"rules": [RULE]}}
    with pytest.raises(ValidationError, match="add a rule of type order for each site"):
        pipeline(publish=match, source={"site_pattern": "^in/(?P<site>[^/]+)/"})
    order = {"type": "order", "site": "n", "system": "a"}
    named = match | {"patient_match": {"rules": [RULE, order]}}
    with pytest.raises(ValidationError, match="names the site 'n', but the source is one site"):
        pipeline(publish=named)
    assert pipeline(publish=named, source={"site_pattern": "^in/(?P<site>[^/]+)/"})


NOBODY = (
    *("", "0", "0000", "-", "...", "1111", "7777777", "999", "999999", "1234", "0123456", "1234567890"),
    *("000-00-0000", "999-99-9999", "0 0 0", "UNK001", "TMP123", "TESTPATIENT", "TEST PATIENT 2", "TRAUMA MALE 1"),
    *("JOHN DOE", "DOE^JANE", "TEST", "test01", "Unknown", "UNK", "n/a", "NONE", "Anonymous", "TRAUMA 12"),
    *("emergency#3", "xxxx", "No Name"),
)
SOMEBODY = (
    *("1", "42", "111", "100000", "12345A", "TESTA", "Nilsson1", "X123", "QA77", "0012", "PID-1", "4711", "90210"),
    *("00-12", "1-1-1", "Johnson", "JOHN-4A"),
)


CASES = [(one, True) for one in NOBODY] + [(one, False) for one in SOMEBODY]


@pytest.mark.parametrize(("number", "names_nobody"), CASES)
def test_the_default_patterns_tell_placeholders_from_numbers(number: str, names_nobody: bool) -> None:
    assert any(matches(pattern, number) for pattern in PLACEHOLDER_IDS) is names_nobody


def test_orders_are_linked_or_made_but_not_both() -> None:
    made = {"issuer_systems": {"NORTH": MRN}, "service_requests": True, "patient_match": {"rules": [RULE]}}
    with pytest.raises(ValidationError, match="service_requests would make orders beside those"):
        Publish.model_validate(made)
