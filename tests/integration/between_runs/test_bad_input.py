"""What runs say of dates, manifests, clocks, ledgers and numbers that cannot be right; nothing is half done."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from airflow.sdk.exceptions import AirflowFailException
from pydantic import ValidationError
from sqlalchemy import text

from airlock.ledger import LedgerError
from airlock.ledger.database import engine_for, parse_url
from airlock.ledger.schema import REVISION, VERSION_TABLE
from airlock.reasons import Reason
from tests.chain import clinical_pipeline, pipeline, questions_to_people
from tests.clinical_files import allergy, ndjson, patient
from tests.dicom_files import ct, study_uid
from tests.integration.between_runs.runs import by_hand, find_last_night, nightly
from tests.ledger_rows import count_arrivals

if TYPE_CHECKING:
    from tests.chain import Place

pytestmark = pytest.mark.slow

DATED = pipeline(source={"uri": "s3://archive/in/", "window": "key_date"})


def test_a_key_date_that_is_none_is_told_and_its_object_is_left_to_a_run_without_a_window(
    place: Place, capfd: pytest.CaptureFixture[str]
) -> None:
    yesterday = f"{find_last_night() - timedelta(days=1):%Y/%m/%d}"
    place.put({f"{yesterday}/1.dcm": ct(1, 1, 1), "2026/13/45/1.dcm": ct(2, 1, 1), "2026/02/30/1.dcm": ct(3, 1, 1)})
    report = nightly(place, 0, DATED).run()
    assert (report["dispositions"], report["undated"]) == ({"released": 1}, 2)
    told = "2 objects have no valid date in their key, so no run with a window takes them. Correct the keys or"
    seen = capfd.readouterr()
    assert told in seen.out + seen.err
    assert "Undated: 2 objects have no valid date in their key, so the run did not take them." in seen.out + seen.err
    report = by_hand(place, "all", line=DATED).run()
    assert (report["dispositions"], report["undated"]) == ({"released": 2}, 0)


def test_a_manifest_that_promises_more_objects_than_come_ends_the_wait_with_both_numbers(place: Place) -> None:
    place.put({"1.dcm": ct(1, 1, 1), "delivery.json": json.dumps({"objects": 12}).encode()})
    receive = {"mode": "manifest", "quiet_seconds": 0, "timeout_minutes": 0.01, "poll_seconds": 0.1}
    run = by_hand(place, "one", line=pipeline(receive=receive))
    with pytest.raises(AirflowFailException, match=r"it waits for 12 objects; 1 are there\. Complete it"):
        run.stage("receive")
    assert place.keys("workspace") == []


def test_a_manifest_that_promises_more_instances_holds_the_study_and_says_both_numbers(place: Place) -> None:
    manifest = {"objects": 2, "studies": {study_uid(1): 900}}
    files = {"1.dcm": ct(1, 1, 1), "2.dcm": ct(2, 1, 1), "delivery.json": json.dumps(manifest).encode()}
    place.put(files)
    run = by_hand(place, "one", line=pipeline(receive={"mode": "manifest", "quiet_seconds": 0}))
    assert run.run()["dispositions"] == {"held": 1, "released": 1, "ignored": 1}
    row = run.rows["1.dcm"]
    assert (row["reason"], row["what_to_do"]) == ("fewer_than_declared", Reason.FEWER_THAN_DECLARED.sentence)
    assert "900" in row["detail"]


def test_a_senders_clock_that_is_a_year_ahead_replaces_nothing(place: Place) -> None:
    now = datetime.now(UTC)
    today, ahead = ({"lastUpdated": (now + timedelta(days=days)).isoformat()} for days in (0, 365))
    line = clinical_pipeline(audit={"manifest_wait_seconds": 0.1})
    place.put({"1.ndjson": ndjson(patient(gender="female", meta=today), allergy(criticality="high", meta=today))})
    assert by_hand(place, "one", line=line).run()["dispositions"] == {"released": 2}
    place.put({"2.ndjson": ndjson(patient(gender="male", meta=ahead), allergy(criticality="low", meta=ahead))})
    run = by_hand(place, "two", line=line)
    assert run.run()["dispositions"] == {"quarantined": 2}
    assert {row["reason"]: row["what_to_do"] for row in run.lines} == {
        "future_timestamp": Reason.FUTURE_TIMESTAMP.sentence
    }
    assert (place.stored("Patient/p1") or {})["gender"] == "female"
    assert (place.stored("AllergyIntolerance/a1") or {})["criticality"] == "high"


def test_a_ledger_of_an_unknown_schema_is_neither_read_nor_written(place: Place) -> None:
    place.put({"1.dcm": ct(1, 1, 1)})
    engine = engine_for(parse_url(place.ledger_url))
    with engine.begin() as connection:
        connection.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = '9999'"))
    run = by_hand(place, "one")
    run.tries = 1
    with pytest.raises(
        LedgerError, match="has schema 9999, which this Airlock does not know; nothing was read or writ"
    ):
        run.stage("receive")
    with engine.begin() as connection:
        assert connection.execute(text("SELECT COUNT(*) FROM runs")).scalar_one() == 0
        connection.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = '{REVISION}'"))
    engine.dispose()
    assert place.keys("workspace") == []
    assert run.run()["dispositions"] == {"released": 1}


def test_a_run_of_ten_files_is_stopped_by_no_brake_unless_the_pipeline_says_ten(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = questions_to_people(monkeypatch)
    place.put({f"{number}/1.dcm": ct(number, 1, 1)[:400] for number in range(10)})
    assert by_hand(place, "one").run()["dispositions"] == {"quarantined": 10}
    assert asked == []
    with place.ledger() as ledger:
        assert count_arrivals(ledger, "nightly") == {"quarantined": 10}
    with pytest.raises(ValidationError, match=r"least_arrivals\s+Input should be greater than or equal to 10"):
        pipeline(audit={"brake": {"least_arrivals": 9}})
