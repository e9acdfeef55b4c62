"""The three levels, and what holds at each of them."""

from __future__ import annotations

import copy
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from localaws.fhir import Findings, Level, Validator, operation_outcome
from tests.oracles.cases import at, put
from tests.oracles.harmless import US_CORE, us_core_patient, with_
from tests.oracles.resources import BASES, BY_TYPE

VALIDATOR = Validator()
UNKNOWN_PROFILE = {"profile": ["http://x.example/StructureDefinition/x"]}


def levels(resource: object) -> tuple[bool, bool, bool]:
    """Return at which of strict, structure-only and minimal a resource is refused."""
    strict, structure_only, minimal = (VALIDATOR.check(resource, level).rejected for level in Level)
    return strict, structure_only, minimal


@pytest.mark.parametrize(
    ("fault", "resource", "refused"),
    [
        ("none", with_("ImagingStudy"), (False, False, False)),
        ("no object", ["Patient"], (True, True, True)),
        ("no type", {"id": "x"}, (True, True, True)),
        ("unknown type", {"resourceType": "Nonsense", "id": "x"}, (True, True, True)),
        ("abstract type", {"resourceType": "DomainResource", "id": "x"}, (True, True, True)),
        ("bad id", with_("Patient", id="a_b"), (True, True, True)),
        ("no id", with_("Patient", id=None), (False, False, False)),
        ("missing element", with_("ImagingStudy", subject=None), (True, True, False)),
        ("unknown element", with_("Patient", colour="blue"), (True, True, False)),
        ("impossible day", with_("ImagingStudy", started="2024-13-45"), (True, True, False)),
        ("wrong type", with_("ImagingStudy", numberOfSeries="one"), (True, True, False)),
        ("required binding", with_("Patient", gender="M"), (True, True, False)),
        ("reference target", with_("ImagingStudy", subject={"reference": "Practitioner/1"}), (True, True, False)),
        ("invariant", with_("Patient", contact=[{"gender": "male"}]), (True, True, False)),
        ("profile", us_core_patient(name=None), (True, False, False)),
        ("unknown profile", with_("Patient", meta=UNKNOWN_PROFILE), (True, False, False)),
    ],
)
def test_what_each_level_refuses(fault: str, resource: Any, refused: tuple[bool, bool, bool]) -> None:
    assert levels(resource) == refused, fault


def test_structure_only_may_mean_less() -> None:
    narrow = Validator(structure_only="structure")
    bad_code, bad_type = with_("Patient", gender="M"), with_("Patient", active="yes")
    assert narrow.check(bad_type, Level.STRUCTURE_ONLY).rejected
    assert not narrow.check(bad_code, Level.STRUCTURE_ONLY).rejected
    assert narrow.check(bad_code, Level.STRICT).rejected


def test_what_minimal_lets_pass_is_a_warning() -> None:
    findings = VALIDATOR.check(with_("ImagingStudy", subject=None), Level.MINIMAL)
    assert [(issue.severity, issue.code) for issue in findings.issues] == [("warning", "required")]


def test_a_profile_may_be_asked_for() -> None:
    patient = with_("Patient", name=None)
    assert not VALIDATOR.check(patient, Level.STRICT).rejected
    assert VALIDATOR.check(patient, Level.STRICT, profile=f"{US_CORE}us-core-patient").rejected
    assert VALIDATOR.knows_profile(f"{US_CORE}us-core-patient")
    assert not VALIDATOR.knows_profile("http://x.example/StructureDefinition/x")


def test_profiles_of_resources_inside_count() -> None:
    bundle = {"resourceType": "Bundle", "type": "collection", "entry": [{"resource": us_core_patient(name=None)}]}
    assert levels(bundle) == (True, False, False)


def test_which_types_there_are() -> None:
    assert VALIDATOR.knows_type("ImagingStudy")
    assert not VALIDATOR.knows_type("ImagingSelection")  # R5
    assert not VALIDATOR.knows_type("Resource")


@pytest.mark.parametrize("base", BASES, ids=lambda base: base.resource["resourceType"])
def test_a_good_resource_has_no_issues_and_is_left_as_it_was(base: Any) -> None:
    before = copy.deepcopy(base.resource)
    assert VALIDATOR.check(base.resource, Level.STRICT) == Findings(rejected=False, issues=())
    assert base.resource == before


def test_nothing_of_the_resource_is_quoted() -> None:
    """A fault at every place of a resource, with a word in it that no issue may repeat."""
    word = "Canary"
    for base in BASES:
        for path in (*base.required, *base.bound, *base.dates, *base.numbers, *base.repeating, *base.nested):
            for value in (word, [word], {word.lower() + " x": word}, {"reference": f"Account/{word}"}):
                resource = copy.deepcopy(base.resource)
                put(resource, path, value)
                findings = VALIDATOR.check(resource, Level.STRICT)
                assert word not in str(operation_outcome(findings.issues))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
PLACES = [
    (base.resource["resourceType"], path)
    for base in BASES
    for path in (*base.required, *base.bound, *base.references, *base.dates, *base.repeating, *base.nested)
]


@settings(max_examples=150)
@given(JSON)
def test_any_json_gets_findings(value: Any) -> None:
    for level in Level:
        assert VALIDATOR.check(value, level).rejected


@settings(max_examples=300)
@given(st.sampled_from(PLACES), JSON, st.sampled_from(Level))
def test_any_json_in_any_place_gets_findings(place: tuple[str, str], value: Any, level: Level) -> None:
    name, path = place
    resource = copy.deepcopy(BY_TYPE[name].resource) | {"meta": {"profile": [f"{US_CORE}us-core-patient"]}}
    assert at(resource, path) is not None
    put(resource, path, value)
    assert isinstance(VALIDATOR.check(resource, level), Findings)


def test_depth_and_size_do_no_harm() -> None:
    extension: Any = {"url": "http://x.example", "valueString": "x"}
    nested: Any = {"resourceType": "Patient"}
    for _ in range(300):
        extension = {"url": "http://x.example", "extension": [extension]}
        nested = {"resourceType": "Parameters", "parameter": [{"name": "x", "resource": nested}]}
    assert levels(with_("Patient", extension=[extension])) == (True, True, False)
    assert levels(nested) == (True, True, False)
    many = VALIDATOR.check(with_("Patient", telecom=[{"value": "1"}] * 2000), Level.STRICT)
    assert many.rejected
    assert len(many.issues) <= 200


def test_it_may_be_used_from_several_threads() -> None:
    resources = [base.resource for base in BASES] * 5
    with ThreadPoolExecutor(4) as pool:
        assert not any(pool.map(lambda resource: Validator().check(resource, Level.STRICT).issues, resources))


@pytest.mark.parametrize("name", ["Patient", "Observation", "ImagingStudy"])
def test_it_is_fast_enough_to_be_run_on_every_resource(name: str) -> None:
    resource = BY_TYPE[name].resource
    VALIDATOR.check(resource, Level.STRICT)

    def once() -> float:
        started = time.perf_counter()
        VALIDATOR.check(resource, Level.STRICT)
        return time.perf_counter() - started

    assert min(once() for _ in range(30)) < 0.002
