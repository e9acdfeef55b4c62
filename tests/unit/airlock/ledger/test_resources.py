from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl
import pytest

from airlock.ledger import Job, Ledger, LedgerError, instances, open_resources
from airlock.ledger.arrivals import scope as arrivals_scope
from airlock.ledger.release import release_run
from airlock.ledger.resources import CLAIMS, IMPORTS, KNOWN, REFUSED
from tests.unit.airlock.ledger.samples import NIGHTLY, STORE, arrivals, begin, dispositions, id_of

if TYPE_CHECKING:
    from collections.abc import Iterable

ELSEWHERE = "f" * 32


def claims(*ids: str, file: str | None = "1", digest: str = "d1") -> pl.DataFrame:
    rows = [(file and id_of(file), "Patient", name, digest, None, None) for name in ids]
    return pl.DataFrame(rows, schema=CLAIMS, orient="row")


def imports(*ids: str, file: str | None = "1", digest: str = "d1", batch: str = "batch") -> pl.DataFrame:
    return claims(*ids, file=file, digest=digest).with_columns(batch_id=pl.lit(batch)).select(list(IMPORTS))


def keys(*ids: str) -> pl.DataFrame:
    return claims(*ids).select("resource_type", "resource_id")


@pytest.fixture
def two_runs(ledger: Ledger) -> Ledger:
    """Run a holds the file 1, run b the file 2."""
    begin(ledger, "a", "b")
    ledger.claim(NIGHTLY, "a", arrivals("1"))
    ledger.claim(NIGHTLY, "b", arrivals("2"))
    return ledger


def refused(ledger: Ledger, run: str, *ids: str, store: str = STORE, digest: str = "d1") -> dict[str, str]:
    """Claim for a run and return the ids that it did not get, each with who has it."""
    file = {"a": "1", "b": "2"}[run]
    taken = ledger.claim_resources(store, NIGHTLY, run, claims(*ids, file=file, digest=digest))
    assert taken.schema == REFUSED
    return dict(taken.select("resource_id", "claimed_by").iter_rows())


def known(ledger: Ledger, ids: Iterable[str] = ("p1", "p2", "p3"), except_run: str | None = None) -> dict[str, str]:
    found = ledger.known_resources(STORE, keys(*ids), except_run)
    assert found.schema == KNOWN
    return {row["resource_id"]: f"{row['content_digest']} by {row['run_key']}" for row in found.iter_rows(named=True)}


class TestClaims:
    def test_one_run_gets_a_resource_and_the_other_is_told_who_has_it(self, two_runs: Ledger) -> None:
        assert refused(two_runs, "a", "p1", "p2") == {}
        assert refused(two_runs, "b", "p2", "p3") == {"p2": "a"}
        assert refused(two_runs, "a", "p1", "p2", "p3") == {"p3": "b"}

    def test_claiming_again_changes_nothing(self, two_runs: Ledger) -> None:
        assert refused(two_runs, "a", "p1") == refused(two_runs, "a", "p1") == {}
        assert refused(two_runs, "b", "p1") == refused(two_runs, "b", "p1") == {"p1": "a"}

    def test_a_rerun_with_other_verdicts_gives_back_what_it_no_longer_wants(self, two_runs: Ledger) -> None:
        refused(two_runs, "a", "p1", "p2")
        refused(two_runs, "a", "p2")
        assert refused(two_runs, "b", "p1", "p2") == {"p2": "a"}

    def test_a_claim_leaves_the_runs_claims_in_another_store_alone(self, two_runs: Ledger) -> None:
        refused(two_runs, "a", "p1")
        assert refused(two_runs, "b", "p1", store=ELSEWHERE) == {}
        assert refused(two_runs, "a", "p2", store=ELSEWHERE) == {}
        assert refused(two_runs, "b", "p1") == {"p1": "a"}

    def test_one_id_of_two_types_is_two_resources(self, two_runs: Ledger) -> None:
        refused(two_runs, "a", "p1")
        other = claims("p1", file="2").with_columns(resource_type=pl.lit("Observation"))
        assert two_runs.claim_resources(STORE, NIGHTLY, "b", other).is_empty()

    def test_claims_are_looked_at_without_claiming(self, two_runs: Ledger) -> None:
        refused(two_runs, "a", "p1")
        two_runs.record_imported_resources(STORE, "b", imports("p2", file="2"))
        looked = two_runs.claimed_resources(STORE, claims("p1", "p2", "p3"))
        assert dict(looked.select("resource_id", "claimed_by").iter_rows()) == {"p1": "a"}
        assert two_runs.claimed_resources(ELSEWHERE, claims("p1")).is_empty()
        assert refused(two_runs, "b", "p3") == {}

    def test_a_claim_is_no_import(self, two_runs: Ledger) -> None:
        refused(two_runs, "a", "p1")
        assert known(two_runs) == {}

    def test_what_an_earlier_run_has_imported_can_be_claimed_for_its_next_version(self, two_runs: Ledger) -> None:
        refused(two_runs, "a", "p1")
        two_runs.record_imported_resources(STORE, "a", imports("p1"))
        assert refused(two_runs, "b", "p1", digest="d2") == {}
        assert known(two_runs) == {"p1": "d1 by a"}
        assert refused(two_runs, "a", "p1") == {"p1": "b"}

    def test_what_a_run_has_imported_stays_claimed_where_it_says_so(self, two_runs: Ledger) -> None:
        refused(two_runs, "a", "p1")
        two_runs.record_imported_resources(STORE, "a", imports("p1"), keep_claims=True)
        assert known(two_runs) == {"p1": "d1 by a"}
        assert refused(two_runs, "b", "p1", digest="d2") == {"p1": "a"}
        assert two_runs.drop_resource_claims(STORE, "a", keys("p1")) == 1
        assert known(two_runs) == {"p1": "d1 by a"}
        assert refused(two_runs, "b", "p1", digest="d2") == {}

    def test_a_resource_that_airlock_has_built_is_of_no_file(self, two_runs: Ledger) -> None:
        built = claims("p1", file=None)
        assert two_runs.claim_resources(STORE, NIGHTLY, "a", built).is_empty()
        two_runs.record_imported_resources(STORE, "a", imports("p1", file=None))
        assert known(two_runs) == {"p1": "d1 by a"}

    def test_only_for_files_that_the_run_holds(self, two_runs: Ledger) -> None:
        with pytest.raises(LedgerError, match="run 'b' does not hold 1 of these arrivals"):
            two_runs.claim_resources(STORE, NIGHTLY, "b", claims("p1", "p2", file="1"))
        assert refused(two_runs, "a", "p1", "p2") == {}

    def test_given_back_it_is_free_for_the_other_run(self, two_runs: Ledger) -> None:
        refused(two_runs, "a", "p1", "p2")
        assert two_runs.drop_resource_claims(STORE, "b", keys("p1")) == 0, "it is not b's"
        assert two_runs.drop_resource_claims(ELSEWHERE, "a", keys("p1")) == 0
        assert two_runs.drop_resource_claims(STORE, "a", keys("p1", "p9")) == 1
        assert two_runs.drop_resource_claims(STORE, "a", keys("p1")) == 0
        assert refused(two_runs, "b", "p1", "p2") == {"p2": "a"}

    def test_given_back_what_is_in_the_store_stays_known(self, two_runs: Ledger) -> None:
        two_runs.record_imported_resources(STORE, "a", imports("p1"))
        refused(two_runs, "b", "p1", digest="d2")
        assert two_runs.drop_resource_claims(STORE, "b", keys("p1")) == 1
        assert known(two_runs) == {"p1": "d1 by a"}
        assert refused(two_runs, "a", "p1") == {}

    def test_its_release_locks_only_the_data_stores_of_which_it_claims_resources(self, two_runs: Ledger) -> None:
        refused(two_runs, "a", "p1")
        refused(two_runs, "b", "p1", store=ELSEWHERE)
        needed = arrivals_scope(NIGHTLY), instances.SCOPE, open_resources.scope(STORE)
        with two_runs.at_once(*needed) as at_once:
            assert release_run(at_once, NIGHTLY, "a", jobs_ended=False)[0].startswith("1 FHIR")
        assert refused(two_runs, "b", "p1") == {}
        with (
            two_runs.at_once(*needed) as at_once,
            pytest.raises(ValueError, match=f"not locked resources of {ELSEWHERE}"),
        ):
            at_once.release_resources(NIGHTLY, "b")

    def test_a_run_that_will_never_go_on_holds_no_resource_once_it_is_released(self, two_runs: Ledger) -> None:
        two_runs.record_imported_resources(STORE, "b", imports("p2", file="2"))
        refused(two_runs, "a", "p1", "p2")
        assert two_runs.release_claims(NIGHTLY, "a") == 1
        assert refused(two_runs, "b", "p1", "p2") == {}
        assert known(two_runs) == {"p2": "d1 by b"}


class TestImports:
    def test_an_import_is_recorded_once_and_again_alike_and_its_claim_ends(self, two_runs: Ledger) -> None:
        refused(two_runs, "a", "p1", "p2")
        for _ in range(2):
            two_runs.record_imported_resources(STORE, "a", imports("p1"))
            assert known(two_runs) == {"p1": "d1 by a"}
        assert refused(two_runs, "b", "p1", "p2") == {"p2": "a"}

    def test_a_rerun_does_not_find_its_own(self, two_runs: Ledger) -> None:
        two_runs.record_imported_resources(STORE, "a", imports("p1"))
        two_runs.record_imported_resources(STORE, "b", imports("p2", file="2"))
        assert known(two_runs, except_run="a") == {"p2": "d1 by b"}

    def test_another_store_knows_nothing_of_it(self, two_runs: Ledger) -> None:
        two_runs.record_imported_resources(ELSEWHERE, "a", imports("p1"))
        assert known(two_runs) == {}

    def test_a_later_run_brings_the_next_content(self, two_runs: Ledger) -> None:
        two_runs.record_imported_resources(STORE, "a", imports("p1"))
        refused(two_runs, "b", "p1", digest="d2")
        two_runs.record_imported_resources(STORE, "b", imports("p1", file="2", digest="d2"))
        assert known(two_runs) == {"p1": "d2 by b"}

    def test_an_older_run_audited_again_unsays_nothing(self, two_runs: Ledger) -> None:
        two_runs.record_imported_resources(STORE, "a", imports("p1"))
        refused(two_runs, "b", "p1", digest="d2")
        two_runs.record_imported_resources(STORE, "a", imports("p1"))
        assert refused(two_runs, "a", "p1") == {"p1": "b"}, "the other's claim on the next content stays"
        two_runs.record_imported_resources(STORE, "b", imports("p1", file="2", digest="d2"))
        two_runs.record_imported_resources(STORE, "a", imports("p1"))
        assert known(two_runs) == {"p1": "d2 by b"}

    def test_a_cleared_audit_that_finds_a_late_manifest_records_what_came_in(self, two_runs: Ledger) -> None:
        refused(two_runs, "a", "p1", "p2")
        two_runs.drop_resource_claims(STORE, "a", keys("p1", "p2"))
        refused(two_runs, "b", "p2", digest="d2")
        two_runs.record_imported_resources(STORE, "a", imports("p1", "p2"))
        assert known(two_runs) == {"p1": "d1 by a", "p2": "d1 by a"}
        assert refused(two_runs, "a", "p1", "p2") == {"p2": "b"}

    def test_a_resource_is_recorded_once_with_its_digest(self, two_runs: Ledger) -> None:
        with pytest.raises(LedgerError, match="1 imports name a resource that another import names: give one per"):
            two_runs.record_imported_resources(STORE, "a", imports("p1", "p1"))
        with pytest.raises(LedgerError, match="1 imports have no content_digest"):
            two_runs.record_imported_resources(
                STORE, "a", imports("p1").with_columns(content_digest=pl.lit(None, pl.String))
            )
        with pytest.raises(LedgerError, match="does not hold 1 of these arrivals"):
            two_runs.record_imported_resources(STORE, "a", imports("p1", file="2"))
        assert known(two_runs) == {}


class TestRedrives:
    """What a redrive takes through again is claimed by the run before no more."""

    @pytest.fixture
    def redriven(self, two_runs: Ledger) -> Ledger:
        refused(two_runs, "a", "p1")
        two_runs.settle(NIGHTLY, "a", dispositions("1", word="held"))
        return two_runs

    def redrive(self, ledger: Ledger) -> str:
        begin(ledger, "r")
        chosen = arrivals("1").with_columns(
            chosen_id="arrival_id", carries=pl.lit(None, pl.String), generation=pl.lit(2, pl.Int64)
        )
        ledger.redrive(NIGHTLY, "r", chosen, {"asked_by": "ada", "why": "mended", "choice": {}})
        return str(ledger.held_by(NIGHTLY, "r")["arrival_id"].item())

    def test_a_claim_that_waits_for_a_person_is_the_next_generations(self, redriven: Ledger) -> None:
        assert refused(redriven, "b", "p1") == {"p1": "a"}
        own = claims("p1").with_columns(arrival_id=pl.lit(self.redrive(redriven)))
        assert redriven.claim_resources(STORE, NIGHTLY, "r", own).is_empty()
        assert refused(redriven, "b", "p1") == {"p1": "r"}

    def test_a_run_says_how_many_of_its_held_arrivals_are_redriven(self, redriven: Ledger) -> None:
        assert redriven.count_redriven(NIGHTLY, "a") == 0
        self.redrive(redriven)
        assert redriven.count_redriven(NIGHTLY, "a") == 1

    def test_a_resource_knows_the_file_that_brought_it_and_what_became_of_that(self, redriven: Ledger) -> None:
        redriven.record_imported_resources(STORE, "a", imports("p1", digest="d7"))
        (row,) = redriven.brought_by(STORE, keys("p1", "p2")).to_dicts()
        (file,) = redriven.held_by(NIGHTLY, "a").to_dicts()
        assert (row["resource_id"], row["content_digest"], row["disposition"]) == ("p1", "d7", "held")
        assert (row["bucket"], row["key"], row["last_modified"]) == (
            file["bucket"],
            file["key"],
            file["last_modified"],
        )
        assert redriven.brought_by(ELSEWHERE, keys("p1")).is_empty()


class TestWhatOtherRunsMayBring:
    def undecided(self, ledger: Ledger, run: str, pipeline: str = NIGHTLY) -> bool:
        return ledger.has_undecided_run(STORE, pipeline, except_run=run)

    def test_a_run_that_has_claimed_no_resource_is_undecided(self, two_runs: Ledger) -> None:
        assert self.undecided(two_runs, "a")
        refused(two_runs, "b", "p1", store=ELSEWHERE)
        assert self.undecided(two_runs, "a")
        refused(two_runs, "b", "p1")
        assert not self.undecided(two_runs, "a")
        assert self.undecided(two_runs, "b")
        assert not self.undecided(two_runs, "b", "another pipeline")

    def test_a_run_with_a_job_or_without_unsettled_arrivals_has_decided(self, two_runs: Ledger) -> None:
        two_runs.record_job(Job("batch", 0, "b", "token"))
        assert not self.undecided(two_runs, "a")
        two_runs.settle(NIGHTLY, "a", dispositions("1"))
        assert not self.undecided(two_runs, "b")

    def test_claims_are_of_one_data_store_and_end_with_the_import(self, two_runs: Ledger) -> None:
        refused(two_runs, "a", "p1")
        assert [two_runs.has_claims(STORE, except_run=run) for run in "ab"] == [False, True]
        assert not two_runs.has_claims(ELSEWHERE, except_run="b")
        two_runs.record_imported_resources(STORE, "a", imports("p1"))
        assert not two_runs.has_claims(STORE, except_run="b")
