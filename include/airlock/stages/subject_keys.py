"""Subject keys: on a route of clinical care, the contract of a study names the contract of its patient's records.

A key that joins images and records also joins a research flow with an identified one. So only routes that their
pipeline marks as clinical get it: each of their contracts is a copy with the key.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import polars as pl
from pydantic_core import from_json, to_json

from airlock.destinations.s3 import contract_name
from airlock.records import patient_key
from airlock.stages.releases import WRITERS
from airlock.storage.s3uri import S3Uri

if TYPE_CHECKING:
    from airlock.pipelines import Pipeline
    from airlock.run import Run

_FOLDER = "contracts/clinical"


def add_patient_keys(run: Run[Pipeline], messages: pl.DataFrame) -> pl.DataFrame:
    """Return messages (`ledger.outbox.MESSAGES` and more) about copies of their contracts that have the patient's key.

    A contract that names no Patient is sent as it is, and so is one that is gone, of which route says so.
    """

    def copy(row: tuple[str, int, str]) -> str:
        subject_key, revision, uri = row
        try:
            content = from_json(run.s3.get(S3Uri.parse(uri)))
        except FileNotFoundError:
            return uri
        fhir = content.get("fhir")
        if not fhir:
            return uri
        content["patient_key"] = patient_key(fhir["datastore_id"], fhir["Patient"])
        text = to_json(content, indent=1).decode()
        return run.workspace.write_text(f"{_FOLDER}/{contract_name(subject_key, revision)}", text, "application/json")

    with ThreadPoolExecutor(WRITERS) as pool:
        addresses = list(pool.map(copy, messages.select("subject_key", "revision", "payload_uri").iter_rows()))
    return messages.with_columns(payload_uri=pl.Series(addresses, dtype=pl.String))
