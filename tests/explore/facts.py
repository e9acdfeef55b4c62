"""What the explorer knows and Airlock does not: what every object really is, and when each thing happened."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tests.explore import contents

if TYPE_CHECKING:
    from datetime import datetime

    from tests.explore.books import ArrivalRow
    from tests.explore.contents import Image
    from tests.explore.services import Services
    from tests.explore.waves import Part


@dataclass(frozen=True)
class Put:
    """An object that was uploaded."""

    number: int
    key: str
    content: str
    at: datetime
    last_modified: datetime
    gone_at: datetime | None = None  # replaced or deleted


@dataclass(frozen=True)
class Violation:
    """A broken invariant of DESIGN.md section 2."""

    invariant: int
    text: str

    def __str__(self) -> str:
        return f"invariant {self.invariant}: {self.text}"


@dataclass
class Facts:
    """The facts of a history so far."""

    services: Services
    puts: list[Put] = field(default_factory=list)
    names: dict[str, str] = field(default_factory=dict)  # of the runs, by run key
    validated: set[str] = field(default_factory=set)  # keys of the runs whose validate has ended
    stored: dict[str, int] = field(default_factory=dict)  # the put that the data store shows, by resource
    digests: dict[str, str] = field(default_factory=dict)  # variant by content digest
    by_etag: dict[str, str] = field(default_factory=dict)
    siblings: dict[tuple[str, str], str] = field(default_factory=dict)  # studies of unreadable files, by arrival
    parts: dict[str, Part] = field(default_factory=dict)  # of deliveries whose studies wait, by the wave's run key
    given_back: set[str] = field(default_factory=set)  # keys of the runs that an operator has given up

    def add_put(self, put: Put) -> None:
        """Note an upload; it ends what was under its key."""
        self.end_put(put.key, put.at)
        self.puts.append(put)
        self.by_etag[contents.etag_of(put.content)] = put.content
        variants = contents.variants_of(put.content)
        self.digests |= {
            digest: variants[name] for name, digest in contents.resources_of(put.content).items() if name in variants
        }

    def end_put(self, key: str, at: datetime) -> None:
        """Note that the object under a key is gone."""
        self.puts = [
            Put(one.number, one.key, one.content, one.at, one.last_modified, at)
            if one.key == key and one.gone_at is None
            else one
            for one in self.puts
        ]

    def content(self, arrival: ArrivalRow) -> str:
        """Return what an arrival's object is."""
        return self.by_etag.get(arrival.etag, "")

    def image(self, arrival: ArrivalRow) -> Image | None:
        """Return what an arrival's image is; None if it is none."""
        return contents.image_of(self.content(arrival))

    def study(self, arrival: ArrivalRow) -> str | None:
        """Return the study of an arrival whose image Airlock accepts."""
        image = self.image(arrival)
        return image.study if image is not None and image.is_accepted else None

    def run(self, arrival: ArrivalRow) -> str:
        """Return the name of the run that holds an arrival."""
        return self.names.get(arrival.run_key, arrival.run_key)

    def describe(self, arrival: ArrivalRow) -> str:
        """Return an arrival for people."""
        word = f"{arrival.disposition}/{arrival.reason}" if arrival.reason else arrival.disposition or "unsettled"
        return f"{arrival.key} ({self.content(arrival)}) of run {self.run(arrival)} is {word}"

    def puts_of(self, resource: str, variant: str) -> list[Put]:
        """Return the uploads that brought a resource in this variant, the oldest content first."""
        found = [one for one in self.puts if contents.variants_of(one.content).get(resource) == variant]
        return sorted(found, key=lambda one: (one.last_modified, one.number))

    def read_store(self) -> dict[str, str]:
        """Return the variant of each resource of a file that is in the data store, by its reference."""
        brought = self._brought()
        return {name: contents.variant_of(one) for name, one in self._stored().items() if name in brought}

    def read_versions(self) -> set[tuple[str, str]]:
        """Return the variants of resources that the data store has had at any time, with their references."""
        resources = [json.loads(row["body"]) for row in self.services.state.rows("SELECT body FROM fhir_version")]
        named = ((f"{one['resourceType']}/{one['id']}", one) for one in resources)
        brought = self._brought()
        return {(name, contents.variant_of(one)) for name, one in named if name in brought}

    def read_published(self) -> dict[str, tuple[str, ...]]:
        """Return what each Patient and ImagingStudy that Airlock has made says, by its reference.

        Of a study these are its instances: its endpoints have the random ids of image sets.
        """
        brought = self._brought()
        made = {name: one for name, one in self._stored().items() if name not in brought}
        patients = {name: _tell_patient(one) for name, one in made.items() if one["resourceType"] == "Patient"}
        return patients | {name: _list_uids(one) for name, one in made.items() if one["resourceType"] == "ImagingStudy"}

    def _stored(self) -> dict[str, dict[str, Any]]:
        rows = self.services.state.rows("SELECT body FROM fhir_version WHERE superseded_at IS NULL AND NOT deleted")
        resources = [json.loads(row["body"]) for row in rows]
        return {f"{one['resourceType']}/{one['id']}": one for one in resources}

    def _brought(self) -> set[str]:
        return {name for one in self.puts for name in contents.variants_of(one.content)}


def _tell_patient(resource: dict[str, Any]) -> tuple[str, ...]:
    return (json.dumps({key: value for key, value in resource.items() if key != "meta"}, sort_keys=True),)


def _list_uids(study: dict[str, Any]) -> tuple[str, ...]:
    return tuple(sorted(one["uid"] for series in study["series"] for one in series["instance"]))
