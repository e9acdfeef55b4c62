"""Read and check a person's request for a redrive: the params ``redrive_*`` of a run."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from airlock.ledger import Resolution
from airlock.reasons import SENTENCES
from airlock.run import RedriveRequest
from airlock.stages.person_text import find_text_fault, has_letter_or_digit
from airlock.storage.s3uri import S3Uri, S3UriError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airlock.pipelines import Pipeline

PARAMS = (
    *("redrive_run", "redrive_study", "redrive_reasons", "redrive_site", "redrive_csv"),
    *("redrive_findings", "redrive_non_primary", "redrive_why", "redrive_by"),
)
OF_STUDIES = ("redrive_study", "redrive_non_primary")
_STUDY_KEY = re.compile(r"[0-9a-f]{16}")


class RedriveError(ValueError):
    """A redrive cannot be done as requested; nothing was claimed."""


def read_request(params: Mapping[str, Any], person: str | None, pipeline: Pipeline) -> RedriveRequest | None:
    """Return the redrive that a run's params request; None if they request none.

    Parameters
    ----------
    params
        The run's params.
    person
        The Airflow user that started the run.
    pipeline
        The run's pipeline.

    Raises
    ------
    RedriveError
        If a value is wrong or missing. The message names the param.
    """
    given = {name: params.get(name) for name in PARAMS if params.get(name)}
    if not given:
        return None
    misplaced = [name for name in ("prefix", "window_start", "window_end") if params.get(name)]
    if misplaced:
        raise RedriveError(f"{', '.join(misplaced)} cannot go with a redrive. Leave it out.")
    _check_kind(given, pipeline)
    if not {"redrive_run", "redrive_study", "redrive_reasons", "redrive_csv", "redrive_findings"} & given.keys():
        raise RedriveError(
            "The redrive selects nothing. Give redrive_run, redrive_study, redrive_reasons, redrive_csv or "
            "redrive_findings."
        )
    return RedriveRequest(
        asked_by=_read_signature(given, person),
        why=_read_why(given),
        run=_read_text(given, "redrive_run"),
        study=_read_study(given),
        reasons=_read_reasons(given),
        csv=_read_address(given),
        non_primary=_read_resolution(given),
        findings=_read_findings(given),
        site=_read_site(given),
    )


def _check_kind(given: Mapping[str, Any], pipeline: Pipeline) -> None:
    """Refuse params about studies in a pipeline that has none."""
    misplaced = [name for name in OF_STUDIES if name in given]
    if misplaced and not pipeline.has_studies:
        raise RedriveError(
            f"{', '.join(misplaced)} is for pipelines of kind imaging, and this one is of kind {pipeline.kind}. "
            f"Leave it out, and select by redrive_run, redrive_reasons or redrive_csv."
        )


def _read_text(given: Mapping[str, Any], name: str) -> str | None:
    value = given.get(name)
    if value is not None and not isinstance(value, str):
        raise RedriveError(f"{name} is not text. Write it in quotes.")
    return value.strip() or None if value else None


def _read_signature(given: Mapping[str, Any], person: str | None) -> str:
    """Return who asks, and also who started the run: a user may sign with any name."""
    name = _read_text(given, "redrive_by")
    if name is None or name == person:
        return person or "unknown"
    _check_text("redrive_by", name)
    return f"{name} (by {person})" if person else name


def _read_why(given: Mapping[str, Any]) -> str:
    why = _read_text(given, "redrive_why")
    if not why or not has_letter_or_digit(why):
        raise RedriveError("redrive_why is missing. Write a sentence: why should these arrivals be processed again?")
    _check_text("redrive_why", why)
    return why


def _check_text(name: str, text: str) -> None:
    fault = find_text_fault(text)
    if fault:
        raise RedriveError(f"{name} {fault}")


def _read_study(given: Mapping[str, Any]) -> str | None:
    study = _read_text(given, "redrive_study")
    if study is not None and not _STUDY_KEY.fullmatch(study):
        raise RedriveError("redrive_study is not a study key. Give the 16 hex digits of report.json, never a UID.")
    return study


def _read_reasons(given: Mapping[str, Any]) -> tuple[str, ...]:
    reasons = given.get("redrive_reasons") or []
    if not isinstance(reasons, list) or not all(isinstance(reason, str) for reason in reasons):
        raise RedriveError('redrive_reasons is not a list of reason codes. Write it as ["truncated", "rejected"].')
    unknown = sum(reason not in SENTENCES for reason in reasons)
    if unknown:
        raise RedriveError(f"redrive_reasons has {unknown} codes that do not exist. docs/reasons.md lists the codes.")
    return tuple(dict.fromkeys(reasons))


def _read_findings(given: Mapping[str, Any]) -> bool:
    """Return whether arrivals are selected of which the data store has lost something."""
    asked = given.get("redrive_findings", False)
    if not isinstance(asked, bool):
        raise RedriveError("redrive_findings is not true or false. Write it without quotes.")
    if asked and {"redrive_reasons", "redrive_csv", "redrive_non_primary"} & given.keys():
        raise RedriveError(
            "redrive_findings selects what was released, and redrive_reasons, redrive_csv and redrive_non_primary "
            "select what was not. Give one of them; redrive_run and redrive_study narrow both."
        )
    return asked


def _read_site(given: Mapping[str, Any]) -> str | None:
    """Return the site to which the other conditions are narrowed."""
    site = _read_text(given, "redrive_site")
    if site is not None and {"redrive_csv", "redrive_findings"} & given.keys():
        raise RedriveError(
            "redrive_site narrows redrive_run, redrive_study and redrive_reasons, and cannot go with a list or with "
            "redrive_findings. Leave it out."
        )
    return site


def _read_address(given: Mapping[str, Any]) -> str | None:
    address = _read_text(given, "redrive_csv")
    try:
        is_csv = address is None or S3Uri.parse(address).key.endswith(".csv")
    except S3UriError:
        is_csv = False
    if not is_csv:
        raise RedriveError("redrive_csv is not the address of a list. Write it as s3://bucket/folder/dispositions.csv.")
    return address


def _read_resolution(given: Mapping[str, Any]) -> Resolution | None:
    name = _read_text(given, "redrive_non_primary")
    if name is not None and name not in list(Resolution):
        raise RedriveError(f"redrive_non_primary is not one of {', '.join(Resolution)}. Use one, or leave it out.")
    return None if name is None else Resolution(name)
