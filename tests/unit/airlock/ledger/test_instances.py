from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from sqlalchemy import func, select

from airlock.ledger import Ledger, LedgerError
from airlock.ledger.arrivals import scope
from airlock.ledger.database import reading
from airlock.ledger.instances import OWNERS, SCOPE
from airlock.ledger.tables import verdicts as verdicts_table
from tests.ledger_rows import count_instances
from tests.unit.airlock.ledger.samples import (
    NIGHTLY,
    NO_SERIES,
    NO_STUDIES,
    STORE,
    arrivals,
    begin,
    claims,
    id_of,
    imports,
    series,
    study,
    uids,
    verdicts,
)

if TYPE_CHECKING:
    import polars as pl


@pytest.fixture
def two_runs(ledger: Ledger) -> Ledger:
    """Run a holds the arrivals 1 and 2, run b holds 3."""
    begin(ledger, "a", "b")
    ledger.claim(NIGHTLY, "a", arrivals("1", "2"))
    ledger.claim(NIGHTLY, "b", arrivals("3"))
    return ledger


def owners(ledger: Ledger, *wanted: str, except_run: str | None = None) -> dict[str, tuple[str, str]]:
    known = ledger.known_instances(STORE, uids(*wanted), except_run)
    return {row["SOPInstanceUID"]: (row["arrival_id"], row["state"]) for row in known.iter_rows(named=True)}


def test_a_free_instance_is_claimed_and_nothing_is_reported(two_runs: Ledger) -> None:
    taken = two_runs.claim_instances(STORE, NIGHTLY, "a", claims(("1", "1.1"), ("2", "1.2")))
    assert taken.is_empty()
    assert taken.schema == OWNERS
    assert owners(two_runs, "1.1", "1.2", "1.3") == {"1.1": (id_of("1"), "claimed"), "1.2": (id_of("2"), "claimed")}


def test_claiming_again_changes_nothing(two_runs: Ledger) -> None:
    for _ in range(2):
        assert two_runs.claim_instances(STORE, NIGHTLY, "a", claims(("1", "1.1"))).is_empty()


def test_an_instance_of_another_run_is_reported_with_its_owner(two_runs: Ledger) -> None:
    two_runs.claim_instances(STORE, NIGHTLY, "a", claims(("1", "1.1")))
    taken = two_runs.claim_instances(STORE, NIGHTLY, "b", claims(("3", "1.1")))
    expected = ("1.1", id_of("1"), "archive", "in/1", "etag-1", 100, "a", "claimed")
    wanted = ("SOPInstanceUID", "arrival_id", "bucket", "key", "etag", "size", "run_key", "state")
    assert taken.select(wanted).rows() == [expected]


def test_of_two_arrivals_of_one_run_the_first_owns_the_instance_every_time(two_runs: Ledger) -> None:
    for _ in range(2):
        taken = two_runs.claim_instances(STORE, NIGHTLY, "a", claims(("2", "1.1"), ("1", "1.1")))
        assert taken["arrival_id"].to_list() == [id_of("2")]


def test_claims_frame_by_frame_are_those_of_one_frame(two_runs: Ledger) -> None:
    for _ in range(2):
        frames = (claims(("2", "1.1")), claims(), claims(("1", "1.1"), ("1", "1.2")))
        taken = two_runs.claim_instances(STORE, NIGHTLY, "a", iter(frames))
        assert taken["SOPInstanceUID"].to_list() == ["1.1"]
        assert owners(two_runs, "1.1", "1.2") == {"1.1": (id_of("2"), "claimed"), "1.2": (id_of("1"), "claimed")}


def test_of_claims_frame_by_frame_all_stay_or_none(two_runs: Ledger) -> None:
    with pytest.raises(LedgerError, match="does not hold 1 of these arrivals"):
        two_runs.claim_instances(STORE, NIGHTLY, "a", [claims(("1", "1.1")), claims(("3", "1.3"))])
    assert owners(two_runs, "1.1", "1.3") == {}


def test_stores_are_apart(two_runs: Ledger) -> None:
    two_runs.claim_instances(STORE, NIGHTLY, "a", claims(("1", "1.1")))
    assert two_runs.claim_instances("f" * 32, NIGHTLY, "b", claims(("3", "1.1"))).is_empty()


def test_two_pipelines_with_the_same_object_do_not_both_own_its_instance(two_runs: Ledger) -> None:
    begin(two_runs, "w", pipeline="weekly")
    two_runs.claim("weekly", "w", arrivals("1"))
    two_runs.claim_instances(STORE, NIGHTLY, "a", claims(("1", "1.1")))
    taken = two_runs.claim_instances(STORE, "weekly", "w", claims(("1", "1.1")))
    assert taken["run_key"].to_list() == ["a"]


def test_a_rerun_with_other_verdicts_gives_up_what_it_no_longer_wants(two_runs: Ledger) -> None:
    two_runs.claim_instances(STORE, NIGHTLY, "a", claims(("1", "1.1"), ("2", "1.2")))
    two_runs.claim_instances(STORE, NIGHTLY, "b", claims(("3", "1.3")))
    two_runs.claim_instances(STORE, NIGHTLY, "a", claims(("2", "1.2")))
    assert set(owners(two_runs, "1.1", "1.2", "1.3")) == {"1.2", "1.3"}


def test_the_second_copy_moves_up_when_the_first_is_no_longer_accepted(two_runs: Ledger) -> None:
    two_runs.claim_instances(STORE, NIGHTLY, "a", claims(("1", "1.1"), ("2", "1.1")))
    assert two_runs.claim_instances(STORE, NIGHTLY, "a", claims(("2", "1.1"))).is_empty()
    assert owners(two_runs, "1.1") == {"1.1": (id_of("2"), "claimed")}


def test_what_is_imported_stays_owned_whatever_a_rerun_says(two_runs: Ledger) -> None:
    two_runs.claim_instances(STORE, NIGHTLY, "a", claims(("1", "1.1")))
    two_runs.record_imported(STORE, "a", imports(("1", "1.1")), study(), series())
    two_runs.claim_instances(STORE, NIGHTLY, "a", claims(("2", "1.2")))
    assert owners(two_runs, "1.1") == {"1.1": (id_of("1"), "imported")}


def test_instances_can_be_claimed_only_for_arrivals_that_the_run_holds(two_runs: Ledger) -> None:
    with pytest.raises(LedgerError, match="run 'b' does not hold 1 of these arrivals"):
        two_runs.claim_instances(STORE, NIGHTLY, "b", claims(("1", "1.1"), ("3", "1.3")))
    assert owners(two_runs, "1.1", "1.3") == {}


def test_a_rerun_does_not_find_its_own_instances(two_runs: Ledger) -> None:
    two_runs.claim_instances(STORE, NIGHTLY, "a", claims(("1", "1.1")))
    two_runs.claim_instances(STORE, NIGHTLY, "b", claims(("3", "1.3")))
    assert set(owners(two_runs, "1.1", "1.3", except_run="a")) == {"1.3"}


def test_an_import_is_recorded_once_and_again_alike(two_runs: Ledger) -> None:
    two_runs.claim_instances(STORE, NIGHTLY, "a", claims(("1", "1.1"), ("2", "1.2")))
    for _ in range(2):
        assert two_runs.record_imported(STORE, "a", imports(("1", "1.1")), study(), series()).is_empty()
        two_runs.record_imported(STORE, "a", imports(("2", "1.2"), state="non_primary"), NO_STUDIES, NO_SERIES)
    assert count_instances(two_runs, STORE) == {"imported": 1, "non_primary": 1}


def test_an_instance_given_up_may_come_with_a_later_delivery(two_runs: Ledger) -> None:
    two_runs.claim_instances(STORE, NIGHTLY, "a", claims(("1", "1.1"), ("2", "1.2")))
    assert two_runs.drop_instances(STORE, "a", uids("1.1", "1.unknown")) == 1
    assert two_runs.drop_instances(STORE, "a", uids("1.1")) == 0
    assert two_runs.claim_instances(STORE, NIGHTLY, "b", claims(("3", "1.1"))).is_empty()
    assert two_runs.drop_instances(STORE, "a", uids("1.1")) == 0, "it is the other run's now"


def test_a_cleared_audit_that_finds_a_late_manifest_takes_the_ownership_again(two_runs: Ledger) -> None:
    two_runs.claim_instances(STORE, NIGHTLY, "a", claims(("1", "1.1")))
    two_runs.drop_instances(STORE, "a", uids("1.1"))
    assert two_runs.record_imported(STORE, "a", imports(("1", "1.1")), study(), series()).is_empty()
    assert owners(two_runs, "1.1") == {"1.1": (id_of("1"), "imported")}


def test_what_was_given_up_is_taken_again_beside_what_stayed(two_runs: Ledger) -> None:
    two_runs.claim_instances(STORE, NIGHTLY, "a", claims(("1", "1.1"), ("2", "1.2")))
    two_runs.drop_instances(STORE, "a", uids("1.2"))
    found = imports(("1", "1.1"), ("2", "1.2"))
    assert two_runs.record_imported(STORE, "a", found, study(), series()).is_empty()
    assert owners(two_runs, "1.1", "1.2") == {"1.1": (id_of("1"), "imported"), "1.2": (id_of("2"), "imported")}


def test_a_late_manifest_reports_what_another_arrival_owns_by_then(two_runs: Ledger) -> None:
    two_runs.claim_instances(STORE, NIGHTLY, "a", claims(("1", "1.1")))
    two_runs.drop_instances(STORE, "a", uids("1.1"))
    two_runs.claim_instances(STORE, NIGHTLY, "b", claims(("3", "1.1")))
    others = two_runs.record_imported(STORE, "a", imports(("1", "1.1")), NO_STUDIES, NO_SERIES)
    assert others["run_key"].to_list() == ["b"]
    assert owners(two_runs, "1.1") == {"1.1": (id_of("3"), "claimed")}


def test_outcomes_that_contradict_themselves_are_refused(two_runs: Ledger) -> None:
    with pytest.raises(LedgerError, match="1 outcomes have no state of an import: use one of imported, non_primary"):
        two_runs.record_imported(STORE, "a", imports(("1", "1.1"), state="claimed"), NO_STUDIES, NO_SERIES)
    with pytest.raises(LedgerError, match="1 outcomes name an instance that another outcome names"):
        two_runs.record_imported(STORE, "a", imports(("1", "1.1"), ("2", "1.1")), NO_STUDIES, NO_SERIES)
    with pytest.raises(LedgerError, match="does not hold 1 of these arrivals"):
        two_runs.record_imported(STORE, "a", imports(("3", "1.3")), NO_STUDIES, NO_SERIES)


@pytest.mark.parametrize("again", ["1", "2"])
def test_outcomes_that_contradict_themselves_leave_a_claim_as_it_is(two_runs: Ledger, again: str) -> None:
    two_runs.claim_instances(STORE, NIGHTLY, "a", claims(("1", "1.1")))
    with pytest.raises(LedgerError, match="1 outcomes name an instance that another outcome names"):
        two_runs.record_imported(STORE, "a", imports(("1", "1.1"), (again, "1.1")), NO_STUDIES, NO_SERIES)
    assert owners(two_runs, "1.1") == {"1.1": (id_of("1"), "claimed")}


def count_verdicts(ledger: Ledger) -> dict[str, int]:
    with reading(ledger._engine) as connection:
        return dict(connection.execute(select(verdicts_table.c.verdict, func.count()).group_by("verdict")).all())


def claim_and_record(ledger: Ledger, run: str, given: pl.DataFrame) -> pl.DataFrame:
    """Claim and record from one staging; return the instances that other arrivals own."""
    with ledger.at_once(scope(NIGHTLY), SCOPE) as opened:
        staged = opened.stage_verdicts([given])
        taken = opened.claim_instances(STORE, NIGHTLY, run, staged)
        opened.record_verdicts(STORE, NIGHTLY, run, staged, taken=taken["SOPInstanceUID"])
    return taken


def test_claims_and_verdicts_come_from_one_staging(two_runs: Ledger) -> None:
    two_runs.claim_instances(STORE, NIGHTLY, "b", claims(("3", "1.2")))
    taken = claim_and_record(two_runs, "a", verdicts(("1", "1.study"), ("2", "1.study")))
    assert taken.select("SOPInstanceUID", "arrival_id").rows() == [("1.2", id_of("3"))]
    assert owners(two_runs, "1.1", "1.2") == {"1.1": (id_of("1"), "claimed"), "1.2": (id_of("3"), "claimed")}
    assert count_verdicts(two_runs) == {"accept": 1, "quarantine": 1}


def test_staged_verdicts_on_arrivals_of_another_run_claim_nothing(two_runs: Ledger) -> None:
    with pytest.raises(LedgerError, match="does not hold 1 "):
        claim_and_record(two_runs, "a", verdicts(("1", "1.study"), ("3", "1.study")))
    assert count_instances(two_runs, STORE) == {}
