"""What a HealthLake data store holds, by FHIR search, which takes one resource type at a time."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import dropwhile, islice
from typing import TYPE_CHECKING, Any, Protocol

import polars as pl

from airlock.clinical.resources import RESOURCE_TYPES
from airlock.ledger import FOREIGN
from airlock.stages.adopt import PAGE_ROWS, Estimate, Page

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

PAGE = 100  # resources in an answer, at most
# A data store that somebody uses has one of these.
COMMON_TYPES = (
    *("Patient", "Practitioner", "Organization", "Location", "Encounter", "Observation"),
    *("DocumentReference", "ImagingStudy"),
)
ALL_TYPES = tuple(sorted(RESOURCE_TYPES))


class FhirSearch(Protocol):
    """The FHIR search of one data store."""

    def search(self, resource_type: str, params: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """Yield the resources that are found, page after page."""


class CountingFhirSearch(FhirSearch, Protocol):
    """A FHIR search that also counts."""

    def count(self, resource_type: str) -> int:
        """Return how many resources of a type there are."""


@dataclass(frozen=True)
class CommonResources:
    """The search for resources of the common types of one data store."""

    fhir: FhirSearch

    def find_any(self) -> str | None:
        """Return the first type of which there is a resource, as "resources of type Patient"."""
        for name in COMMON_TYPES:
            if next(self.fhir.search(name, {"_count": 1, "_elements": "id"}), None) is not None:
                return f"resources of type {name}"
        return None


@dataclass(frozen=True)
class AllResources:
    """The search for resources of all types, or some, of one data store."""

    fhir: CountingFhirSearch
    requests_per_second: float = 20
    types: tuple[str, ...] = ALL_TYPES  # sorted

    def find_any(self) -> str | None:
        """Return what there is, by the common types."""
        return CommonResources(self.fhir).find_any()

    def estimate(self) -> Estimate:
        """Return how many resources there are, type by type."""
        numbers = [self.fhir.count(name) for name in ALL_TYPES]
        requests = sum(max(1, -(-number // PAGE)) for number in numbers)
        there = ", ".join(f"{name} {number:,}" for name, number in zip(ALL_TYPES, numbers, strict=True) if number)
        asked = f"each of the {len(ALL_TYPES)} resource types of FHIR R4 ({there or 'none has any'})"
        return Estimate(sum(numbers), requests, is_exact=True, asked=asked)

    def pages(self, position: dict[str, Any] | None) -> Iterator[Page]:
        """Yield resources by type, and within a type in the order of their last change, from the position on."""
        first, since = (position["type"], position["since"]) if position else (self.types[0], None)
        for name in dropwhile(lambda item: item < first, self.types):
            order: dict[str, Any] = {"_count": PAGE, "_elements": "id,meta", "_sort": "_lastUpdated"}
            narrow = {"_lastUpdated": f"ge{since}"} if since and name == first else {}
            found = self.fhir.search(name, order | narrow)
            while some := list(islice(found, PAGE_ROWS)):
                yield _page(name, some)


def _page(name: str, resources: list[dict[str, Any]]) -> Page:
    rows = [(f"{name}/{item['id']}", None, _version(item), None) for item in resources]
    frame = pl.DataFrame(rows, schema=FOREIGN, orient="row")
    position = {"type": name, "since": resources[-1].get("meta", {}).get("lastUpdated")}
    return Page(frame, position, f"at {name}, {ALL_TYPES.index(name) + 1} of {len(ALL_TYPES)} types")


def _version(resource: dict[str, Any]) -> int | None:
    version = resource.get("meta", {}).get("versionId", "")
    return int(version) if version.isdecimal() else None
