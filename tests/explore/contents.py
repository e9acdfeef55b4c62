"""The contents of a history's objects by short names, so that a history is a text: ``ct 1.1.2``, ``fhir p1=b o1``.

Images are ``<kind> <study>.<series>.<instance>``. FHIR files are lists of resources, each ``<id>[=<variant>]``; an id
that begins with p is a Patient, with o an Observation of patient p1, with a an AllergyIntolerance of patient p1, and
``o1/p2`` is of patient p2. With v begins an Encounter, and ``o1/p1+v1`` is of that visit. HealthLake refuses variant
``d``, which validate accepts.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cache
from typing import Any

from airlock.clinical.resources import describe
from tests.clinical_files import ndjson, observation, patient
from tests.dicom_files import ct, sop_uid, study_uid

CANARY = "Zqxjv"  # in every name of a patient: it must not be seen outside workspace, ledger and contracts
IMAGE_KINDS = {
    "ct": {},
    "header": {"StudyDescription": "another text"},
    "pixels": {"pixel": 7},
    "bad": {"PatientID": f"{CANARY}" * 60},  # its UIDs are read, then it is quarantined
    "noframes": {"PixelData": b"\0\0"},  # imported with a warning that holds its study
}
UNREAD_KINDS = ("empty", "garbage", "cut")
VARIANTS = ("male", "female", "other", "unknown")
REFUSED = "d"
_UNKNOWN_PROFILE = "http://example.org/StructureDefinition/of-nobody"
_STATUSES = ("final", "amended", "corrected", "preliminary")
_VISITS = ("finished", "in-progress", "arrived", "triaged")


@dataclass(frozen=True)
class Image:
    """What an object really is, whatever Airlock reads of it."""

    kind: str
    study: str  # StudyInstanceUID
    sop: str

    @property
    def is_read(self) -> bool:
        """Whether its header can be read."""
        return self.kind not in UNREAD_KINDS

    @property
    def is_accepted(self) -> bool:
        """Whether it is good enough to be imported."""
        return self.kind in {"ct", "header", "pixels", "noframes"}


@cache
def make(content: str) -> bytes:
    """Return the bytes of a content."""
    kind, _, rest = content.partition(" ")
    if kind == "fhir":
        return ndjson(*(_resource(word) for word in rest.split()))
    if kind == "empty":
        return b""
    study, series, instance = map(int, rest.split("."))
    name = f"{CANARY}^Number{study}"
    if kind == "garbage":
        return b"\1\2\3\4" + f"{rest}".encode() * 400
    if kind == "cut":
        return ct(study, series, instance, PatientName=name)[:400]
    return ct(study, series, instance, **({"PatientName": name} | IMAGE_KINDS[kind]))


@cache
def image_of(content: str) -> Image | None:
    """Return what an image's content is; None for other contents."""
    kind, _, rest = content.partition(" ")
    if kind == "fhir" or not rest:
        return None
    study, series, instance = map(int, rest.split("."))
    return Image(kind, study_uid(study), sop_uid(study, series, instance))


@cache
def resources_of(content: str) -> dict[str, str]:
    """Return the digests of the resources of a FHIR file, by their reference ``Patient/p1``."""
    kind, _, rest = content.partition(" ")
    if kind != "fhir":
        return {}
    found = {}
    for word in rest.split():
        made = _resource(word)
        row = describe(made, json.dumps(made, separators=(",", ":")))
        found[_name(made)] = str(row["content_digest"])
    return found


@cache
def variants_of(content: str) -> dict[str, str]:
    """Return the element that tells the variants of each resource apart, by the reference; without refused ones."""
    return {_name(made): variant_of(made) for made in map(_resource, _words_of(content, refused=False))}


def refused_in(content: str) -> set[str]:
    """Return the references of the resources that HealthLake refuses."""
    return {_name(made) for made in map(_resource, _words_of(content, refused=True))}


@cache
def targets_of(content: str) -> dict[str, frozenset[str]]:
    """Return the resources that each resource of a FHIR file refers to, by their references."""
    found = {}
    for made in map(_resource, _words_of(content, refused=False) + _words_of(content, refused=True)):
        named = (made.get(element, {}).get("reference") for element in ("subject", "patient", "encounter"))
        found[_name(made)] = frozenset(name for name in named if name)
    return found


def _words_of(content: str, *, refused: bool) -> list[str]:
    kind, _, rest = content.partition(" ")
    return [word for word in rest.split() if kind == "fhir" and word.endswith(f"={REFUSED}") is refused]


def variant_of(resource: dict[str, Any]) -> str:
    """Return the element that tells the variants of a resource apart."""
    return str(resource[_TELLING[resource["resourceType"]]])


_TELLING = {"Patient": "gender", "Observation": "status", "AllergyIntolerance": "criticality", "Encounter": "status"}


def _name(resource: dict[str, Any]) -> str:
    return f"{resource['resourceType']}/{resource['id']}"


@cache
def etag_of(content: str) -> str:
    """Return the etag of a content."""
    return hashlib.md5(make(content), usedforsecurity=False).hexdigest()


def _resource(word: str) -> dict[str, Any]:
    name, _, variant = word.partition("=")
    name, _, whose = name.partition("/")
    number = "abcd".index(variant or "a")
    made = _make(name, whose, number)
    return made | {"meta": {"profile": [_UNKNOWN_PROFILE]}} if variant == REFUSED else made


def _make(name: str, whose: str, number: int) -> dict[str, Any]:
    whose, _, visit = whose.partition("+")
    if name.startswith("p"):
        return patient(name, gender=VARIANTS[number], name=[{"family": CANARY, "given": ["Testcase"]}])
    if name.startswith("a"):
        return {
            "resourceType": "AllergyIntolerance",
            "id": name,
            "clinicalStatus": _coded("allergyintolerance-clinical", "active"),
            "verificationStatus": _coded("allergyintolerance-verification", "confirmed"),
            "criticality": ("low", "high", "unable-to-assess", "low")[number],
            "patient": {"reference": f"Patient/{whose or 'p1'}"},
        }
    if name.startswith("v"):
        return {
            "resourceType": "Encounter",
            "id": name,
            "status": _VISITS[number],
            "class": {"system": "http://terminology.hl7.org/CodeSystem/v3-ActCode", "code": "AMB"},
            "subject": {"reference": f"Patient/{whose or 'p1'}"},
        }
    during = {"encounter": {"reference": f"Encounter/{visit}"}} if visit else {}
    return observation(name, whose or "p1", status=_STATUSES[number], **during)


def _coded(system: str, code: str) -> dict[str, Any]:
    return {"coding": [{"system": f"http://terminology.hl7.org/CodeSystem/{system}", "code": code}]}
