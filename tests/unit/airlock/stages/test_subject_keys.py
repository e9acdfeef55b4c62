"""A key that joins images and records is on clinical routes only."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import polars as pl

from airlock.clinical.records import subject_key
from airlock.ledger.outbox import MESSAGES
from airlock.records import patient_key
from airlock.stages.subject_keys import add_patient_keys
from airlock.storage.s3uri import S3Uri

if TYPE_CHECKING:
    from tests.unit.airlock.world import World

FHIR = {"datastore_id": "lake", "Patient": "Patient/p1"}


def test_it_is_the_subject_key_of_the_clinical_contract() -> None:
    assert patient_key("lake", "Patient/p1") == subject_key("lake", "Patient/p1")


def test_a_copy_has_the_key_and_the_contract_itself_has_not(world: World) -> None:
    run = world.run()
    uri = run.workspace.write_text("contracts/k/revision-000001.json", json.dumps({"fhir": FHIR}), "application/json")
    messages = pl.DataFrame([("k", 1, "digest", uri)], schema=MESSAGES, orient="row")
    (copied,) = add_patient_keys(run, messages)["payload_uri"]
    assert json.loads(world.s3.get(S3Uri.parse(copied)))["patient_key"] == patient_key("lake", "Patient/p1")
    assert "patient_key" not in json.loads(world.s3.get(S3Uri.parse(uri)))


def test_what_names_no_patient_or_is_gone_is_sent_as_it_is(world: World) -> None:
    run = world.run()
    uri = run.workspace.write_text("contracts/k/revision-000001.json", "{}", "application/json")
    gone = f"{uri}.gone"
    messages = pl.DataFrame([("k", 1, "d", uri), ("l", 1, "d", gone)], schema=MESSAGES, orient="row")
    assert add_patient_keys(run, messages)["payload_uri"].to_list() == [uri, gone]
