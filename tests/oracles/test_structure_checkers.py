"""What could replace fhirkit-rs behind `airlock.clinical.structure.check`; docs/dependencies.md has the figures."""

from __future__ import annotations

import os
import subprocess
import tarfile
from typing import TYPE_CHECKING

import pytest

from tests.oracles.cases import cases
from tests.oracles.structure_checkers import (
    CHECKERS,
    OTHER,
    STRUCTURAL,
    missed_faults,
    read_examples,
    refused_good_cases,
)
from tests.oracles.test_examples import PACKAGE

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.proof
# Examples that are wrong (docs/fhir-validation.md). The library does not look into narratives, of which four are empty.
LACKING = {"ImplementationGuide-fhir", "Questionnaire-qs1"}
EMPTY_NARRATIVES = {
    *("ActivityDefinition-blood-tubes-supply", "ActivityDefinition-heart-valve-replacement", "EventDefinition-example"),
    "Questionnaire-zika-virus-exposure-assessment",
}
WRONG_EXAMPLES = {"fhirkit-rs": LACKING, "own": LACKING | EMPTY_NARRATIVES}


def test_every_fault_is_one_of_the_structure_or_another() -> None:
    assert {case.fault for case in cases() if case.fault} == STRUCTURAL | OTHER


def test_the_emulators_validator_finds_every_structural_fault_and_refuses_no_good_resource() -> None:
    own = CHECKERS["own"]
    assert missed_faults(own) == {}
    assert refused_good_cases(own) == set()


def test_the_library_refuses_no_good_resource() -> None:
    assert refused_good_cases(CHECKERS["fhirkit-rs"]) == set()


def test_the_emulators_validator_misses_nothing_that_the_library_finds() -> None:
    assert set(missed_faults(CHECKERS["own"])) <= set(missed_faults(CHECKERS["fhirkit-rs"]))


@pytest.mark.timeout(900)
@pytest.mark.skipif("AIRLOCK_ORACLES" not in os.environ, reason="asks npm: AIRLOCK_ORACLES=1")
def test_library_and_emulator_refuse_only_wrong_ones_of_fhirs_examples(tmp_path: Path) -> None:
    subprocess.run(["npm", "pack", "--silent", PACKAGE], cwd=tmp_path, check=True, capture_output=True)
    (archive,) = tmp_path.glob("*.tgz")
    with tarfile.open(archive) as packed:
        packed.extractall(tmp_path, filter="data")
    examples = read_examples(tmp_path / "package")
    assert len(examples) == 701
    for name, wrong in WRONG_EXAMPLES.items():
        assert {key for key, text in examples.items() if CHECKERS[name](text)} == wrong, name
