from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from airlock.ledger import Job, Ledger, LedgerError
from tests.unit.airlock.ledger.samples import NIGHTLY, arrivals, begin

BEGUN = Job(batch_id="b1", generation=0, run_key="a", client_token="t0", input_uri="s3://in/b1/")
SUBMITTED = replace(BEGUN, job_id="j0", status="SUBMITTED", submitted_at=datetime(2026, 3, 1, tzinfo=UTC))
ENDED = replace(SUBMITTED, status="FAILED", message="no", ended_at=datetime(2026, 3, 2, tzinfo=UTC))


@pytest.fixture
def opened(ledger: Ledger) -> Ledger:
    begin(ledger, "a")
    return ledger


def test_a_job_is_known_from_before_the_call_to_its_end(opened: Ledger) -> None:
    assert opened.job("b1") is None
    for job in (BEGUN, SUBMITTED, ENDED, ENDED):
        opened.record_job(job)
        assert opened.job("b1") == job
    assert opened.jobs_of("a") == [ENDED]


def test_a_batchs_job_is_the_one_of_its_last_generation(opened: Ledger) -> None:
    second = Job("b1", 1, "a", "t1", job_id="j1")
    for job in (ENDED, second, Job("b0", 0, "a", "t")):
        opened.record_job(job)
    assert opened.job("b1") == second
    assert [(job.batch_id, job.generation) for job in opened.jobs_of("a")] == [("b0", 0), ("b1", 0), ("b1", 1)]


@pytest.mark.parametrize("job_id", ["j9", None])
def test_a_job_id_once_known_is_never_replaced(opened: Ledger, job_id: str | None) -> None:
    opened.record_job(SUBMITTED)
    with pytest.raises(LedgerError, match="generation 0 of batch 'b1' has the job 'j0'"):
        opened.record_job(replace(SUBMITTED, job_id=job_id))
    assert opened.job("b1") == SUBMITTED


def test_a_client_token_once_known_is_never_replaced(opened: Ledger) -> None:
    opened.record_job(BEGUN)
    with pytest.raises(LedgerError, match="another client token"):
        opened.record_job(replace(BEGUN, client_token="t9"))


def test_a_batch_is_one_runs(opened: Ledger) -> None:
    begin(opened, "b")
    opened.record_job(BEGUN)
    with pytest.raises(LedgerError, match="belongs to run 'a', not 'b'"):
        opened.record_job(replace(BEGUN, run_key="b"))
    with pytest.raises(LedgerError, match="has no run 'c'"):
        opened.record_job(replace(BEGUN, batch_id="b9", run_key="c"))


def test_a_run_with_jobs_does_not_give_its_arrivals_back(opened: Ledger) -> None:
    opened.claim(NIGHTLY, "a", arrivals("1"))
    opened.record_job(BEGUN)
    with pytest.raises(LedgerError, match="run 'a' has 1 import jobs: clear its audit task"):
        opened.release_claims(NIGHTLY, "a")
    assert opened.held_by(NIGHTLY, "a").height == 1
