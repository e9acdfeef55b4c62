"""The validator of the emulated HealthLake: FHIR R4 4.0.1 at three levels; see docs/fhir-validation.md."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Any

from localaws.fhir.findings import Findings, Issue, Level
from localaws.fhir.invariants import broken_rules
from localaws.fhir.profiles import conformance, knows, named_profiles
from localaws.fhir.schema import schema
from localaws.fhir.structure import Walk

if TYPE_CHECKING:
    from collections.abc import Iterator

    from localaws.fhir.structure import Scope

ID = re.compile(r"[A-Za-z0-9\-.]{1,64}")
TOO_DEEP = Issue("error", "too-costly", "the resource is nested too deeply to be checked")
MOST_ISSUES = 200


class Validator:
    """Checks resources against FHIR R4 (4.0.1); may be used from several threads.

    Parameters
    ----------
    structure_only
        What the level ``structure-only`` means. ``base``: all of base R4, profiles ignored, as AWS says in its one
        sentence; ``structure``: structure, cardinality and primitive formats, without bindings, reference targets and
        invariants.
    """

    def __init__(self, structure_only: str = "base") -> None:
        self._structure_only = structure_only

    def knows_type(self, resource_type: str) -> bool:
        """Return whether FHIR R4 has a resource type of this name."""
        return resource_type in schema().resource_types

    def knows_profile(self, canonical: str) -> bool:
        """Return whether there is a definition here for a profile (``url`` or ``url|version``)."""
        return knows(canonical)

    def check(self, resource: object, level: Level, profile: str | None = None) -> Findings:
        """Return the issues of a resource at a level, and whether the data store refuses it.

        Parameters
        ----------
        resource
            Any JSON value, as `json.loads` returns it.
        level
            How deep to look. At ``minimal`` only what has no type or no legal id is refused; other faults of structure
            are warnings.
        profile
            A profile that the resource must conform to, besides those that it names itself.
        """
        try:
            identity = list(_identity(resource))
            if identity or not isinstance(resource, dict):
                return Findings.of(identity)
            return Findings.of(islice(self._issues(resource, Level(level), profile), MOST_ISSUES))
        except RecursionError:
            return Findings.of([TOO_DEEP])

    def _issues(self, resource: dict[str, Any], level: Level, profile: str | None) -> Iterator[Issue]:
        if level is Level.MINIMAL:
            yield from (replace(issue, severity="warning") for issue in self._structure(resource))
        elif level is Level.STRUCTURE_ONLY and self._structure_only == "structure":
            yield from self._structure(resource)
        else:
            yield from self._base(resource, profile, own_profiles=level is Level.STRICT)

    def _structure(self, resource: dict[str, Any]) -> list[Issue]:
        walk = Walk(codes_too=False, references_too=False)
        walk.start(resource)
        return walk.issues

    def _base(self, resource: dict[str, Any], profile: str | None, *, own_profiles: bool) -> Iterator[Issue]:
        walk = Walk()
        walk.start(resource)
        yield from walk.issues
        for scope in walk.scopes:
            yield from broken_rules(scope)
            yield from self._profiled(scope, profile if scope is walk.scopes[0] else None, own=own_profiles)

    def _profiled(self, scope: Scope, profile: str | None, *, own: bool) -> Iterator[Issue]:
        named = named_profiles(scope.resource) if own else []
        for canonical in dict.fromkeys([*named, *([profile] if profile else [])]):
            yield from conformance(canonical, scope)


def _identity(resource: object) -> Iterator[Issue]:
    if not isinstance(resource, dict):
        yield Issue("fatal", "structure", "a resource must be a JSON object")
        return
    name = resource.get("resourceType")
    if not isinstance(name, str) or name not in schema().resource_types:
        yield Issue("fatal", "structure", "resourceType must name a resource type of FHIR R4", ("resourceType",))
        return
    given = resource.get("id")
    if "id" in resource and not (isinstance(given, str) and ID.fullmatch(given)):
        yield Issue("error", "value", "must be 1 to 64 letters, digits, '-' and '.'", (f"{name}.id",))
