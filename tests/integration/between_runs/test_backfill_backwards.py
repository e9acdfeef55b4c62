"""A backfill of exports from newest to oldest, after nights have begun: a patient and allergies stay the newest."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import polars as pl
import pytest

from airlock.records import Window
from tests.chain import RECORDS, Chain, clinical_pipeline
from tests.clinical_files import allergy, ndjson, observation, patient
from tests.integration.between_runs.runs import DAY, find_last_night, nightly

if TYPE_CHECKING:
    from datetime import date

    from airlock.pipelines import ClinicalPipeline
    from tests.chain import Place

pytestmark = pytest.mark.slow

GENDERS = ("other", "female", "male", "unknown")  # of the days from the oldest to the newest
GRAVITIES = ("low", "high", "low", "unable-to-assess")
ORDERED = pl.DataFrame({"resource_type": ["AllergyIntolerance", "Patient"], "resource_id": ["a1", "p1"]})
OLD = 3  # the number of days that are backfilled; the newest one is a night's


def day_of(number: int) -> date:
    """Return the day of an export; the three old ones lie before what a night looks back to."""
    return (find_last_night() - (1 if number == OLD else 20 - number) * DAY).date()


def export(number: int, clock: str) -> dict[str, bytes]:
    """Return the export of a day: the patient, an allergy, and an observation that is in no other export."""
    told: dict[str, Any] = {"meta": {"lastUpdated": f"{day_of(number)}T12:00:00Z"}} if clock == "last_updated" else {}
    folder = f"{day_of(number):%Y/%m/%d}/"
    return {
        f"{folder}Patient.ndjson": ndjson(patient(gender=GENDERS[number], **told)),
        f"{folder}AllergyIntolerance.ndjson": ndjson(allergy(criticality=GRAVITIES[number], **told)),
        f"{folder}Observation.ndjson": ndjson(observation(f"o{number}", **told)),
    }


def line(clock: str) -> ClinicalPipeline:
    source = {"uri": "s3://archive/in/", "window": "key_date", "order": {"across_keys": clock}}
    return clinical_pipeline(source=source, audit={"manifest_wait_seconds": 0.1})


def backfill(place: Place, number: int, clock: str) -> Chain:
    """Return the run of Airflow's backfill of an export's day."""
    start = find_last_night() - (20 - number) * DAY
    return Chain(place, line(clock), run_id=f"backfill__{start.isoformat()}", window=Window(start, start + DAY))


def newest_digests(place: Place) -> dict[str, str]:
    """Return the content of each resource in the contract of the highest revision."""
    last = max(place.contracts(), key=lambda contract: contract["revision"])
    return {resource["reference"]: resource["content_digest"] for resource in last["resources"]}


@pytest.mark.parametrize("clock", ["last_updated", "key_date"])
def test_the_newest_stays_in_the_store_in_the_ledger_and_downstream(place: Place, clock: str) -> None:
    for number in range(OLD + 1):
        place.put(export(number, clock))
    assert nightly(place, 0, line(clock)).run()["dispositions"] == {"released": 3}
    newest = newest_digests(place)
    for number in reversed(range(OLD)):
        run = backfill(place, number, clock)
        assert run.run()["dispositions"] == {"released": 1, "ignored": 2}
        older = {"Patient/p1": ("ignored", "newer_content"), "AllergyIntolerance/a1": ("ignored", "newer_content")}
        assert run.words == older

    assert (place.stored("Patient/p1") or {})["gender"] == GENDERS[-1]
    assert (place.stored("AllergyIntolerance/a1") or {})["criticality"] == GRAVITIES[-1]
    assert (place.version("Patient/p1"), place.version("AllergyIntolerance/a1")) == (1, 1)
    with place.ledger() as ledger:
        known = ledger.contents_of(RECORDS, ORDERED)
    assert known["known_digest"].to_list() == [newest["AllergyIntolerance/a1"], newest["Patient/p1"]]
    sent = sorted(place.contracts(), key=lambda contract: contract["revision"])
    assert [contract["revision"] for contract in sent] == [1, 2, 3, 4]
    for contract in sent:
        told = {resource["reference"]: resource["content_digest"] for resource in contract["resources"]}
        assert {name: told[name] for name in ("Patient/p1", "AllergyIntolerance/a1")} == {
            name: newest[name] for name in ("Patient/p1", "AllergyIntolerance/a1")
        }
    assert newest_digests(place).keys() == {
        "Patient/p1",
        "AllergyIntolerance/a1",
        *(f"Observation/o{n}" for n in range(4)),
    }
