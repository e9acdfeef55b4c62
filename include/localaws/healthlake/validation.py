"""Validation before a resource is stored, and the issues that the level ``minimal`` stores in it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Protocol

from localaws.fhir import Findings, Issue, Level, operation_outcome
from localaws.healthlake.exchange import FhirError

if TYPE_CHECKING:
    from collections.abc import Iterable

Resource = dict[str, Any]

ISSUE_EXTENSION = "http://healthlake.amazonaws.com/fhir/StructureDefinition/validation-issue"
REJECTED = "FHIR resource in payload failed FHIR validation rules."


class Checker(Protocol):
    """The abilities of a validator; `localaws.fhir.Validator` has them."""

    def check(self, resource: object, level: Level, profile: str | None = None) -> Findings:
        """Return the verdict on a resource."""

    def knows_type(self, resource_type: str) -> bool:
        """Return whether R4 has this resource type."""

    def knows_profile(self, canonical: str) -> bool:
        """Return whether a profile can be checked."""


def check_resource(validator: Checker, resource: Resource, level: Level) -> tuple[Resource, tuple[Issue, ...]]:
    """Return a resource as it is stored at `level`, and the issues that it is stored with.

    Raises
    ------
    FhirError
        400: the resource is refused at this level.
    """
    findings = validator.check(resource, level)
    if findings.rejected:
        raise FhirError(400, "processing", REJECTED, findings.issues)
    issues = findings.issues if level is Level.MINIMAL else ()
    return mark_issues(resource, issues), issues


def mark_issues(resource: Resource, issues: Iterable[Issue]) -> Resource:
    """Return the resource with an extension that lists its issues and replaces an earlier one.

    See https://docs.aws.amazon.com/healthlake/latest/devguide/managing-fhir-resources-create.html.
    """
    found, extensions = tuple(issues), resource.get("extension", [])
    listed = extensions if isinstance(extensions, list) else [extensions]
    others = [item for item in listed if not _is_mark(item)]
    if not found and len(others) == len(listed):
        return resource
    mark = {"url": ISSUE_EXTENSION, "valueString": json.dumps(operation_outcome(found))}
    extension = [*others, mark] if found else others
    rest = {name: value for name, value in resource.items() if name != "extension"}
    return {**rest, "extension": extension} if extension else rest


def _is_mark(extension: Any) -> bool:
    return isinstance(extension, dict) and extension.get("url") == ISSUE_EXTENSION
