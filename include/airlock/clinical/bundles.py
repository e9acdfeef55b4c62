"""The resources in the entries of a Bundle (FHIR R4, "Bundle").

Only entries that mean to store their resource come in, and under no condition: an import stores what it is given. A
created resource keeps its own id; one that it leaves to the server is made from the entry's fullUrl, so that the same
Bundle gives the same ids again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airlock.clinical.resources import RESOURCE_ID, Row, describe, dump, set_aside, storable
from airlock.reasons import Reason

if TYPE_CHECKING:
    from collections.abc import Iterator

TYPES = ("transaction", "batch", "collection", "searchset", "document")
_STORING = ("POST", "PUT")
_CONDITIONS = ("ifNoneMatch", "ifModifiedSince", "ifMatch", "ifNoneExist")
_URN_UUID = "urn:uuid:"


def is_bundle(content: Any) -> bool:
    """Return whether this is a Bundle, even a faulty one."""
    return isinstance(content, dict) and content.get("resourceType") == "Bundle"


def explode(bundle: dict[str, Any], limit: int) -> Iterator[Row]:
    """Yield a row per entry, in order.

    Parameters
    ----------
    bundle
        As ``resources.load`` gives it.
    limit
        Most bytes of one resource.
    """
    entries = bundle.get("entry", [])
    if bundle.get("type") not in TYPES or not isinstance(entries, list):
        yield set_aside(Reason.UNSUPPORTED_ENTRY, "Bundle.type is not one of " + ", ".join(TYPES))
        return
    for entry in entries:
        yield _row(entry if isinstance(entry, dict) else {}, limit)


def _row(entry: dict[str, Any], limit: int) -> Row:
    resource, request = entry.get("resource"), entry.get("request")
    if not isinstance(resource, dict):
        return set_aside(Reason.UNSUPPORTED_ENTRY, "an entry without a resource")
    full_url = entry.get("fullUrl")
    full_url = storable(full_url) if isinstance(full_url, str) else None
    named = resource if "id" in resource else resource | _id_of(resource, request, full_url)
    if "request" in entry and (refusal := _refusal(named, request)):
        return set_aside(Reason.UNSUPPORTED_ENTRY, refusal)
    try:
        body = dump(named)
    except RecursionError:
        return set_aside(Reason.NOT_JSON, "nested too deeply")
    if len(body) > limit:
        return set_aside(Reason.RESOURCE_TOO_LARGE, f"{len(body)} bytes")
    return describe(named, body, full_url)


def _refusal(resource: dict[str, Any], request: Any) -> str | None:
    """Return why an entry asks for more than to store its resource; None if it does not."""
    if not isinstance(request, dict):
        return "request is not an object"
    if request.get("method") not in _STORING:
        return "request.method is neither POST nor PUT"
    condition = next((name for name in _CONDITIONS if name in request), None)
    if condition:
        return f"request.{condition} is a condition"
    kind, name = _named_by(request)
    if "?" in kind or "?" in name:
        return "request.url is a search"
    if kind != resource.get("resourceType"):
        return "request.url has another type than the resource"
    is_any_id = request["method"] == "POST" and not name
    return None if is_any_id or name == resource.get("id") else "request.url has another id than the resource"


def _named_by(request: dict[str, Any]) -> tuple[str, str]:
    """Return the type and id in request.url, empty where it has none."""
    url = request.get("url")
    kind, _, name = (url if isinstance(url, str) else "").removeprefix("/").partition("/")
    return kind, name


def _id_of(resource: dict[str, Any], request: Any, full_url: str | None) -> dict[str, str]:
    """Return the id that an entry gives its resource outside it: in request.url of an update, or as a urn:uuid."""
    if isinstance(request, dict) and request.get("method") == "PUT":
        kind, name = _named_by(request)
        if kind == resource.get("resourceType") and RESOURCE_ID.fullmatch(name):
            return {"id": name}
    uuid = (full_url or "").lower()
    named = uuid.startswith(_URN_UUID) and RESOURCE_ID.fullmatch(uuid.removeprefix(_URN_UUID))
    return {"id": uuid.removeprefix(_URN_UUID)} if named else {}
