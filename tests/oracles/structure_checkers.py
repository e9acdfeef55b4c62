"""The local structure check of Airlock, and what could take the place of the library in it.

``python -m tests.oracles.structure_checkers FOLDER`` compares them on the resources of `tests.oracles.cases` and on the
JSON files of a folder, for example those of hl7.fhir.r4.examples: faults found, good resources refused, time.
"""

from __future__ import annotations

import json
import re
import statistics
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fhir.resources.R4B import get_fhir_model_class

from airlock.clinical.structure import check
from localaws.fhir import Level, Validator
from tests.oracles.cases import cases

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

# Faults that the structure alone shows: no code, reference target, invariant or profile is needed to see them.
STRUCTURAL = {
    *("missing element", "unknown element", "two types of one choice", "primitive out of range or form", "bad id"),
    *(
        "date of another form",
        "impossible day",
        "empty array",
        "empty object",
        "empty string",
        "null",
        "null in an array",
    ),
    *("string for a number", "number for a string", "string for an object", "object for an array"),
    *("array for a single value", "single value for an array"),
}
OTHER = {
    *("code outside a required binding", "reference to a wrong type", "broken invariant", "bad narrative"),
    *("broken invariant on references or contained resources", "fault against a profile", "fault in a nested resource"),
}
# Files that describe the specification itself, and Bundles, which Airlock cuts into their entries first.
LEFT_OUT = re.compile(
    r"(Bundle|SearchParameter|ValueSet|CodeSystem|StructureDefinition|ConceptMap|OperationDefinition)-"
)
TURNS = 3


def refused_by_fhirkit(text: str) -> bool:
    """Return whether the seam refuses a resource: `airlock.clinical.structure.check`, which calls fhirkit-rs."""
    return check(text) is not None


_OWN = Validator("structure")


def refused_by_own(text: str) -> bool:
    """Return whether the emulator's validator refuses a resource for its structure alone."""
    return _OWN.check(json.loads(text), Level.STRUCTURE_ONLY).rejected


def refused_by_pydantic(text: str) -> bool:
    """Return whether fhir.resources refuses a resource; it has R4B (4.3.0) and no R4."""
    try:
        get_fhir_model_class(json.loads(text)["resourceType"]).model_validate_json(text)
    except (ValueError, LookupError):  # a ValidationError is a ValueError; R4B lacks some types of R4
        return True
    return False


CHECKERS: dict[str, Callable[[str], bool]] = {
    "fhirkit-rs": refused_by_fhirkit,
    "own": refused_by_own,
    "fhir.resources": refused_by_pydantic,
}


def missed_faults(refuses: Callable[[str], bool]) -> Counter[str]:
    """Return how many structural faults of the cases a checker does not find, by fault."""
    return Counter(
        case.fault for case in cases() if case.fault in STRUCTURAL and not refuses(json.dumps(case.resource))
    )


def refused_good_cases(refuses: Callable[[str], bool]) -> set[str]:
    """Return the names of the good cases that a checker refuses."""
    return {case.name for case in cases() if not case.fault and refuses(json.dumps(case.resource))}


def read_examples(folder: Path) -> dict[str, str]:
    """Return the resources of a folder by the file's name, without those that are left out."""
    files = [file for file in sorted(folder.glob("[A-Z]*-*.json")) if not LEFT_OUT.match(file.name)]
    return {file.stem: file.read_text(encoding="utf-8") for file in files}


def measure(refuses: Callable[[str], bool], texts: Iterable[str]) -> float:
    """Return the CPU microseconds of a check per resource: the median of some turns, after one that is not counted."""
    every = list(texts)
    turns = []
    for _ in range(TURNS + 1):
        begin = time.process_time()
        for text in every:
            refuses(text)
        turns.append((time.process_time() - begin) / len(every) * 1e6)
    return statistics.median(turns[1:])


def main(folder: Path) -> None:
    """Print the comparison."""
    examples, structural = read_examples(folder), sum(case.fault in STRUCTURAL for case in cases())
    small = [json.dumps(case.resource) for case in cases() if not case.fault]
    sys.stdout.write(f"{structural} structural faults, {len(small)} good cases, {len(examples)} examples\n")
    for name, refuses in CHECKERS.items():
        missed, refused = missed_faults(refuses), {key for key, text in examples.items() if refuses(text)}
        figures: dict[str, Any] = {
            "faults found": structural - missed.total(),
            "missed": dict(missed),
            "good cases refused": sorted(refused_good_cases(refuses)),
            "examples refused": len(refused),
            "of these": sorted(refused)[:12],
            "us per good case": round(measure(refuses, small), 1),
            "us per example": round(measure(refuses, examples.values()), 1),
        }
        sys.stdout.write(f"{name}: {json.dumps(figures)}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
