"""Create, read, update, delete and history of single resources (https://hl7.org/fhir/R4/http.html)."""

from __future__ import annotations

import re
import uuid
from datetime import datetime
from email.utils import format_datetime
from typing import TYPE_CHECKING, Any

from localaws.healthlake.exchange import ISSUES_HEADER, FhirError, Reply, bad_request, is_strong, level_of
from localaws.healthlake.routes import find_route
from localaws.healthlake.validation import check_resource

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable

    from localaws.healthlake.exchange import Request
    from localaws.healthlake.search import Search
    from localaws.healthlake.store import Resource, ResourceStore, Stored
    from localaws.healthlake.validation import Checker

ID = re.compile(r"[A-Za-z0-9.\-]{1,64}", re.ASCII)
VERSION = re.compile(r"[1-9][0-9]{0,17}", re.ASCII)
ETAG = re.compile(r'(?:W/)?"([1-9][0-9]{0,17})"', re.ASCII)
IDEMPOTENCY_HEADER = "x-amz-fhir-idempotency-key"


class Interactions:
    """The interactions on one resource; every method works inside the caller's transaction."""

    def __init__(self, store: ResourceStore, validator: Checker, search: Search) -> None:
        self._store = store
        self._validator = validator
        self._search = search

    def carry_out(self, connection: sqlite3.Connection, request: Request) -> Reply:
        """Answer an interaction on a resource, or a search.

        Raises
        ------
        FhirError
            What refuses it, before it has written anything.
        """
        interaction, labels = find_route(request.method, request.path)
        handlers: dict[str, Callable[..., Reply]] = {
            "create": self.create,
            "read": self.read,
            "read_version": self.read_version,
            "history": self.history,
            "update": self.update,
            "conditional_update": self.conditional_update,
            "delete": self.delete,
            "search": self._search.search,
        }
        if interaction not in handlers:
            raise bad_request("This is not an interaction on a resource.", "not-supported")
        return handlers[interaction](connection, request, **labels)

    def read(self, connection: sqlite3.Connection, request: Request, resource_type: str, resource_id: str) -> Reply:
        """Answer a read of the current version."""
        found = self._store.read(connection, request.datastore.datastore_id, resource_type, resource_id)
        return _shown(_living(found))

    def read_version(
        self, connection: sqlite3.Connection, request: Request, resource_type: str, resource_id: str, version: str
    ) -> Reply:
        """Answer a read of one version."""
        if not VERSION.fullmatch(version):
            raise _missing()
        found = self._store.read(connection, request.datastore.datastore_id, resource_type, resource_id, int(version))
        return _shown(_living(found))

    def history(self, connection: sqlite3.Connection, request: Request, resource_type: str, resource_id: str) -> Reply:
        """Answer the history of a resource, newest version first, on one page."""
        if request.query:
            raise bad_request("The parameters of a history are not emulated by localaws; ask without them.")
        datastore_id = request.datastore.datastore_id
        if self._store.read(connection, datastore_id, resource_type, resource_id) is None:
            raise _missing()
        versions = self._store.history(connection, datastore_id, resource_type, resource_id)
        bundle: dict[str, Any] = {"resourceType": "Bundle", "type": "history", "total": len(versions)}
        bundle["link"] = [{"relation": "self", "url": f"{request.datastore.base}/{request.path}"}]
        if versions:
            bundle["entry"] = [_history_entry(version, request.datastore.base) for version in versions]
        return Reply(200, bundle)

    def create(self, connection: sqlite3.Connection, request: Request, resource_type: str) -> Reply:
        """Answer a create; the resource gets an id of the store's own."""
        if "if-none-exist" in request.headers:
            raise bad_request("HealthLake documents no If-None-Exist; use PUT with an id of your own.", "not-supported")
        resource = _resource(request, resource_type)
        key = request.headers.get(IDEMPOTENCY_HEADER)
        if key is not None:
            self._check_key(connection, request, key)
        stored, reply = self._put(
            connection, request, {**resource, "id": request.new_id or str(uuid.uuid4())}, status=201
        )
        if key is not None:
            connection.execute(
                "INSERT INTO fhir_idempotency VALUES (?, ?, ?, ?)",
                (request.datastore.datastore_id, key.lower(), resource_type, stored.id),
            )
        return reply

    @staticmethod
    def _check_key(connection: sqlite3.Connection, request: Request, key: str) -> None:
        try:
            uuid.UUID(key)
        except ValueError:
            raise bad_request(f"{IDEMPOTENCY_HEADER} must be a UUID.") from None
        row = connection.execute(
            "SELECT resource_type, id FROM fhir_idempotency WHERE datastore_id = ? AND key = ?",
            (request.datastore.datastore_id, key.lower()),
        ).fetchone()
        if row is not None:
            location = {"location": f"{request.datastore.base}/{row['resource_type']}/{row['id']}"}
            raise FhirError(409, "duplicate", "A resource was created with this idempotency key.", headers=location)

    def update(self, connection: sqlite3.Connection, request: Request, resource_type: str, resource_id: str) -> Reply:
        """Answer an update; create the resource if it does not exist or was deleted."""
        resource = _resource(request, resource_type)
        if not ID.fullmatch(resource_id):
            raise bad_request("The id in the address must be 1 to 64 letters, digits, '-' and '.'.", "value")
        if resource.get("id") != resource_id:
            raise bad_request("The id of the resource must be the one in the address.")
        current = self._store.read(connection, request.datastore.datastore_id, resource_type, resource_id)
        _check_conditions(request, current)
        is_new = current is None or current.deleted
        _, reply = self._put(connection, request, resource, status=201 if is_new else 200)
        return reply

    def conditional_update(self, connection: sqlite3.Connection, request: Request, resource_type: str) -> Reply:
        """Answer an update of the one resource that the query finds.

        See https://docs.aws.amazon.com/healthlake/latest/devguide/managing-fhir-resources-update.html for the table.
        """
        if not request.query:
            raise bad_request("An update needs an id in the address, or criteria in the query.")
        resource = _resource(request, resource_type)
        found = self._search.ids(connection, request, resource_type, limit=2)
        if len(found) > 1:
            raise FhirError(412, "multiple-matches", "The criteria match more than one resource.")
        given = resource.get("id")
        if given is not None and not (isinstance(given, str) and ID.fullmatch(given)):
            raise bad_request("The id of the resource must be 1 to 64 letters, digits, '-' and '.'.", "value")
        if found and given not in (None, found[0]):
            raise FhirError(409, "conflict", "The criteria match a resource with another id.")
        if found:
            return self._put(connection, request, {**resource, "id": found[0]}, status=200)[1]
        name = given or str(uuid.uuid4())
        if self._store.read(connection, request.datastore.datastore_id, resource_type, name) is not None:
            raise FhirError(409, "conflict", "The criteria match nothing, and the id of the resource is taken.")
        return self._put(connection, request, {**resource, "id": name}, status=201)[1]

    def delete(self, connection: sqlite3.Connection, request: Request, resource_type: str, resource_id: str) -> Reply:
        """Answer a delete; its versions stay, and so does its id."""
        datastore_id = request.datastore.datastore_id
        current = self._store.read(connection, datastore_id, resource_type, resource_id)
        if current is None:
            raise _missing()
        _check_conditions(request, current)
        deleted = self._store.delete(connection, datastore_id, resource_type, resource_id)
        return Reply(204, headers={"etag": (deleted or current).etag})

    def _put(
        self, connection: sqlite3.Connection, request: Request, resource: Resource, status: int
    ) -> tuple[Stored, Reply]:
        resource, issues = check_resource(self._validator, resource, level_of(request.headers))
        strong = is_strong(request.headers)
        stored = self._store.put(connection, request.datastore.datastore_id, resource, strong=strong)
        headers = {**_headers(stored), **({ISSUES_HEADER: "true"} if issues else {})}
        return stored, Reply(status, stored.body, headers, issues)


def _resource(request: Request, resource_type: str) -> Resource:
    if not isinstance(request.body, dict):
        raise bad_request("The body must be a JSON object, a FHIR resource.", "structure")
    if request.body.get("resourceType") != resource_type:
        raise bad_request(f"The resourceType of the body must be {resource_type}, as in the address.")
    return request.body


def _check_conditions(request: Request, current: Stored | None) -> None:
    """Hold ``If-Match`` and ``If-None-Match`` against the current version; a deleted id stays taken."""
    expected = request.headers.get("if-match")
    if expected is not None:
        match = ETAG.fullmatch(expected.strip())
        if match is None:
            raise bad_request('If-Match must be one version, as W/"1".')
        if current is None or current.deleted or current.version != int(match[1]):
            raise FhirError(412, "conflict", "The resource is not at the version that If-Match names.")
    if "if-none-match" in request.headers:
        if request.headers["if-none-match"].strip() != "*":
            raise bad_request("If-None-Match must be * for an update.")
        if current is not None:
            raise FhirError(412, "conflict", "The id is taken, by a resource or by a deleted one.")


def _living(found: Stored | None) -> Stored:
    if found is None:
        raise _missing()
    if found.deleted:
        raise FhirError(410, "deleted", "The resource was deleted.")
    return found


def _missing() -> FhirError:
    return FhirError(404, "not-found", "The resource does not exist.")


def _shown(found: Stored) -> Reply:
    return Reply(200, found.body, _headers(found))


def _headers(stored: Stored) -> dict[str, str]:
    return {
        "etag": stored.etag,
        "last-modified": format_datetime(datetime.fromisoformat(stored.last_updated), usegmt=True),
    }


def _history_entry(version: Stored, base: str) -> dict[str, Any]:
    url = f"{version.resource_type}/{version.id}"
    method = "DELETE" if version.deleted else "PUT"
    status = "204" if version.deleted else "201" if version.version == 1 else "200"
    return {
        "fullUrl": f"{base}/{url}",
        **({} if version.deleted else {"resource": version.body}),
        "request": {"method": method, "url": url},
        "response": {"status": status, "lastModified": version.last_updated, "etag": version.etag},
    }
