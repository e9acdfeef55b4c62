"""One FHIR interaction: its request, its reply, and the error that becomes an OperationOutcome."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from localaws.fhir import Issue, Level, operation_outcome
from localaws.healthlake.documents import read_document

if TYPE_CHECKING:
    from collections.abc import Mapping

LEVEL_HEADER = "x-amzn-healthlake-fhir-validation-level"
ISSUES_HEADER = "x-amzn-healthlake-validation-issues"
CONSISTENCY_HEADER = "x-amz-fhir-history-consistency-level"
MISSPELT = "x-amz-healthlake-fhir-validation-level"


@dataclass(frozen=True)
class Datastore:
    """A data store and the address of its FHIR REST plane, without a slash at its end."""

    datastore_id: str
    base: str


@dataclass(frozen=True)
class Request:
    """One interaction, sent on its own or as an entry of a Bundle.

    Parameters
    ----------
    datastore : Datastore
        The data store of the resources.
    method : str
        HTTP method.
    path : str
        The part after the base address, decoded, without slashes at its ends.
    query : list of (name, value)
        Search parameters or conditions.
    headers : mapping
        By lower-case name.
    body : object
        The JSON document that came with it, None without one.
    new_id : str, optional
        The id of the resource that is created, where a transaction has to know it beforehand.
    """

    datastore: Datastore
    method: str
    path: str
    query: tuple[tuple[str, str], ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Any = None
    new_id: str | None = None


@dataclass(frozen=True)
class Reply:
    """The answer; at level ``minimal`` a resource is stored in spite of its `issues`."""

    status: int
    body: dict[str, Any] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    issues: tuple[Issue, ...] = ()


class FhirError(Exception):
    """An interaction that is refused.

    Parameters
    ----------
    status : int
        HTTP status.
    code : str
        A code of https://hl7.org/fhir/R4/valueset-issue-type.html.
    diagnostics : str
        One sentence; never holds a value of a resource.
    issues : tuple of Issue
        What was found, where it is more than that sentence.
    headers : mapping, optional
        Headers of the answer.
    """

    def __init__(
        self,
        status: int,
        code: str,
        diagnostics: str,
        issues: tuple[Issue, ...] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(diagnostics)
        self.status = status
        self.issues = issues or (Issue("error", code, diagnostics),)
        self.headers = dict(headers or {})

    @property
    def reply(self) -> Reply:
        """The error as it is answered."""
        return Reply(self.status, operation_outcome(self.issues), self.headers)


def bad_request(diagnostics: str, code: str = "invalid") -> FhirError:
    """Return the error for a request that is malformed: 400."""
    return FhirError(400, code, diagnostics)


def not_emulated(what: str) -> FhirError:
    """Return the error for an ability of HealthLake that this emulator does not have: 501."""
    return FhirError(501, "not-supported", f"{what} is not emulated by localaws.")


def read_json(body: bytes) -> Any:
    """Parse a body.

    Raises
    ------
    FhirError
        400: no JSON, or nested too deeply.
    """
    try:
        return read_document(body)
    except RecursionError:
        raise bad_request("The body is nested too deeply.", "too-costly") from None
    except ValueError:
        # Without the cause: its text may quote the body.
        raise bad_request("The body is not valid JSON.") from None


def is_strong(headers: Mapping[str, str]) -> bool:
    """Return whether the headers ask for strong consistency of searches.

    Raises
    ------
    FhirError
        400: neither ``strong`` nor ``eventual``.
    """
    text = headers.get(CONSISTENCY_HEADER, "eventual")
    if text not in {"eventual", "strong"}:
        raise bad_request(f"{CONSISTENCY_HEADER} must be eventual or strong.")
    return text == "strong"


def level_of(headers: Mapping[str, str]) -> Level:
    """Return the validation level that the headers ask for; strict without one.

    Raises
    ------
    FhirError
        400: no level, or a header that is almost the right one, which AWS would ignore.
    """
    if MISSPELT in headers:
        raise bad_request(f"The header is called {LEVEL_HEADER}; {MISSPELT} is not a header of HealthLake.")
    text = headers.get(LEVEL_HEADER, Level.STRICT)
    if text not in list(Level):
        raise bad_request(f"{LEVEL_HEADER} must be one of {', '.join(Level)}.")
    return Level(text)
