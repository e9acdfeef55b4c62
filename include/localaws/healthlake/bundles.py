"""Bundles: batches, whose entries are independent, and transactions, which succeed or fail as a whole.

See https://docs.aws.amazon.com/healthlake/latest/devguide/managing-fhir-resources-bundle.html.
"""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote

from localaws.fhir import Issue, operation_outcome
from localaws.healthlake.exchange import (
    CONSISTENCY_HEADER,
    ISSUES_HEADER,
    LEVEL_HEADER,
    FhirError,
    Reply,
    Request,
    bad_request,
    level_of,
    not_emulated,
)
from localaws.healthlake.routes import find_route
from localaws.healthlake.store import format_instant
from localaws.healthlake.validation import check_resource

if TYPE_CHECKING:
    import sqlite3

    from localaws.healthlake.interactions import Interactions
    from localaws.healthlake.validation import Checker

CONDITIONS = {"ifMatch": "if-match", "ifNoneMatch": "if-none-match", "ifNoneExist": "if-none-exist"}
PASSED_ON = frozenset({LEVEL_HEADER, CONSISTENCY_HEADER})
"""Headers of the Bundle that hold for each of its entries."""
BESIDE_ID = frozenset({"_tag", "createdAt", "_lastUpdated"})
"""The criteria that may accompany ``_id`` in a conditional update of a batch, one at a time."""


@dataclass(frozen=True)
class Limits:
    """Most entries of a Bundle, and most asynchronous transactions of a data store that wait."""

    batch: int = 500
    transaction: int = 100
    asynchronous: int = 500
    pending: int = 500


class Bundles:
    """Answers ``POST [base]/``."""

    def __init__(self, interactions: Interactions, validator: Checker, limits: Limits) -> None:
        self._interactions = interactions
        self._validator = validator
        self._limits = limits

    def process(self, connection: sqlite3.Connection, request: Request) -> Reply:
        """Answer a batch or a synchronous transaction."""
        entries = read_entries(request)
        if request.body["type"] == "batch":
            _check_size(entries, self._limits.batch, "A batch")
            return _make_response(
                "batch-response", [self._carry_out_alone(connection, request, entry) for entry in entries]
            )
        hint = f"; send up to {self._limits.asynchronous} with Prefer: respond-async"
        _check_size(entries, self._limits.transaction, "A synchronous transaction", hint)
        return self.transact(connection, request)

    def transact(self, connection: sqlite3.Connection, request: Request) -> Reply:
        """Carry out a transaction, in the order of its entries.

        Raises
        ------
        FhirError
            An entry is refused.
        """
        replies = []
        for index, entry in enumerate(_read_transaction(request)):
            try:
                replies.append((entry, self._interactions.carry_out(connection, entry)))
            except FhirError as error:
                raise _locate_error(error, index) from None
        return _make_response("transaction-response", replies)

    def check(self, request: Request) -> None:
        """Look at an asynchronous transaction before it is queued.

        Raises
        ------
        FhirError
            It is no transaction, has too many entries, or holds a resource that the validation level refuses.
        """
        entries = read_entries(request)
        if request.body["type"] != "transaction":
            raise bad_request("Only a transaction can be sent with Prefer: respond-async.", "not-supported")
        _check_size(entries, self._limits.asynchronous, "An asynchronous transaction")
        level = level_of(request.headers)
        for index, entry in enumerate(_read_transaction(request)):
            try:
                interaction, _ = find_route(entry.method, entry.path)
                if interaction in {"create", "update"}:
                    check_resource(self._validator, entry.body, level)
            except FhirError as error:
                raise _locate_error(error, index) from None

    def _carry_out_alone(self, connection: sqlite3.Connection, request: Request, entry: Any) -> tuple[Request, Reply]:
        asked = request
        try:
            asked = _check_conditional(read_entry(request, entry))
            return asked, self._interactions.carry_out(connection, asked)
        except FhirError as error:
            return asked, error.reply


def read_entries(request: Request) -> list[Any]:
    """Return the entries of the Bundle in the body.

    Raises
    ------
    FhirError
        400: no Bundle, or one of a type that is not carried out.
    """
    body = request.body
    if not isinstance(body, dict) or body.get("resourceType") != "Bundle":
        raise bad_request("The body must be a Bundle.", "structure")
    if body.get("type") == "message":
        raise not_emulated("A Bundle of type message, which AWS enables for single accounts,")
    if body.get("type") not in ("batch", "transaction"):
        raise bad_request("The type of the Bundle must be batch or transaction.", "not-supported")
    entries = body.get("entry", [])
    if not isinstance(entries, list):
        raise bad_request("The entry of the Bundle must be a list.", "structure")
    level_of(request.headers)
    return entries


def _check_size(entries: list[Any], most: int, what: str, hint: str = "") -> None:
    if len(entries) > most:
        raise FhirError(422, "too-costly", f"{what} has up to {most} entries{hint}.")


def read_entry(request: Request, entry: Any) -> Request:
    """Return the interaction that an entry asks for.

    Raises
    ------
    FhirError
        400: the entry has no ``request`` with method and url, or one to another server.
    """
    asked = entry.get("request") if isinstance(entry, dict) else None
    if not isinstance(asked, dict) or not all(isinstance(asked.get(name), str) for name in ("method", "url")):
        raise bad_request("Each entry of the Bundle needs a request with method and url.", "required")
    url = str(asked["url"]).encode("utf-8", "replace").decode()
    url = url.removeprefix(f"{request.datastore.base}/").removeprefix("/")
    if ":" in url.partition("?")[0]:
        raise bad_request("The url of an entry must be relative to the data store.")
    path, _, query = url.partition("?")
    conditions = {header: str(asked[name]) for name, header in CONDITIONS.items() if name in asked}
    passed_on = {name: text for name, text in request.headers.items() if name in PASSED_ON}
    return Request(
        request.datastore,
        asked["method"],
        "/".join(unquote(part) for part in path.strip("/").split("/")),
        tuple(parse_qsl(query, keep_blank_values=True)),
        {**passed_on, **conditions},
        entry.get("resource"),
    )


def _check_conditional(entry: Request) -> Request:
    """Check that HealthLake allows a conditional update in a batch; without an id it always creates."""
    if entry.method != "PUT" or not entry.query:
        return entry
    names = [name for name, _ in entry.query]
    if names.count("_id") != 1 or len(names) > 2 or not set(names) - {"_id"} <= BESIDE_ID:
        raise bad_request(
            f"A conditional update in a batch names _id, alone or with one of {', '.join(sorted(BESIDE_ID))}."
        )
    given = entry.body.get("id") if isinstance(entry.body, dict) else None
    if given is None:
        return replace(entry, method="POST", query=())
    if given != dict(entry.query)["_id"]:
        raise bad_request("The id of the resource must be the one in the criteria.")
    return entry


def _read_transaction(request: Request) -> list[Request]:
    """Return the entries of a transaction, with ids for what is new and references that use them."""
    found: list[tuple[Any, Request]] = []
    for index, entry in enumerate(read_entries(request)):
        try:
            asked = read_entry(request, entry)
            if asked.method == "PUT" and asked.query:
                raise bad_request("A transaction takes no conditional update.", "not-supported")
        except FhirError as error:
            raise _locate_error(error, index) from None
        new_id = str(uuid.uuid4()) if asked.method == "POST" else None
        found.append((entry.get("fullUrl"), replace(asked, new_id=new_id)))
    _check_unique([f"{asked.path}/{asked.new_id or ''}" for _, asked in found if asked.method != "GET"], "resource")
    named = [
        (url, _target_address(asked))
        for url, asked in found
        if isinstance(url, str) and asked.method in {"POST", "PUT"}
    ]
    _check_unique([url for url, _ in named], "fullUrl")
    references = {url: target for url, target in named if url.startswith(("urn:uuid:", "urn:oid:"))}
    return [replace(asked, body=replace_references(asked.body, references)) for _, asked in found]


def _target_address(entry: Request) -> str:
    return f"{entry.path}/{entry.new_id}" if entry.new_id else entry.path


def _check_unique(names: list[str], what: str) -> None:
    if len(names) != len(set(names)):
        raise bad_request(f"A transaction names each {what} once.")


def replace_references(value: Any, references: dict[str, str]) -> Any:
    """Return a resource whose references to entries of the Bundle lead to the resources made of them."""
    if isinstance(value, list):
        return [replace_references(item, references) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        name: references.get(item, item)
        if name == "reference" and isinstance(item, str)
        else replace_references(item, references)
        for name, item in value.items()
    }


def _locate_error(error: FhirError, index: int) -> FhirError:
    """Return the error of an entry as the error of the whole Bundle."""
    entry = f"Bundle.entry[{index}]"
    issues = [Issue(item.severity, item.code, item.diagnostics, (entry, *item.location)) for item in error.issues]
    return FhirError(error.status, issues[0].code, str(error), tuple(issues), error.headers)


def _make_response(kind: str, replies: list[tuple[Request, Reply]]) -> Reply:
    bundle: dict[str, Any] = {"resourceType": "Bundle", "type": kind, "timestamp": format_instant(time.time())}
    entries = [_response_entry(asked, reply) for asked, reply in replies]
    headers = {ISSUES_HEADER: "true"} if any(reply.issues for _, reply in replies) else {}
    return Reply(200, {**bundle, "entry": entries} if entries else bundle, headers)


def _response_entry(asked: Request, reply: Reply) -> dict[str, Any]:
    response: dict[str, Any] = {"status": str(reply.status)}
    body = reply.body or {}
    if reply.status >= 400:
        return {"response": {**response, "outcome": body}}
    if asked.method == "GET" or (body and "etag" not in reply.headers):
        return {"resource": body, "response": response}
    if body:
        meta = body["meta"]
        response["location"] = f"{body['resourceType']}/{body['id']}/_history/{meta['versionId']}"
        response["etag"] = reply.headers["etag"]
        response["lastModified"] = meta["lastUpdated"]
    if reply.issues:
        response["outcome"] = operation_outcome(reply.issues)
    return {"response": response}
