from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl
import pytest

from airlock.ledger import Job, Ledger, LedgerError
from airlock.ledger.__main__ import main
from airlock.ledger.resources import CLAIMS
from tests.unit.airlock.ledger.samples import NIGHTLY, STORE, arrivals, begin, dispositions, id_of

if TYPE_CHECKING:
    from collections.abc import Iterable

IMAGES = Job("images", 0, "a", "t0", job_id="j0", status="COMPLETED")
FHIR = Job("resources", 0, "a", "t1", job_id="j1")  # not ended, for all the ledger knows


def resources(run: str, *ids: str, digest: str = "d1") -> pl.DataFrame:
    rows = [(id_of(run), "Patient", name, digest, None, None) for name in ids]
    return pl.DataFrame(rows, schema=CLAIMS, orient="row")


def taken(ledger: Ledger, run: str, *ids: str) -> set[str]:
    """Claim for a run and return the ids that it did not get."""
    return set(ledger.claim_resources(STORE, NIGHTLY, run, resources(run, *ids, digest="d2"))["resource_id"])


def known(ledger: Ledger, ids: Iterable[str] = ("p1", "p2")) -> set[str]:
    return set(ledger.known_resources(STORE, resources("a", *ids))["resource_id"])


@pytest.fixture
def publishing(ledger: Ledger) -> Ledger:
    """Run a claims p1, in the store from run b, and p2, of its settled arrival; its images are in."""
    begin(ledger, "a", "b")
    for run in ("a", "b"):
        ledger.claim(NIGHTLY, run, arrivals(run))
    ledger.record_imported_resources(STORE, "b", resources("b", "p1").with_columns(batch_id=pl.lit("batch")))
    ledger.record_job(IMAGES)
    ledger.settle(NIGHTLY, "a", dispositions("a", word="held"))
    taken(ledger, "a", "p1", "p2")
    return ledger


def test_the_images_of_a_run_do_not_keep_its_resources(publishing: Ledger) -> None:
    assert publishing.release_resources(NIGHTLY, "a") == 2
    assert taken(publishing, "b", "p1", "p2") == set()


def test_what_a_job_may_have_written_over_is_not_known_any_more(publishing: Ledger) -> None:
    assert known(publishing) == {"p1"}
    publishing.release_resources(NIGHTLY, "a")
    assert known(publishing) == set()


def test_without_any_job_it_stays_known(ledger: Ledger) -> None:
    begin(ledger, "a", "b")
    for run in ("a", "b"):
        ledger.claim(NIGHTLY, run, arrivals(run))
    ledger.record_imported_resources(STORE, "b", resources("b", "p1").with_columns(batch_id=pl.lit("batch")))
    taken(ledger, "a", "p1", "p2")
    assert ledger.release_resources(NIGHTLY, "a") == 2
    assert known(ledger) == {"p1"}


def test_a_job_that_may_still_run_keeps_them_until_a_person_has_seen_its_end(publishing: Ledger) -> None:
    publishing.record_job(FHIR)
    with pytest.raises(LedgerError, match=r"1 import jobs of run 'a' have not ended .*: j1. .* --jobs-ended"):
        publishing.release_resources(NIGHTLY, "a")
    assert taken(publishing, "b", "p1", "p2") == {"p1", "p2"}
    assert publishing.release_resources(NIGHTLY, "a", jobs_ended=True) == 2
    assert taken(publishing, "b", "p1", "p2") == set()


def test_of_a_batch_the_last_job_counts(publishing: Ledger) -> None:
    publishing.record_job(FHIR)
    publishing.record_job(Job("resources", 1, "a", "t2", job_id="j2", status="FAILED"))
    assert publishing.release_resources(NIGHTLY, "a") == 2


def test_claims_of_another_run_are_left_alone(publishing: Ledger) -> None:
    assert publishing.release_resources(NIGHTLY, "b") == 0
    with pytest.raises(LedgerError, match="is of pipeline 'nightly', not 'another'"):
        publishing.release_resources("another", "a")
    assert taken(publishing, "b", "p1") == {"p1"}


def test_settled_arrivals_stay_where_they_are(publishing: Ledger) -> None:
    assert publishing.release_claims(NIGHTLY, "a") == 0
    assert publishing.held_by(NIGHTLY, "a").height == 1
    assert taken(publishing, "b", "p1") == {"p1"}, "resources of a run with jobs are given back by themselves"


def test_the_command_gives_back_the_resources_and_then_the_arrivals(
    publishing: Ledger, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    release = ["release", "--url", url, "--pipeline", NIGHTLY, "--run", "a"]
    assert main(release) == 0
    assert capsys.readouterr().out.startswith("2 FHIR resources given back")
    publishing.claim(NIGHTLY, "a", arrivals("another"))
    assert main(release) == 1
    assert "run 'a' has 1 import jobs: clear its audit task" in capsys.readouterr().err


def test_the_command_can_be_told_that_the_jobs_have_ended(publishing: Ledger, url: str) -> None:
    publishing.record_job(FHIR)
    release = ["release", "--url", url, "--pipeline", NIGHTLY, "--run", "a"]
    assert main(release) == 1
    assert main([*release, "--jobs-ended"]) == 0
    assert taken(publishing, "b", "p1", "p2") == set()
