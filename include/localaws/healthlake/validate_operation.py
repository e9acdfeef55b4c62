"""``$validate`` answers a verdict and stores nothing.

See https://docs.aws.amazon.com/healthlake/latest/devguide/reference-fhir-operations-validate.html.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from localaws.fhir import Issue, Level, operation_outcome
from localaws.healthlake.exchange import FhirError, Reply, bad_request

if TYPE_CHECKING:
    from collections.abc import Iterator

    from localaws.healthlake.exchange import Request
    from localaws.healthlake.validation import Checker

MODES = frozenset({"create", "update"})


@dataclass(frozen=True)
class Question:
    """A resource to validate, the profile, and the interaction that it is meant for."""

    resource: Any
    profile: str | None = None
    mode: str | None = None


class Validation:
    """Answers ``$validate``; always as deep as the level ``strict``."""

    def __init__(self, validator: Checker) -> None:
        self._validator = validator

    def validate(self, request: Request, resource_type: str, resource_id: str | None = None) -> Reply:
        """Answer 200 with an OperationOutcome, whatever the verdict is.

        Raises
        ------
        FhirError
            400: the request is malformed; 404: the profile is not known.
        """
        question = _read_question(request)
        if question.mode is not None and question.mode not in MODES:
            raise bad_request(f"mode must be one of {', '.join(sorted(MODES))}.", "value")
        resource = question.resource
        if not isinstance(resource, dict) or resource.get("resourceType") != resource_type:
            raise bad_request(f"The resource must be a JSON object with the resourceType {resource_type}.")
        if question.profile is not None and not self._validator.knows_profile(question.profile):
            raise FhirError(404, "not-found", "The data store does not know this profile.")
        findings = self._validator.check(resource, Level.STRICT, question.profile)
        return Reply(200, operation_outcome([*findings.issues, *_check_id(question, resource_type, resource_id)]))


def _read_question(request: Request) -> Question:
    body = request.body
    if (
        isinstance(body, dict)
        and body.get("resourceType") == "Parameters"
        and not request.path.startswith("Parameters/")
    ):
        if request.query:
            raise bad_request("profile and mode go in the Parameters resource or in the query, not in both.")
        return _read_parameters(body)
    given = dict(request.query)
    if len(given) != len(request.query) or not given.keys() <= {"profile", "mode"}:
        raise bad_request("The query of $validate takes one profile and one mode.")
    return Question(body, given.get("profile"), given.get("mode"))


def _read_parameters(body: dict[str, Any]) -> Question:
    parameters = body.get("parameter")
    items = [item for item in parameters if isinstance(item, dict)] if isinstance(parameters, list) else []
    named: dict[Any, dict[str, Any]] = {}
    for item in items:
        name = item.get("name")
        if not isinstance(name, str) or name in named:
            raise bad_request("Each parameter needs a name of its own.")
        named[name] = item
    if not named.keys() <= {"resource", "profile", "mode"} or "resource" not in named.get("resource", {}):
        raise bad_request("Parameters must hold a resource, and may hold a profile and a mode.", "required")
    profile = _text(named, "profile", ("valueCanonical",))
    return Question(named["resource"]["resource"], profile, _text(named, "mode", ("valueString", "valueCode")))


def _text(named: dict[Any, dict[str, Any]], name: str, keys: tuple[str, ...]) -> str | None:
    if name not in named:
        return None
    values = [named[name][key] for key in keys if key in named[name]]
    if len(values) != 1 or not isinstance(values[0], str):
        raise bad_request(f"The parameter {name} must have one {' or '.join(keys)}.", "value")
    return values[0]


def _check_id(question: Question, resource_type: str, resource_id: str | None) -> Iterator[Issue]:
    given = question.resource.get("id")
    if question.mode == "update" and given is None:
        yield Issue("error", "required", "An update needs an id.", (f"{resource_type}.id",))
    elif resource_id is not None and given not in (None, resource_id):
        yield Issue("error", "invalid", "The id is not the one in the address.", (f"{resource_type}.id",))
