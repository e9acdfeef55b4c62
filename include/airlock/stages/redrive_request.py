"""What a person asks for who wants something taken through again: the params ``redrive_*`` of a run, checked."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from airlock.ledger import Resolution
from airlock.reasons import SENTENCES
from airlock.run import RedriveRequest
from airlock.storage.s3uri import S3Uri, S3UriError
from airlock.words import says_something, unfit

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airlock.pipelines import Pipeline

PARAMS = (
    *("redrive_run", "redrive_study", "redrive_reasons", "redrive_csv"),
    *("redrive_non_primary", "redrive_why", "redrive_by"),
)
OF_STUDIES = ("redrive_study", "redrive_non_primary")
_STUDY_KEY = re.compile(r"[0-9a-f]{16}")


class RedriveError(ValueError):
    """A redrive that cannot be done as it was asked for; nothing was claimed."""


def read_request(params: Mapping[str, Any], person: str | None, pipeline: Pipeline) -> RedriveRequest | None:
    """Return what a run's params ask for; None where they ask for no redrive.

    Parameters
    ----------
    params
        The run's params.
    person
        Who started the run, as Airflow knows them.
    pipeline
        Whose run it is.

    Raises
    ------
    RedriveError
        If a value is wrong or one is missing; the text names the param.
    """
    given = {name: params.get(name) for name in PARAMS if params.get(name)}
    if not given:
        return None
    misplaced = [name for name in ("prefix", "window_start", "window_end") if params.get(name)]
    if misplaced:
        raise RedriveError(f"{', '.join(misplaced)} cannot go with a redrive, which names its arrivals: leave it out")
    _need_studies(given, pipeline)
    if not {"redrive_run", "redrive_study", "redrive_reasons", "redrive_csv"} & given.keys():
        raise RedriveError(
            "the redrive chooses nothing: give redrive_run, redrive_study, redrive_reasons or redrive_csv"
        )
    return RedriveRequest(
        asked_by=_signed(given, person),
        why=_why(given),
        run=_text(given, "redrive_run"),
        study=_study(given),
        reasons=_reasons(given),
        csv=_address(given),
        non_primary=_resolution(given),
    )


def _need_studies(given: Mapping[str, Any], pipeline: Pipeline) -> None:
    """Refuse what is about studies in a pipeline that has none."""
    strange = [name for name in OF_STUDIES if name in given]
    if strange and not pipeline.has_studies:
        raise RedriveError(
            f"{', '.join(strange)} is for pipelines of kind imaging, and this one is of kind {pipeline.kind}: leave it "
            f"out, and choose by redrive_run, redrive_reasons or redrive_csv"
        )


def _text(given: Mapping[str, Any], name: str) -> str | None:
    value = given.get(name)
    if value is not None and not isinstance(value, str):
        raise RedriveError(f"{name} is no text: write it as one")
    return value.strip() or None if value else None


def _signed(given: Mapping[str, Any], person: str | None) -> str:
    """Name who asks, and who started the run for them: whoever may start one may sign as they like."""
    name = _text(given, "redrive_by")
    if name is None or name == person:
        return person or "unknown"
    _need_fit("redrive_by", name)
    return f"{name} (by {person})" if person else name


def _why(given: Mapping[str, Any]) -> str:
    why = _text(given, "redrive_why")
    if not why or not says_something(why):
        raise RedriveError("redrive_why is missing: say in a sentence why these are to go through again")
    _need_fit("redrive_why", why)
    return why


def _need_fit(name: str, text: str) -> None:
    fault = unfit(text)
    if fault:
        raise RedriveError(f"{name} {fault}")


def _study(given: Mapping[str, Any]) -> str | None:
    study = _text(given, "redrive_study")
    if study is not None and not _STUDY_KEY.fullmatch(study):
        raise RedriveError("redrive_study is no study key, 16 hex digits as in report.json: give that, never a UID")
    return study


def _reasons(given: Mapping[str, Any]) -> tuple[str, ...]:
    reasons = given.get("redrive_reasons") or []
    if not isinstance(reasons, list) or not all(isinstance(reason, str) for reason in reasons):
        raise RedriveError('redrive_reasons is no list of reason codes: write it as ["truncated", "rejected"]')
    unknown = sum(reason not in SENTENCES for reason in reasons)
    if unknown:
        raise RedriveError(f"redrive_reasons has {unknown} codes that do not exist: use those of docs/reasons.md")
    return tuple(dict.fromkeys(reasons))


def _address(given: Mapping[str, Any]) -> str | None:
    address = _text(given, "redrive_csv")
    try:
        whole = address is None or S3Uri.parse(address).key.endswith(".csv")
    except S3UriError:
        whole = False
    if not whole:
        raise RedriveError("redrive_csv is no address of a list: write it as s3://bucket/folder/dispositions.csv")
    return address


def _resolution(given: Mapping[str, Any]) -> Resolution | None:
    word = _text(given, "redrive_non_primary")
    if word is not None and word not in list(Resolution):
        raise RedriveError(f"redrive_non_primary is none of {', '.join(Resolution)}: choose one, or leave it out")
    return None if word is None else Resolution(word)
