"""A FHIR endpoint over a database of its own, called without HTTP, and resources to send to it."""

from __future__ import annotations

import copy
import json
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, quote

from localaws.fhir import Validator
from localaws.healthlake.rest import FhirEndpoint
from localaws.healthlake.store import ResourceStore
from localaws.healthlake.tables import TABLES
from localaws.protocol import Call
from localaws.schedule import Schedule
from localaws.state import State

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from localaws.healthlake.bundles import Limits

Resource = dict[str, Any]

PATIENT: Resource = {
    "resourceType": "Patient",
    "id": "p1",
    "identifier": [{"system": "urn:example:mrn", "value": "M1"}],
    "name": [{"family": "Doe", "given": ["Jo", "Ann"]}],
    "telecom": [{"system": "email", "value": "jo@example.org"}, {"system": "phone", "value": "555"}],
    "gender": "female",
    "birthDate": "1970-01-02",
}
STUDY: Resource = {
    "resourceType": "ImagingStudy",
    "id": "s1",
    "identifier": [{"system": "urn:dicom:uid", "value": "urn:oid:1.2.3"}],
    "status": "available",
    "subject": {"reference": "Patient/p1"},
    "started": "2024-01-02T03:04:05Z",
    "endpoint": [{"reference": "Endpoint/e1"}],
    "series": [{"uid": "1.2.3.4", "modality": {"system": "urn:dcm", "code": "CT"}}],
}
ENDPOINT: Resource = {
    "resourceType": "Endpoint",
    "id": "e1",
    "status": "active",
    "connectionType": {
        "system": "http://terminology.hl7.org/CodeSystem/endpoint-connection-type",
        "code": "dicom-wado-rs",
    },
    "payloadType": [{"text": "DICOM"}],
    "address": "https://example.org/dicomweb",
}
OBSERVATION: Resource = {
    "resourceType": "Observation",
    "id": "o1",
    "status": "final",
    "code": {"coding": [{"system": "http://loinc.org", "code": "8867-4", "display": "Heart rate"}]},
    "subject": {"reference": "Patient/p1"},
    "effectiveDateTime": "2024-02-03",
    "valueQuantity": {"value": 72.5, "unit": "beats/min", "system": "http://unitsofmeasure.org", "code": "/min"},
}


def changed(resource: Resource, **elements: Any) -> Resource:
    """Return a copy with other elements; None takes one away."""
    merged = {**copy.deepcopy(resource), **elements}
    return {name: value for name, value in merged.items() if value is not None}


@cache
def validator() -> Validator:
    return Validator()


class Clock:
    """Time that passes only when a test says so."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Answer:
    status: int
    headers: Mapping[str, str]
    body: Any

    @property
    def codes(self) -> list[str]:
        """The codes of an OperationOutcome."""
        assert self.body["resourceType"] == "OperationOutcome"
        return [issue["code"] for issue in self.body["issue"]]

    @property
    def ids(self) -> list[str]:
        """The ids of the matches of a search."""
        return self._ids("match")

    @property
    def included(self) -> list[str]:
        return self._ids("include")

    def _ids(self, mode: str) -> list[str]:
        entries = self.body.get("entry", [])
        return [entry["resource"]["id"] for entry in entries if entry["search"]["mode"] == mode]

    @property
    def next_link(self) -> str | None:
        """What follows the base address in the next link, as it stands."""
        urls = [link["url"] for link in self.body["link"] if link["relation"] == "next"]
        return urls[0].partition("/r4/")[2] if urls else None

    @property
    def next(self) -> str | None:
        """The next link as a client has to send it: its bare equals signs encoded."""
        link = self.next_link
        return link and f"{link.rstrip('=')}{'%3D' * (len(link) - len(link.rstrip('=')))}"


@dataclass
class Plane:
    """One data store of one endpoint."""

    state: State
    store: ResourceStore
    endpoint: FhirEndpoint
    datastore_id: str = field(default_factory=lambda: uuid.uuid4().hex)

    @classmethod
    def open(cls, folder: Path, limits: Limits | None = None, **store: Any) -> Plane:
        state = State(folder / f"{uuid.uuid4().hex}.db", [TABLES])
        kept = ResourceStore(state, **store)
        endpoint = FhirEndpoint(
            state,
            kept,
            validator(),
            schedule=Schedule(state, ThreadPoolExecutor(1)),
            exists=lambda datastore_id: datastore_id != "gone",
            base_url="http://healthlake.test",
            limits=limits,
        )
        return cls(state, kept, endpoint)

    def other_store(self) -> Plane:
        """Return an empty data store of the same endpoint."""
        return Plane(self.state, self.store, self.endpoint)

    def call(self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None) -> Call:
        address, _, query = path.partition("?")
        raw = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        raw_path = f"/datastore/{self.datastore_id}/r4/{quote(address, safe='/$%')}"
        return Call(method, raw_path, parse_qs(query, keep_blank_values=True), headers or {}, raw, query)

    def send(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        named = {name.replace("_", "-"): text for name, text in headers.items()}
        response = self.endpoint.answer(self.call(method, path, body, named))
        return Answer(response.status_code, response.headers, json.loads(response.body) if response.body else None)

    def get(self, path: str, **headers: str) -> Answer:
        return self.send("GET", path, **headers)

    def put(self, resource: Resource, **headers: str) -> Answer:
        return self.send("PUT", f"{resource['resourceType']}/{resource['id']}", resource, **headers)

    def fill(self, resources: Iterable[Resource]) -> None:
        """Store resources without asking a validator."""
        with self.state.write() as connection:
            for resource in resources:
                self.store.put(connection, self.datastore_id, resource)
