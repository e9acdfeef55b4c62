"""One AWS service over HTTP: routing, request validation, answers and errors, all read from botocore's model."""

from __future__ import annotations

import json
import logging
import re
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol
from urllib.parse import parse_qs, unquote

from botocore.loaders import Loader
from botocore.model import OperationModel, ServiceModel, Shape, StructureShape
from starlette.responses import Response

from localaws.errors import AwsError, invalid
from localaws.shapes import from_json, from_text, problems, to_json, unknown_members

log = logging.getLogger(__name__)

Params = dict[str, Any]
Result = dict[str, Any]
Handler = Callable[[Params], Result]

CREDENTIAL_SCOPE = re.compile(r"Credential=[^/,]+/\d+/[^/]+/([^/]+)/aws4_request")


@dataclass(frozen=True)
class Call:
    """One HTTP request, as the protocol needs it."""

    method: str
    raw_path: str
    query: Mapping[str, list[str]]
    headers: Mapping[str, str]
    body: bytes
    raw_query: str = ""

    @classmethod
    def of(cls, scope: Mapping[str, Any], body: bytes) -> Call:
        """Read an ASGI scope. The raw path is kept: an ARN in a path carries its slashes as ``%2F``."""
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        raw_query = scope["query_string"].decode("latin-1")
        query = parse_qs(raw_query, keep_blank_values=True)
        return cls(scope["method"], scope["raw_path"].decode("latin-1"), query, headers, body, raw_query)

    @cached_property
    def signing_name(self) -> str | None:
        """Service name in the SigV4 credential scope; the signature itself is not checked."""
        found = CREDENTIAL_SCOPE.search(self.headers.get("authorization", ""))
        return found[1] if found else None


@dataclass(frozen=True)
class Route:
    """One operation and how its path is recognised."""

    operation: OperationModel
    method: str
    pattern: re.Pattern[str]

    @classmethod
    def of(cls, operation: OperationModel) -> Route:
        """Turn ``http.requestUri`` of the model into a pattern with one named group per label."""
        path = operation.http["requestUri"].split("?")[0]
        pattern = "".join(cls._part(text) for text in re.split(r"(\{[^}]+\})", path))
        return cls(operation, operation.http["method"], re.compile(pattern))

    @staticmethod
    def _part(text: str) -> str:
        if not text.startswith("{"):
            return re.escape(text)
        name = text.strip("{}")
        return f"(?P<{name[:-1]}>.+)" if name.endswith("+") else f"(?P<{name}>[^/]+)"


class Plane(Protocol):
    """Recognises calls, carries them out, and words its own errors."""

    def find(self, call: Call) -> tuple[OperationModel, Mapping[str, str]]:
        """Return the operation that `call` names (its ``name`` is counted and throttled) and its labels."""

    def parse(self, operation: OperationModel, labels: Mapping[str, str], call: Call) -> Params:
        """Return the checked parameters."""

    def subject(self, params: Params) -> tuple[str, str]:
        """Return name and input URI of the job that a call is about; empty for other calls."""

    def handle(self, operation: OperationModel, params: Params) -> Response:
        """Carry the call out."""

    def error(self, error: AwsError) -> Response:
        """Serialise an error."""


class Service:
    """One rest-json service: its model and the handlers of the operations that are emulated.

    Parameters
    ----------
    name : str
        botocore's name of the service, which is also its SigV4 name.
    handlers : mapping of operation name to handler
        A handler takes the validated parameters and returns the members of the output shape. An operation without
        handler is routed and validated too, then answers 501.
    """

    def __init__(self, name: str, handlers: Mapping[str, Handler]) -> None:
        self.name = name
        self.model = ServiceModel(Loader().load_service_model(name, "service-2"), name)
        unknown = set(handlers) - set(self.model.operation_names)
        if unknown:
            raise ValueError(f"{name} has no operations {sorted(unknown)}; take the names from botocore's model")
        self.handlers = dict(handlers)
        routes = [Route.of(self.model.operation_model(operation)) for operation in self.model.operation_names]
        self.routes = sorted(routes, key=lambda route: -len(route.pattern.pattern))

    def plane(self, _call: Call) -> Plane:
        """Return the plane that answers `call`: the operations of the model, unless the service has another one."""
        return self

    def subject(self, _params: Params) -> tuple[str, str]:
        """Return name and input URI of the job that a call is about, for fault switches; empty for other calls."""
        return "", ""

    def jobs(self) -> list[dict[str, str]]:
        """Return every job that was ever started, for ``/_localaws/calls``."""
        return []

    def find(self, call: Call) -> tuple[OperationModel, dict[str, str]]:
        """Return the operation that `call` names, and the labels of its path.

        Raises
        ------
        AwsError
            UnknownOperationException (404).
        """
        for route in self.routes:
            match = route.pattern.fullmatch(call.raw_path)
            if match and route.method == call.method:
                return route.operation, {name: unquote(text) for name, text in match.groupdict().items()}
        raise AwsError("UnknownOperationException", f"{self.name} has no operation at this method and path.", 404)

    def parse(self, operation: OperationModel, labels: Mapping[str, str], call: Call) -> Params:
        """Collect the input from path, query, headers and body, and check it against the input shape.

        Raises
        ------
        AwsError
            SerializationException or ValidationException (400).
        """
        shape = operation.input_shape
        if not isinstance(shape, StructureShape):
            return {}
        params = self._located(shape, labels, call) | self._body(shape, call.body)
        found = list(problems(shape, params))
        if found:
            raise invalid("; ".join(found))
        return params

    @staticmethod
    def _located(shape: StructureShape, labels: Mapping[str, str], call: Call) -> Params:
        params: Params = {}
        for name, member in shape.members.items():
            where, wire = member.serialization.get("location"), member.serialization.get("name", name)
            if where == "uri":
                params[name] = from_text(member, labels[wire])
            elif where == "querystring" and wire in call.query:
                values = call.query[wire]
                params[name] = values if member.type_name == "list" else from_text(member, values[0])
            elif where == "header" and wire.lower() in call.headers:
                params[name] = from_text(member, call.headers[wire.lower()])
        return params

    @staticmethod
    def _body(shape: StructureShape, body: bytes) -> Params:
        if not body:
            return {}
        try:
            document = json.loads(body)
        except ValueError as error:
            raise AwsError("SerializationException", "The body is not valid JSON.", 400) from error
        payload = shape.serialization.get("payload")
        if payload:
            return {payload: from_json(shape.members[payload], document)}
        if not isinstance(document, dict):
            raise AwsError("SerializationException", "The body must be a JSON object.", 400)
        members = from_json(shape, document)
        return {name: value for name, value in members.items() if "location" not in shape.members[name].serialization}

    def handle(self, operation: OperationModel, params: Params) -> Response:
        """Run the handler and serialise its result.

        Raises
        ------
        AwsError
            What the handler raises; NotImplementedException (501) for an operation without handler.
        """
        handler = self.handlers.get(operation.name)
        if handler is None:
            raise AwsError("NotImplementedException", f"{operation.name} is not emulated by localaws.", 501)
        return self.answer(operation, handler(params))

    def answer(self, operation: OperationModel, result: Result) -> Response:
        """Serialise a handler's result, held against the output shape.

        Raises
        ------
        TypeError
            The result breaks the model: a defect of the handler.
        """
        shape = operation.output_shape
        status = operation.http.get("responseCode", 200)
        if not isinstance(shape, StructureShape):
            return Response(status_code=status)
        found = [*problems(shape, result), *unknown_members(shape, result)]
        if found:
            raise TypeError(f"the answer of {operation.name} breaks the model: {'; '.join(found)}")
        headers = self._headers(shape, result)
        payload = shape.serialization.get("payload")
        if payload and shape.members[payload].type_name == "blob":
            return Response(result[payload], status, headers)
        body: Shape = shape.members[payload] if payload else shape
        return self.serialised(to_json(body, result[payload] if payload else result), status, headers)

    def serialised(self, document: Any, status: int, headers: Mapping[str, str]) -> Response:
        """Return a document as this protocol sends it."""
        return Response(json.dumps(document), status, dict(headers), media_type="application/json")

    @staticmethod
    def _headers(shape: StructureShape, result: Result) -> dict[str, str]:
        return {"x-amzn-requestid": str(uuid.uuid4())} | {
            member.serialization["name"]: str(result[name])
            for name, member in shape.members.items()
            if member.serialization.get("location") == "header" and name in result
        }

    def error(self, error: AwsError) -> Response:
        """Serialise an error; its status comes from the model wherever the model has it."""
        shape = self.model.shape_for(error.code) if error.code in self.model.shape_names else None
        modelled = shape.metadata.get("error", {}).get("httpStatusCode") if shape else None
        return error_response(error, error.status or modelled or 400)


def error_response(error: AwsError, status: int) -> Response:
    """Return an error answer as a rest-json service gives it."""
    headers = {"x-amzn-errortype": error.code, "x-amzn-requestid": str(uuid.uuid4())}
    return Response(json.dumps({"message": error.message}), status, headers, media_type="application/json")
