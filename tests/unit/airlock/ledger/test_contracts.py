from __future__ import annotations

import polars as pl
import pytest
from sqlalchemy import create_engine

from airlock.ledger import Ledger
from airlock.ledger.gates import GATES
from airlock.records import CONTRACTS, study_key
from tests.unit.airlock.ledger.samples import (
    NIGHTLY,
    STORE,
    arrivals,
    begin,
    claims,
    dispositions,
    imports,
    series,
    study,
    uids,
    verdicts,
)


def studies(files: list[tuple[str, str]]) -> list[str]:
    return sorted({uid for uid, _ in files})


def contracts(uid: str, revision: int, digest: str) -> pl.DataFrame:
    return pl.DataFrame([(uid, study_key(uid), revision, digest, "{}")], schema=CONTRACTS, orient="row")


@pytest.fixture
def opened(ledger: Ledger) -> Ledger:
    """Run a holds the arrival 1, of 1.study; run b asks."""
    begin(ledger, "a", "b")
    ledger.claim(NIGHTLY, "a", arrivals("1"))
    return ledger


def record(ledger: Ledger, store: str, run: str, rows: pl.DataFrame) -> None:
    ledger.revise_contracts(store, run, rows["subject"], lambda _known: rows)


def settle(ledger: Ledger, word: str, reason: str | None = None, *, missing: bool = True) -> list[str]:
    """Settle run a's arrival and return the studies that it keeps back from run b."""
    ledger.settle(NIGHTLY, "a", dispositions("1", word=word).with_columns(reason=pl.lit(reason, pl.String)))
    return studies(ledger.unresolved_files(STORE, NIGHTLY, uids("1.study", "2.study"), "b", missing=missing))


def test_a_long_contract_is_compressed_quickly_on_postgresql(postgres_ledger: str) -> None:
    with Ledger.open(postgres_ledger) as ledger:
        begin(ledger, "a")
        record(ledger, STORE, "a", contracts("1.study", 1, "d1").with_columns(contract=pl.lit("[1,2,3]" * 10_000)))
    engine = create_engine(postgres_ledger)
    with engine.connect() as connection:
        statement = "SELECT pg_column_compression(contract) FROM contracts"
        assert connection.exec_driver_sql(statement).scalars().all() == ["lz4"]
    engine.dispose()


def test_the_latest_contract_of_a_study_takes_the_place_of_the_one_before(opened: Ledger) -> None:
    record(opened, STORE, "a", pl.concat([contracts("1.study", 1, "d1"), contracts("2.study", 1, "d2")]))
    record(opened, STORE, "b", contracts("1.study", 2, "d3"))
    assert opened.contracts(STORE, uids("1.study", "3.study")).equals(contracts("1.study", 2, "d3"))
    assert opened.contracts(STORE, uids("2.study"))["revision"].to_list() == [1]


def test_a_revision_is_made_from_what_is_there(opened: Ledger) -> None:
    record(opened, STORE, "a", contracts("1.study", 1, "d1"))

    def next_one(known: pl.DataFrame) -> pl.DataFrame:
        return known.with_columns(pl.col("revision") + 1)

    revised = opened.revise_contracts(STORE, "b", uids("1.study", "3.study"), next_one)
    assert revised.equals(contracts("1.study", 2, "d1"))
    assert opened.contracts(STORE, uids("1.study")).equals(revised)


def test_another_store_keeps_its_own(opened: Ledger) -> None:
    record(opened, STORE, "a", contracts("1.study", 1, "d1"))
    record(opened, "f" * 32, "a", contracts("1.study", 5, "d5"))
    assert opened.contracts(STORE, uids("1.study"))["revision"].to_list() == [1]


@pytest.mark.parametrize(
    ("word", "reason", "keeps_back"),
    [
        ("quarantined", "invalid_uid", True),
        ("failed", "rejected", True),
        ("held", "non_primary", True),
        ("held", "study_incomplete", False),  # held for the study's sake only
        ("held", "study_held", False),
        ("held", "not_published", False),  # a later delivery publishes it
        ("released", None, False),
        ("duplicate", "duplicate_same_content", False),
        ("ignored", "sidecar", False),
    ],
)
def test_a_file_that_did_not_come_in_keeps_its_study_back(
    opened: Ledger, word: str, reason: str | None, keeps_back: bool
) -> None:
    assert settle(opened, word, reason) == (["1.study"] if keeps_back else [])


@pytest.mark.parametrize(
    ("word", "reason", "keeps_back"), [("failed", "rejected", False), ("held", "service_warning", True)]
)
def test_what_waits_for_a_person_keeps_its_study_back_though_missing_files_do_not_count(
    opened: Ledger, word: str, reason: str, keeps_back: bool
) -> None:
    assert settle(opened, word, reason, missing=False) == (["1.study"] if keeps_back else [])


def test_an_unread_file_keeps_the_study_back_that_a_later_audit_of_its_run_has_found(opened: Ledger) -> None:
    unread = dispositions("1", word="quarantined", study_uid=None).with_columns(
        reason=pl.lit("truncated"), sop_instance_uid=pl.lit(None, pl.String)
    )
    opened.record_verdicts(STORE, NIGHTLY, "a", verdicts(("1", ""), verdict="quarantine"))
    for study_uid in (None, "1.study"):
        opened.settle(NIGHTLY, "a", unread.with_columns(study_instance_uid=pl.lit(study_uid, pl.String)))
    assert studies(opened.unresolved_files(STORE, NIGHTLY, uids("1.study", "2.study"), "b")) == ["1.study"]


def test_a_run_is_not_kept_back_by_its_own_files(opened: Ledger) -> None:
    settle(opened, "failed", "rejected")
    assert studies(opened.unresolved_files(STORE, NIGHTLY, uids("1.study"), "a")) == []


def test_a_failed_file_that_came_with_a_later_delivery_keeps_nothing_back(opened: Ledger) -> None:
    opened.claim(NIGHTLY, "b", arrivals("2"))
    opened.claim_instances(STORE, NIGHTLY, "b", claims(("2", "1.1")))
    opened.record_imported(STORE, "b", imports(("2", "1.1")), study(), series())
    assert settle(opened, "failed", "rejected") == []


def test_a_file_on_its_way_in_another_run_keeps_its_study_back(opened: Ledger) -> None:
    opened.record_verdicts(STORE, NIGHTLY, "a", verdicts(("1", "1.study")))
    assert opened.studies_in_flight(STORE, uids("1.study"), "b") == [("1.study", "a")]
    assert opened.studies_in_flight(STORE, uids("1.study"), "a") == []
    assert opened.studies_in_flight("f" * 32, uids("1.study"), "b") == []


@pytest.mark.parametrize("verdict", ["accept", "quarantine", "duplicate"])
def test_a_study_is_kept_back_until_the_run_with_one_of_its_files_has_settled(opened: Ledger, verdict: str) -> None:
    opened.record_verdicts(STORE, NIGHTLY, "a", verdicts(("1", "1.study"), verdict=verdict))
    opened.record_imported(STORE, "a", imports(("1", "1.1")), study(), series())
    assert opened.studies_in_flight(STORE, uids("1.study"), "b") == [("1.study", "a")]
    opened.settle(NIGHTLY, "a", dispositions("1"))
    assert opened.studies_in_flight(STORE, uids("1.study"), "b") == []


def test_a_run_whose_books_do_not_balance_keeps_its_studies_back(opened: Ledger) -> None:
    held = pl.DataFrame([("1.study", study_key("1.study"), "hold", "run_unbalanced")], schema=GATES, orient="row")
    opened.record_gates(STORE, "a", held)
    assert studies(opened.unresolved_files(STORE, NIGHTLY, uids("1.study"), "b", missing=False)) == ["1.study"]
    assert studies(opened.unresolved_files(STORE, NIGHTLY, uids("1.study"), "a")) == []


def test_what_another_pipeline_holds_in_the_same_store_keeps_its_study_back(opened: Ledger) -> None:
    opened.claim_instances(STORE, NIGHTLY, "a", claims(("1", "1.1")))
    opened.record_imported(STORE, "a", imports(("1", "1.1")), study(), series())
    opened.settle(NIGHTLY, "a", dispositions("1", word="held").with_columns(reason=pl.lit("service_warning")))
    assert studies(opened.unresolved_files(STORE, "another", uids("1.study"), "b")) == ["1.study"]
    assert studies(opened.unresolved_files("f" * 32, "another", uids("1.study"), "b")) == []
