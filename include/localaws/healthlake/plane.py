"""The FHIR REST plane as the gateway sees it: past the same throttles, faults and counters as every other call."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from starlette.responses import Response

if TYPE_CHECKING:
    from collections.abc import Mapping

    from localaws.errors import AwsError
    from localaws.protocol import Call, Params

FHIR_PATH = re.compile("/datastore/[^/]+/r4(/|$)")
ERRORS = {
    "ThrottlingException": (429, "throttled"),
    "ServiceQuotaExceededException": (429, "throttled"),
    "AccessDeniedException": (403, "forbidden"),
    "InternalServerException": (500, "exception"),
}
"""HTTP status and OperationOutcome code of the errors that a gateway can raise."""


class Endpoint(Protocol):
    """Answers the FHIR interactions."""

    def operation(self, call: Call) -> str:
        """Return AWS's name of the action, for example ``ReadResource``."""

    def answer(self, call: Call) -> Response:
        """Carry the interaction out."""


@dataclass(frozen=True)
class Interaction:
    """A FHIR interaction by AWS's name."""

    name: str


class FhirPlane:
    """Calls below ``/datastore/<id>/r4/``."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint

    def find(self, call: Call) -> tuple[Interaction, dict[str, str]]:
        """Return the interaction; it has no labels."""
        return Interaction(self._endpoint.operation(call)), {}

    def parse(self, _interaction: Interaction, _labels: Mapping[str, str], call: Call) -> Params:
        """Return the call unread: the endpoint reads it, since FHIR has its own errors."""
        return {"call": call}

    def subject(self, _params: Params) -> tuple[str, str]:
        """Return nothing: no interaction is about a job."""
        return "", ""

    def handle(self, _interaction: Interaction, params: Params) -> Response:
        """Carry the interaction out."""
        return self._endpoint.answer(params["call"])

    def error(self, error: AwsError) -> Response:
        """Word an error as an OperationOutcome."""
        status, code = ERRORS.get(error.code, (error.status or 400, "processing"))
        issue = {"severity": "error", "code": code, "diagnostics": error.message}
        body = json.dumps({"resourceType": "OperationOutcome", "issue": [issue]})
        return Response(body, status, media_type="application/fhir+json")
