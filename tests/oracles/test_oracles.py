"""Our validator against the fault that each case has, and against three others.

Every disagreement with another validator is in the table of docs/fhir-validation.md, with its reason.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from pathlib import Path

import fhirkit
import pytest

from localaws.fhir import Level, Validator
from localaws.fhir.schema import schema
from tests.oracles import ask
from tests.oracles.cases import Case, cases

DOCUMENT = Path(__file__).parents[2] / "docs/fhir-validation.md"
ORACLES = {"@medplum/core": "medplum", "fhir": "lantana"}
CASES = cases()
RECORD = json.loads(ask.ANSWERS.read_text(encoding="utf-8"))
OURS = Validator()


def listed() -> dict[tuple[str, str], set[str]]:
    """Return the disagreements in the table: the labels of the cases, by validator and fault."""
    lines = [line for line in DOCUMENT.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    rows = [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in lines]
    start = rows.index(["validator", "fault", "cases", "reason"])
    found = {}
    for validator, fault, which, reason in rows[start + 1 :]:
        assert len(reason) > 10, f"{validator}, {fault}: no reason"
        found[validator, fault] = expanded(fault, which)
    return found


def expanded(fault: str, which: str) -> set[str]:
    every = {case.label for case in CASES if (case.fault or "none") == fault}
    kind, _, names = which.partition(": ")
    some = set(names.split("; ")) if names else set()
    assert some <= every, f"{fault}: no such cases: {sorted(some - every)}"
    return {"all": every, "all but": every - some, "only": some}[kind]


def refused(case: Case) -> bool:
    return OURS.check(case.resource, Level.STRICT).rejected


def disagreements(validator: str, accepted: set[str]) -> dict[tuple[str, str], set[str]]:
    found = defaultdict(set)
    for case in CASES:
        if (case.name in accepted) == refused(case):
            found[validator, case.fault or "none"].add(case.label)
    return dict(found)


def of(validator: str) -> dict[tuple[str, str], set[str]]:
    return {key: labels for key, labels in listed().items() if key[0] == validator}


def test_there_are_some_hundred_cases_each_with_a_name_of_its_own() -> None:
    assert len({case.name for case in CASES}) == len(CASES) == RECORD["cases"]
    assert len(CASES) > 400


def test_the_document_counts_as_we_do() -> None:
    text = " ".join(DOCUMENT.read_text(encoding="utf-8").split())
    valid = sum(not case.fault for case in CASES)
    assert f"makes {len(CASES)} resources by code" in text
    assert f"{valid} valid, {len(CASES) - valid} with one fault each" in text
    assert f"published with FHIR: {len(schema().value_sets)} value sets" in text


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_our_verdict_is_that_of_the_fault(case: Case) -> None:
    findings = OURS.check(case.resource, Level.STRICT)
    assert findings.rejected is bool(case.fault), findings.issues


@pytest.mark.parametrize("validator", ORACLES)
def test_disagreements_with_the_npm_validators_are_those_listed(validator: str) -> None:
    accepted = set(RECORD["accepted"][ORACLES[validator]])
    assert accepted <= {case.name for case in CASES}
    assert disagreements(validator, accepted) == of(validator)


def test_disagreements_with_fhirkit_are_those_listed() -> None:
    def accepts(case: Case) -> bool:
        return not any(issue.severity == "error" for issue in fhirkit.validate(json.dumps(case.resource)))

    assert disagreements("fhirkit-rs", {case.name for case in CASES if accepts(case)}) == of("fhirkit-rs")


@pytest.mark.slow
@pytest.mark.skipif("AIRLOCK_ORACLES" not in os.environ, reason="asks npm: AIRLOCK_ORACLES=1")
def test_the_record_is_what_they_answer_today() -> None:
    assert ask.verdicts(ask.ask()) == RECORD["accepted"]
