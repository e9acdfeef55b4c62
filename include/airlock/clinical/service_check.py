"""$validate: the data store's check of resources before anything is stored, by the pipeline's policy.

Source: HealthLake developer guide, "Validating resources with $validate"; FHIR R4, "Operation $validate on Resource".
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import polars as pl

from airlock.clinical.records import VERDICTS
from airlock.clinical.references import is_refused
from airlock.clinical.resources import dump
from airlock.clinical.structure import Finding
from airlock.reasons import Reason

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from airlock.clinical.references import FhirStore
    from airlock.pipelines import ClinicalValidate

_WRONG = ("error", "fatal")
_CHOSEN_BY = ("arrival_id", "line", "resource_type", "content_digest")


def sampled(parts: Iterable[pl.DataFrame], settings: ClinicalValidate) -> pl.DataFrame:
    """Return the units (`_CHOSEN_BY`) of a sample that is spread over all types.

    The same delivery gives the same sample: the digests decide. A part's units that are not among the first of their
    type there are not among the first of all, so the sample is taken part by part.
    """
    sample = VERDICTS.to_frame().select(_CHOSEN_BY)
    rank = pl.col("content_digest").rank("ordinal").over("resource_type")
    for units in parts:
        candidates = pl.concat([sample, units.select(_CHOSEN_BY)])
        ranked = candidates.with_columns(rank=rank).sort("rank", "resource_type", "content_digest")
        sample = ranked.head(settings.sample_size).select(_CHOSEN_BY)
    return sample


def ask(store: FhirStore, bodies: Iterable[tuple[str, int, str]], in_flight: int) -> Iterator[tuple[str, int, Finding]]:
    """Yield the data store's findings.

    Parameters
    ----------
    store
        The data store.
    bodies
        arrival_id, line and JSON.
    in_flight
        Calls at a time.
    """
    todo = list(bodies)
    with ThreadPoolExecutor(in_flight) as pool:
        outcomes = pool.map(lambda item: outcome_of(store.validate, item[2]), todo)
        for (arrival, line, _), outcome in zip(todo, outcomes, strict=True):
            wrong = [issue for issue in list_issues(outcome) if issue.get("severity") in _WRONG]
            if wrong:
                yield arrival, line, Finding(Reason.SERVICE_FINDS_INVALID, first_words(wrong[0]), dump(outcome))


def outcome_of(validate: Callable[[str], dict[str, Any]], resource: str) -> dict[str, Any]:
    """Return the answer of $validate, or an outcome that says that it refuses the resource."""
    try:
        return validate(resource)
    except Exception as error:
        if not is_refused(error):
            raise
        issue = {"severity": "error", "code": "not-supported", "diagnostics": f"$validate refuses it: {error}"}
        return {"resourceType": "OperationOutcome", "issue": [issue]}


def list_issues(outcome: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the issues of an OperationOutcome."""
    issues = outcome.get("issue")
    return [issue for issue in issues if isinstance(issue, dict)] if isinstance(issues, list) else []


def first_words(issue: dict[str, Any], length: int = 500) -> str:
    """Return place and text of an OperationOutcome's issue, cut to this number of characters."""
    where = issue.get("expression") or issue.get("location") or []
    details = issue.get("details")
    said = issue.get("diagnostics") or (details.get("text") if isinstance(details, dict) else None) or issue.get("code")
    place = where[0] if isinstance(where, list) and where else ""
    return ": ".join(str(part) for part in (place, said) if part)[:length]
