"""Keys that join images and records are on clinical routes only."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import polars as pl

from airlock.ledger.lookup import PATIENT_STUDIES
from airlock.ledger.outbox import MESSAGES
from airlock.records import subject_key
from airlock.stages.subject_keys import add_subject_keys
from airlock.storage.s3uri import S3Uri

if TYPE_CHECKING:
    import pytest

    from airlock.run import Run
    from tests.unit.airlock.world import World

FHIR = {"datastore_id": "lake", "Patient": "Patient/p1"}
RECORDS = {"datastore_id": "lake", "subject": {"kind": "patient", "reference": "Patient/p1"}}


def send(run: Run[Any], **contracts: dict[str, Any]) -> pl.DataFrame:
    """Return a message about each contract, by its subject key."""

    def write(key: str) -> str:
        name = f"contracts/{key}/revision-000001.json"
        return run.workspace.write_text(name, json.dumps(contracts[key]), "application/json")

    rows = [(key, 1, "d", write(key)) for key in contracts]
    return pl.DataFrame(rows, schema=MESSAGES, orient="row")


def read(world: World, uri: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(world.s3.get(S3Uri.parse(uri)))
    return found


def let_study_be(monkeypatch: pytest.MonkeyPatch, run: Run[Any], *, lake: str, released: bool) -> None:
    row = {"patient": "Patient/p1", "healthlake": lake, "study_key": "s1", "is_released": released}
    found = pl.DataFrame([row], schema=PATIENT_STUDIES)
    monkeypatch.setattr(type(run.ledger), "studies_of_patients", lambda *_: found)


def test_a_copy_has_the_key_of_the_records_and_the_contract_itself_has_not(world: World) -> None:
    run = world.run()
    messages = send(run, k={"fhir": FHIR})
    (copied,) = add_subject_keys(run, messages)["payload_uri"]
    assert read(world, copied)["patient_key"] == subject_key("lake", "Patient/p1")
    assert "patient_key" not in read(world, messages["payload_uri"][0])


def test_the_records_name_the_released_studies_of_their_data_store(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = world.run()
    messages = send(run, k=RECORDS)
    let_study_be(monkeypatch, run, lake="lake", released=True)
    (copied,) = add_subject_keys(run, messages)["payload_uri"]
    assert read(world, copied) == RECORDS | {"study_keys": ["s1"]}
    for lake, released in (("other", True), ("lake", False)):
        let_study_be(monkeypatch, run, lake=lake, released=released)
        assert add_subject_keys(run, messages)["payload_uri"].to_list() == messages["payload_uri"].to_list()


def test_what_has_no_other_side_or_is_gone_is_sent_as_it_is(world: World) -> None:
    run = world.run()
    there = send(run, k={}, f={"datastore_id": "lake", "subject": {"kind": "file", "reference": None}})
    gone = there.head(1).with_columns(subject_key=pl.lit("l"), payload_uri=pl.col("payload_uri") + ".gone")
    messages = pl.concat([there, gone])
    assert add_subject_keys(run, messages)["payload_uri"].to_list() == messages["payload_uri"].to_list()
