"""A plan through the pipeline's own operators: what it says is what the run in earnest does, and it leaves no trace."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest
from airflow.sdk.exceptions import AirflowSkipException

from airlock.stages.plan import read_plan
from tests.chain import DATASTORE, Chain, pipeline
from tests.dicom_files import ct, delivery
from tests.ledger_rows import count_arrivals, count_instances

if TYPE_CHECKING:
    from tests.chain import Place

pytestmark = pytest.mark.slow

CANARY = {"PatientID": "CANARY-ID", "PatientName": "Canary^Name"}


def planned(place: Place) -> Chain:
    """Take a run through as a plan, as far as Airflow would."""
    chain = Chain(place, pipeline(limits={"files_per_job": 4}), params={"plan_only": True})
    chain.until("normalize")
    assert list(chain._operators("import")) == []
    with pytest.raises(AirflowSkipException):
        chain.task(chain.dag.get_task("audit").prepare_for_execution(), 0)
    return chain


def test_what_a_plan_says_is_what_the_run_does_and_the_run_finds_everything(place: Place) -> None:
    twice = ct(9, 1, 1, **CANARY)
    files = delivery(studies=3, instances=3) | {"a.dcm": twice, "b.dcm": twice, "cut.dcm": ct(8)[:-100], "n.txt": b"n"}
    place.put(files)
    chain = planned(place)
    with place.ledger() as ledger:
        assert (count_arrivals(ledger, "nightly"), count_instances(ledger, DATASTORE)) == ({}, {})
    assert (place.keys("staging"), place.keys("output"), place.jobs()) == ([], [], [])
    plan = read_plan(place._wrapped, chain.pipeline, chain.run_id)

    # In earnest under the same run id, as Airflow's backfill repeats an interval.
    real = Chain(place, chain.pipeline)
    report = real.run()
    assert plan.arrivals == report["arrivals"] == len(files)
    assert plan.batches.jobs == len(place.jobs())
    words = {"quarantine": "quarantined", "duplicate": "duplicate", "ignore": "ignored"}
    said = {(words[item.verdict], item.reason): item.arrivals for item in plan.findings if item.verdict in words}
    done = Counter((row["disposition"], row["reason"]) for row in real.rows.values())
    assert {pair: number for pair, number in done.items() if pair[0] in words.values()} == said


def test_nothing_of_a_patient_is_in_xcom_or_the_log(
    place: Place, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    counted = CANARY | {"NumberOfStudyRelatedInstances": 300}
    place.put({"CANARY-ID/1.dcm": ct(1, 1, 1, **counted), "CANARY/cut CANARY.dcm": ct(2, 1, 1, **CANARY)[:-100]})
    chain = planned(place)
    said = caplog.text + "".join(capfd.readouterr())
    assert "nothing was claimed, staged or imported" in said
    assert "declared by header" in said
    plan = read_plan(place._wrapped, chain.pipeline, chain.run_id).model_dump_json()
    assert "canary" not in (said + plan + str(dict(chain.xcom))).lower()
