"""What a HealthLake data store holds is read type by type."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any

from airlock.clinical.adopt import ALL_TYPES, COMMON_TYPES, AllResources, CommonResources

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


class Fhir:
    """A data store with so many resources of some types, one changed in each second."""

    def __init__(self, **numbers: int) -> None:
        self.numbers = numbers
        self.asked: list[tuple[str, dict[str, Any]]] = []

    def search(self, resource_type: str, params: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        self.asked.append((resource_type, dict(params)))
        since = str(params.get("_lastUpdated", "ge")).removeprefix("ge")
        for number in range(self.numbers.get(resource_type, 0)):
            changed = f"2026-11-29T00:{number // 60:02}:{number % 60:02}Z"
            if changed >= since:
                yield {"id": f"r{number}", "meta": {"versionId": "2", "lastUpdated": changed}}

    def count(self, resource_type: str) -> int:
        return self.numbers.get(resource_type, 0)


def test_a_run_asks_for_the_common_types_until_one_is_there() -> None:
    fhir = Fhir(Encounter=3, Observation=9)
    assert CommonResources(fhir).find_any() == "resources of type Encounter"
    assert [name for name, _ in fhir.asked] == [*COMMON_TYPES[: COMMON_TYPES.index("Encounter") + 1]]


def test_a_data_store_without_any_of_them_is_taken_for_a_new_one() -> None:
    assert CommonResources(Fhir(Medication=3)).find_any() is None


def test_the_estimate_counts_all_types_and_says_so() -> None:
    estimate = AllResources(Fhir(Patient=250, Medication=3)).estimate()
    assert (estimate.objects, estimate.is_exact) == (253, True)
    assert estimate.requests == len(ALL_TYPES) + 2
    assert estimate.asked == f"each of the {len(ALL_TYPES)} resource types of FHIR R4 (Medication 3, Patient 250)"


def test_all_resources_are_read_by_type() -> None:
    pages = list(AllResources(Fhir(Patient=1_200, Account=2)).pages(None))
    assert [page.rows.height for page in pages] == [2, 1_000, 200]
    assert pages[0].rows.row(0) == ("Account/r0", None, 2, None)
    assert pages[1].progress == f"at Patient, {ALL_TYPES.index('Patient') + 1} of {len(ALL_TYPES)} types"


def test_an_interrupted_reading_goes_on_within_the_type() -> None:
    fhir = Fhir(Patient=1_200, Account=2, Slot=1)
    _, second = islice(AllResources(fhir).pages(None), 2)
    fhir.asked.clear()
    rest = list(AllResources(fhir).pages(second.position))
    assert [page.rows.height for page in rest] == [201, 1]
    assert fhir.asked[0][0] == "Patient"
