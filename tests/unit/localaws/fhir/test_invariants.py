"""Invariants by FHIRPath."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from fhirpathpy.engine import base_invocation_registry

from localaws.fhir import invariants
from localaws.fhir.invariants import BEYOND_FHIRPATHPY, NOT_EVALUATED, OPTIONS, broken_rule, broken_rules
from localaws.fhir.native_rules import native
from localaws.fhir.schema import Rule, schema
from localaws.fhir.structure import RuledElement, Walk

if TYPE_CHECKING:
    import pytest

NO_FUNCTIONS = {"and", "or", "xor", "implies", "in", "is", "as"}


def broken(resource: dict[str, Any]) -> list[tuple[str, str, str]]:
    walk = Walk()
    walk.start(resource)
    found = [issue for scope in walk.scopes for issue in broken_rules(scope)]
    return [(issue.severity, issue.diagnostics.partition(":")[0], issue.location[0]) for issue in found]


def functions(expression: str) -> set[str]:
    without_text = re.sub(r"'(?:[^'\\]|\\.)*'", "''", expression)
    return set(re.findall(r"(\w+)\(", without_text)) - NO_FUNCTIONS


def test_a_broken_invariant_is_named_with_its_place() -> None:
    contact = [{"gender": "male"}]
    assert broken({"resourceType": "Patient", "contact": contact}) == [("error", "pat-1", "Patient.contact[0]")]


def test_an_invariant_may_be_a_warning() -> None:
    resource = {"resourceType": "ValueSet", "status": "draft", "name": "no name of a class"}
    assert broken(resource) == [("warning", "vsd-0", "ValueSet")]


def test_best_practice_is_not_reported() -> None:
    assert "dom-6" in NOT_EVALUATED
    assert broken({"resourceType": "Patient"}) == []


def test_invariants_wait_for_a_sound_structure() -> None:
    assert broken({"resourceType": "Patient", "contact": [{"gender": "male"}], "colour": 1}) == []


def test_expressions_that_need_what_fhirpathpy_lacks_are_listed() -> None:
    has = base_invocation_registry.keys() | OPTIONS["userInvocationTable"].keys()
    by_fhirpath = [rule for rule in schema().rules if not native(rule) and rule.key not in NOT_EVALUATED]
    assert {rule.key for rule in by_fhirpath if functions(rule.expression) - has} == BEYOND_FHIRPATHPY


def test_every_expression_compiles() -> None:
    for rule in schema().rules:
        invariants._compiled(rule.expression)


def test_an_expression_that_breaks_is_said_and_refuses_nothing() -> None:
    walk = Walk()
    walk.start({"resourceType": "Patient"})
    rule = Rule("x-1", "error", "x", "noSuchFunction()")
    issue = broken_rule(rule, RuledElement((rule,), {"resourceType": "Patient"}, "Patient", "Patient"), walk.scopes[0])
    assert issue is not None
    assert (issue.severity, issue.code) == ("information", "not-supported")


def test_what_is_too_large_is_said_and_refuses_nothing() -> None:
    concepts = [{"code": f"c{number}"} for number in range(invariants.LARGEST)]
    resource = {"resourceType": "CodeSystem", "status": "draft", "content": "complete", "concept": concepts}
    assert {severity for severity, *_ in broken(resource)} == {"information"}


def test_nothing_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """fhirpathpy prints what trace() is given, and the specification's expressions call it."""
    walk = Walk()
    walk.start(
        {"resourceType": "List", "status": "current", "mode": "changes", "entry": [{"item": {"display": "Jane"}}]}
    )
    for rule in schema().rules:
        if "trace(" in rule.expression and not native(rule):
            broken_rule(rule, RuledElement((rule,), walk.scopes[0].resource, "List", "List"), walk.scopes[0])
    assert capsys.readouterr().out == ""
