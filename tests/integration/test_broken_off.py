"""Runs that break off or find little to do: what they report, and that nothing of them looks like a success."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from airflow.sdk.exceptions import AirflowFailException

from airlock.records import VERDICTS, Window
from airlock.run import Run
from airlock.storage.s3uri import S3Uri
from airlock_local.sample.ccda.documents import entity_bomb
from airlock_tasks.run import connect_s3
from tests.chain import Chain, ccda_pipeline, clinical_pipeline, pipeline
from tests.clinical_files import ndjson, patient
from tests.dicom_files import ct, delivery
from tests.integration.between_runs.runs import give_back, given

if TYPE_CHECKING:
    from airlock.pipelines import Pipeline
    from tests.chain import Place

pytestmark = pytest.mark.slow


def ends_badly(chain: Chain, why: str) -> None:
    """The audit fails, so route never starts and Airflow shows a failed run; its report is there all the same."""
    with pytest.raises(AirflowFailException, match=why):
        chain.stage("audit")
    assert chain.report["balanced"] is False
    assert chain.report["arrivals"] == 0


def test_delivery_that_is_never_complete_fails_the_run(place: Place) -> None:
    place.put(delivery(studies=1, instances=1))
    waiting = {"mode": "marker", "poll_seconds": 0.1, "timeout_minutes": 0.001}
    chain = Chain(place, pipeline(receive=waiting))
    with pytest.raises(AirflowFailException, match="it waits for the marker object _SUCCESS"):
        chain.stage("receive")
    ends_badly(chain, "buffer has not frozen a delivery")


def test_bucket_that_cannot_be_listed_fails_the_run(place: Place) -> None:
    chain = Chain(place, pipeline(source={"uri": "s3://no-such-bucket/in/"}), tries=1)
    with pytest.raises(OSError, match="bucket 'no-such-bucket' cannot be listed"):
        chain.stage("buffer")
    ends_badly(chain, "buffer has not frozen a delivery")


@pytest.mark.parametrize(
    ("line", "files", "last", "audit"),
    [
        (pipeline(), delivery(studies=1, instances=2), "normalize", "audit"),
        (clinical_pipeline(), {"p1.ndjson": ndjson(patient("p1"))}, "normalize", "audit"),
        (ccda_pipeline(), {"1.xml": entity_bomb()}, "validate", "fhir.audit"),
    ],
)
def test_an_audit_of_a_run_whose_arrivals_were_given_back_names_the_task_to_clear(
    place: Place, line: Pipeline, files: dict[str, bytes], last: str, audit: str
) -> None:
    place.put(files)
    chain = Chain(place, line)
    chain.until(last)
    give_back(chain)
    with pytest.raises(AirflowFailException, match=f"{len(files)} arrivals of the run were given back"):
        chain.stage(audit)
    assert "clear its buffer task" in chain.report["problems"][0]
    assert place.contracts() == []
    given("released" not in chain.report["dispositions"])
    chain.onward("buffer")
    assert chain.states[audit] == "success"
    assert (chain.report["balanced"], chain.report["arrivals"]) == (True, len(files))


def test_empty_delivery_ends_well_and_says_so(place: Place) -> None:
    report = Chain(place, pipeline()).run()
    assert (report["arrivals"], report["balanced"], report["jobs"]) == (0, True, [])
    assert place.jobs() == []


def test_batch_whose_objects_are_gone_starts_no_job(place: Place) -> None:
    place.put(delivery(studies=1, instances=2))
    chain = Chain(place, pipeline())
    chain.until("validate")
    place.take("archive")
    chain.onward("normalize")
    assert chain.states["import"] == "skipped"
    assert place.jobs() == []
    assert {row["reason"] for row in chain.rows.values()} == {"object_gone"}
    assert chain.report["dispositions"] == {"failed": 2}


def test_mapped_results_stay_with_their_batch_whatever_their_order(place: Place) -> None:
    place.put(delivery(studies=3, instances=2))
    chain = Chain(place, pipeline(limits={"files_per_job": 2}))
    first = chain.run(), chain.rows

    chain.xcom["normalize", 0].reverse()
    for stage in ("import", "audit", "route"):
        chain.stage(stage)
    assert (chain.report, chain.rows) == first
    assert len(place.jobs()) == 3


def test_what_goes_between_tasks_and_to_logs_stays_small_and_names_nobody(
    place: Place, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    secret = {"PatientID": "CANARY-ID", "PatientName": "CANARY^NAME", "AccessionNumber": "CANARY-ACC"}
    files = {f"CANARY^NAME/{n}.dcm": ct(1, 1, n, **secret) for n in range(1, 31)}
    place.put(files | {"other/cut.dcm": files["CANARY^NAME/1.dcm"][:-100]})
    chain = Chain(place, pipeline(staging={"uri": "s3://staging/batches/", "mode": "in_place"}))
    place.faults(
        {"kind": "job_failed_with_output", "times": 1},
        {"kind": "throttle_storm", "operation": "StartDICOMImportJob", "times": 1},
    )
    with caplog.at_level(logging.INFO):
        chain.run()
    assert {job["inputS3Uri"] for job in place.jobs()} == {"s3://archive/in/CANARY^NAME/"}
    logs, (out, err) = caplog.text, capfd.readouterr()
    assert "DICOM import job" in logs + out + err
    exchanged = json.dumps([[*chain.xcom.values()], [*chain.stores.values()], chain.report])
    for text in (logs, out, err, exchanged, *map(str, chain.errors)):
        assert "CANARY" not in text
        assert "1.2.826" not in text
    assert max(len(json.dumps(value)) for value in chain.xcom.values()) < 1000


def test_nightly_backfill_and_hand_decide_alike(place: Place) -> None:
    place.put(delivery(studies=2, instances=2))
    place.put({"text": b"none", "cut": ct(1, 1, 9)[:-50], "twin": ct(2, 1, 2), "other": ct(2, 1, 2, pixel=3)})
    now = datetime.now(UTC)
    whole = Window(now - timedelta(days=1), now + timedelta(hours=1))
    decided = []
    for number, window in enumerate((None, whole)):
        chain = Chain(place, pipeline(f"entry{number}"), run_id=f"manual__{number}", window=window)
        chain.until("validate")
        with place.ledger() as ledger:
            run = Run(chain.pipeline, chain.run_id, window, S3Uri("archive", "in/"), connect_s3("aws_default"), ledger)
            rows = run.workspace.read("verdicts", VERDICTS)
            ledger.release_claims(chain.pipeline.name, run.key)  # the next one shall find an empty store as well
        decided.append(rows.select("key", "verdict", "reason", "detail").sort("key").rows())
    assert decided[0] == decided[1]
    assert len(decided[0]) == 8
