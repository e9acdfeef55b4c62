"""Lookup of the FHIR interaction of a method and a path, and of AWS's name of the action.

Names are those of the service authorization reference of AWS HealthLake.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from localaws.healthlake.exchange import FhirError, not_emulated
from localaws.healthlake.search_parameters import resource_types

TYPE, ID = "(?P<resource_type>[A-Za-z]+)", "(?P<resource_id>[^/$_][^/$]*)"
UNKNOWN_ACTION = "UnknownInteraction"


@dataclass(frozen=True)
class Route:
    """One interaction."""

    interaction: str
    action: str
    method: str
    pattern: re.Pattern[str]


def _route(interaction: str, action: str, method: str, pattern: str) -> Route:
    return Route(interaction, action, method, re.compile(pattern))


ROUTES = (
    _route("capabilities", "GetCapabilities", "GET", "metadata"),
    _route("bundle", "ProcessBundle", "POST", ""),
    _route("poll", "ReadResource", "GET", "Transaction/(?P<transaction_id>[^/]+)"),
    _route("search", "SearchWithGet", "GET", TYPE),
    _route("search", "SearchWithPost", "POST", f"{TYPE}/_search"),
    _route("validate", "ValidateResource", "POST", rf"{TYPE}(?:/{ID})?/\$validate"),
    _route("create", "CreateResource", "POST", TYPE),
    _route("conditional_update", "UpdateResource", "PUT", TYPE),
    _route("read", "ReadResource", "GET", f"{TYPE}/{ID}"),
    _route("update", "UpdateResource", "PUT", f"{TYPE}/{ID}"),
    _route("delete", "DeleteResource", "DELETE", f"{TYPE}/{ID}"),
    _route("history", "GetHistoryByResourceId", "GET", f"{TYPE}/{ID}/_history"),
    _route("read_version", "VersionReadResource", "GET", f"{TYPE}/{ID}/_history/(?P<version>[^/]+)"),
)


def find_action(method: str, path: str) -> str:
    """Return AWS's name of the action, `UNKNOWN_ACTION` if there is no interaction."""
    found = _match(method, path)
    return found[0].action if found else UNKNOWN_ACTION


def find_route(method: str, path: str) -> tuple[str, dict[str, str]]:
    """Return the interaction, and the parts of the path that it needs.

    Raises
    ------
    FhirError
        404: no such path or resource type; 405: another method is needed; 501: not emulated.
    """
    found = _match(method, path)
    if found is None:
        raise _unknown(method, path)
    route, labels = found
    if labels.get("resource_type", "Patient") not in resource_types():
        raise FhirError(404, "not-supported", "FHIR R4 does not have this resource type.")
    return route.interaction, labels


def _match(method: str, path: str) -> tuple[Route, dict[str, str]] | None:
    for route in ROUTES:
        match = route.pattern.fullmatch(path)
        if match and route.method == method:
            return route, {name: text for name, text in match.groupdict().items() if text is not None}
    return None


def _unknown(method: str, path: str) -> FhirError:
    if method == "PATCH":
        return not_emulated("PATCH")
    if "$" in path:
        return not_emulated("This operation")
    if path.endswith("_history"):
        return not_emulated("The history of a type or of the whole data store")
    if any(route.pattern.fullmatch(path) for route in ROUTES):
        return FhirError(405, "not-supported", "This address does not take this method.")
    return FhirError(404, "not-found", "This is not an address of the FHIR REST API.")
