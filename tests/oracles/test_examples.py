"""The examples that HL7 publishes with FHIR R4: those that our validator refuses are in docs/fhir-validation.md."""

from __future__ import annotations

import json
import os
import re
import subprocess
import tarfile
from pathlib import Path

import pytest

from localaws.fhir import Level, Validator

PACKAGE = "hl7.fhir.r4.examples@4.0.1"
DOCUMENT = Path(__file__).parents[2] / "docs/fhir-validation.md"
# Bundles are cut into their entries before anything is checked; of the rest the specification itself is made.
LEFT_OUT = re.compile(
    r"(Bundle|SearchParameter|ValueSet|CodeSystem|StructureDefinition|ConceptMap|OperationDefinition)-"
)


def listed() -> set[str]:
    """Return the examples that the document says are wrong."""
    text = DOCUMENT.read_text(encoding="utf-8").partition("## FHIR's own examples")[2].partition("\n## ")[0]
    return set(re.findall(r"^\| `([A-Z][\w.-]+)` \|", text, re.MULTILINE))


def test_the_document_lists_some_examples() -> None:
    assert len(listed()) == 10


@pytest.mark.proof
@pytest.mark.timeout(900)
@pytest.mark.skipif("AIRLOCK_ORACLES" not in os.environ, reason="asks npm: AIRLOCK_ORACLES=1")
def test_the_examples_that_are_refused_are_those_listed(tmp_path: Path) -> None:
    subprocess.run(["npm", "pack", "--silent", PACKAGE], cwd=tmp_path, check=True, capture_output=True)
    (archive,) = tmp_path.glob("*.tgz")
    with tarfile.open(archive) as packed:
        packed.extractall(tmp_path, filter="data")
    files = [file for file in (tmp_path / "package").glob("[A-Z]*-*.json") if not LEFT_OUT.match(file.name)]
    assert len(files) == 701
    validator = Validator()
    refused = {
        file.stem
        for file in files
        if validator.check(json.loads(file.read_text(encoding="utf-8")), Level.STRICT).rejected
    }
    assert refused == listed()
