"""The FHIR REST plane of the data stores: ``/datastore/<id>/r4/``."""

from __future__ import annotations

import re
import uuid
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, unquote

from starlette.responses import Response

from localaws.healthlake.async_bundles import AsyncBundles
from localaws.healthlake.bundles import Bundles, Limits
from localaws.healthlake.capabilities import capability_statement
from localaws.healthlake.documents import write_document
from localaws.healthlake.exchange import Datastore, FhirError, Reply, Request, bad_request, read_json
from localaws.healthlake.interactions import Interactions
from localaws.healthlake.routes import find_action, find_route
from localaws.healthlake.search import Search
from localaws.healthlake.validate_operation import Validation

if TYPE_CHECKING:
    from collections.abc import Callable

    from localaws.healthlake.store import ResourceStore
    from localaws.healthlake.validation import Checker
    from localaws.protocol import Call
    from localaws.schedule import Schedule
    from localaws.state import State

_UNENCODED = re.compile(r"(?:^|&)page=[^&]*=")
PATH = re.compile(r"/datastore/(?P<datastore_id>[^/]+)/r4(?:/(?P<path>.*))?", re.DOTALL)
FHIR_JSON = "application/fhir+json"
FORM = "application/x-www-form-urlencoded"
READING = frozenset({"read", "read_version", "history", "search"})


class FhirEndpoint:
    """Answers the FHIR interactions of all data stores.

    Parameters
    ----------
    state, schedule
        Those of the emulator.
    store : ResourceStore
        Where the resources are.
    validator : Checker
        Judges what is written and what is sent to ``$validate``.
    exists : callable
        Says whether a data store is there and ACTIVE.
    base_url : str
        The emulator's own address, without a slash at its end; links and locations begin with it.
    limits : Limits
        Sizes of Bundles.
    async_seconds : float
        How long an asynchronous transaction is SUBMITTED, and then again IN_PROGRESS.
    """

    def __init__(
        self,
        state: State,
        store: ResourceStore,
        validator: Checker,
        *,
        schedule: Schedule,
        exists: Callable[[str], bool],
        base_url: str,
        limits: Limits | None = None,
        async_seconds: float = 0.1,
    ) -> None:
        sizes = limits or Limits()
        self._state = state
        self._exists = exists
        self._base_url = base_url
        self._validation = Validation(validator)
        self._interactions = Interactions(store, validator, Search(store))
        self._bundles = Bundles(self._interactions, validator, sizes)
        self._async_bundles = AsyncBundles(state, schedule, self._bundles, sizes, async_seconds)

    def operation(self, call: Call) -> str:
        """Return AWS's name of the action: ``ReadResource``, ``SearchWithPost``, ``ProcessBundle`` and so on."""
        return find_action(call.method, _split_path(call)[1])

    def answer(self, call: Call) -> Response:
        """Carry an interaction out; whatever is wrong with it is an OperationOutcome."""
        try:
            return _make_response(self._reply(call))
        except FhirError as error:
            return _make_response(error.reply)
        except RecursionError:
            return _make_response(bad_request("The body is nested too deeply.", "too-costly").reply)

    def _reply(self, call: Call) -> Reply:
        datastore_id, path = _split_path(call)
        if _UNENCODED.search(call.raw_query):
            # AWS signs the value as %3D%3D, so a link that is followed unchanged has another signature.
            raise FhirError(403, "forbidden", "The signature does not match: encode the = of the next link's page.")
        if not self._exists(datastore_id):
            raise FhirError(404, "not-found", "The data store does not exist or is not ACTIVE.")
        interaction, labels = find_route(call.method, path)
        datastore = Datastore(datastore_id, f"{self._base_url}/datastore/{datastore_id}/r4")
        if interaction == "capabilities":
            return Reply(200, capability_statement(datastore.base))
        request = _read_request(call, datastore, path)
        if interaction == "validate":
            return self._validation.validate(request, **labels)
        if interaction == "bundle" and "respond-async" in request.headers.get("prefer", ""):
            return self._async_bundles.submit(request)
        if interaction == "poll":
            with self._state.read() as connection:
                return self._async_bundles.poll(connection, request, **labels)
        with self._state.read() if interaction in READING else self._state.write() as connection:
            if interaction == "bundle":
                return self._bundles.process(connection, request)
            return self._interactions.carry_out(connection, request)


def _split_path(call: Call) -> tuple[str, str]:
    """Return the data store and the path below its base address."""
    match = PATH.fullmatch(call.raw_path)
    if match is None:
        return "", call.raw_path
    return match["datastore_id"], "/".join(unquote(part) for part in (match["path"] or "").strip("/").split("/"))


def _read_request(call: Call, datastore: Datastore, path: str) -> Request:
    query = tuple((name, value) for name, values in call.query.items() for value in values)
    headers = {name.lower(): text for name, text in call.headers.items()}
    if path.endswith("/_search"):
        return Request(datastore, call.method, path, _read_form(call, query, headers.get("content-type", "")), headers)
    body = read_json(call.body) if call.method in {"POST", "PUT"} else None
    return Request(datastore, call.method, path, query, headers, body)


def _read_form(call: Call, query: tuple[tuple[str, str], ...], content_type: str) -> tuple[tuple[str, str], ...]:
    """Return the parameters of a search by POST: in the address or in the body, but not in both."""
    if not call.body:
        return query
    if content_type.partition(";")[0].strip().lower() != FORM:
        raise FhirError(415, "not-supported", f"The body of a search must be {FORM}.")
    if query:
        raise bad_request("The parameters of a search go in the address or in the body, not in both.")
    return tuple(parse_qsl(call.body.decode("utf-8", "replace"), keep_blank_values=True))


def _make_response(reply: Reply) -> Response:
    headers = {"x-amzn-requestid": str(uuid.uuid4()), **reply.headers}
    if reply.body is None:
        return Response(status_code=reply.status, headers=headers)
    return Response(write_document(reply.body), reply.status, headers, media_type=FHIR_JSON)
