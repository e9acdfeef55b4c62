"""Subject keys: on a route of clinical care, contracts of studies and of their patient's records name each other.

A key that joins images and records also joins a research flow with an identified one. So only routes that their
pipeline marks as clinical get it: each of their contracts is a copy with the keys.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import polars as pl
from pydantic_core import from_json, to_json

from airlock.destinations.s3 import contract_name
from airlock.records import subject_key
from airlock.stages.releases import WRITERS
from airlock.storage.s3uri import S3Uri

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airlock.pipelines import Pipeline
    from airlock.run import Run

_FOLDER = "contracts/clinical"
_AT_A_TIME = 100  # contracts, which may be large, in memory


def add_subject_keys(run: Run[Pipeline], messages: pl.DataFrame) -> pl.DataFrame:
    """Return messages (`ledger.outbox.MESSAGES` and more) about copies of their contracts with each other's keys.

    The contract of a study gets ``patient_key``, the contract of a patient's records ``study_keys``: the studies that
    are released for the patient by now. A contract without the other side is sent as it is, and so is one that is gone,
    of which route says so.
    """
    addresses: list[str] = []
    with ThreadPoolExecutor(WRITERS) as pool:
        for rows in messages.iter_slices(_AT_A_TIME):
            contents = list(pool.map(lambda uri: _read(run, uri), rows["payload_uri"]))
            keys = _find_keys(run, contents)
            triples = rows.select("subject_key", "revision", "payload_uri").iter_rows()
            addresses += pool.map(lambda *one: _write_copy(run, *one), triples, contents, keys)
    return messages.with_columns(payload_uri=pl.Series(addresses, dtype=pl.String))


def _read(run: Run[Pipeline], uri: str) -> dict[str, Any]:
    """Return a contract; an empty one if it is gone."""
    try:
        content: dict[str, Any] = from_json(run.s3.get(S3Uri.parse(uri)))
    except FileNotFoundError:
        return {}
    return content


def _find_keys(run: Run[Pipeline], contents: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the fields that each contract gets; none of one without the other side."""
    patients = [_name_patient(content) for content in contents]
    names = pl.Series([name for name in patients if name is not None], dtype=pl.String)
    studies: dict[tuple[str, str], list[str]] = {}
    if not names.is_empty():
        found = run.ledger.studies_of_patients(names).filter("is_released")
        rows = found.select("patient", "healthlake", "study_key").unique().sort("study_key")
        for patient, lake, key in rows.iter_rows():
            studies.setdefault((patient, lake), []).append(key)
    fields: list[dict[str, Any]] = []
    for content, patient in zip(contents, patients, strict=True):
        fhir = content.get("fhir")
        of_patient = studies.get((patient, content["datastore_id"])) if patient is not None else None
        if fhir:
            fields.append({"patient_key": subject_key(fhir["datastore_id"], fhir["Patient"])})
        else:
            fields.append({"study_keys": of_patient} if of_patient else {})
    return fields


def _name_patient(content: dict[str, Any]) -> str | None:
    """Return the patient of a contract of records, as ``Patient/<id>``; None of another contract."""
    subject = content.get("subject")
    return subject["reference"] if subject and subject["kind"] == "patient" else None


def _write_copy(run: Run[Pipeline], row: tuple[str, int, str], content: dict[str, Any], keys: dict[str, Any]) -> str:
    """Return the address of a contract's copy with the keys; of the contract itself if it gets none."""
    subject, revision, uri = row
    if not keys:
        return uri
    text = to_json(content | keys, indent=1).decode()
    return run.workspace.write_text(f"{_FOLDER}/{contract_name(subject, revision)}", text, "application/json")
