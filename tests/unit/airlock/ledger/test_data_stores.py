"""A ledger knows the data stores that it may import into; another one has to be rebuilt or adopted first."""

from __future__ import annotations

import polars as pl
import pytest

from airlock.ledger import FOREIGN, Adoption, Job, Ledger, LedgerError, StoreOrigin
from airlock.ledger.studies import SERIES, STUDIES
from tests.unit.airlock.ledger.samples import NIGHTLY, SEEN_AT, STORE, arrivals, begin, claims, imports
from tests.unit.airlock.ledger.test_gates import gates

BY_ADA = Adoption("ada", "the old PACS filled it", SEEN_AT)


def foreign(*names: str, study: str = "k1") -> pl.DataFrame:
    return pl.DataFrame([(name, study, 1, None) for name in names], schema=FOREIGN, orient="row")


def adopt(ledger: Ledger, *names: str) -> int:
    ledger.begin_adoption(STORE)
    ledger.record_foreign(STORE, foreign(*names), {"at": "the end"})
    return ledger.end_adoption(STORE, BY_ADA)


def test_the_first_job_makes_its_data_store_known(ledger: Ledger) -> None:
    begin(ledger, "a")
    assert ledger.find_store(STORE) is None
    ledger.record_job(Job("b1", 0, "a", "t1"), STORE)
    ledger.record_job(Job("b2", 0, "a", "t2"), STORE)
    known = ledger.find_store(STORE)
    assert known is not None
    assert (known.origin, known.is_open) == (StoreOrigin.IMPORTED, True)


def test_a_job_that_is_refused_makes_nothing_known(ledger: Ledger) -> None:
    with pytest.raises(LedgerError):
        ledger.record_job(Job("b1", 0, "no such run", "t1"), STORE)
    assert ledger.find_store(STORE) is None


def test_a_conversion_makes_no_data_store_known(ledger: Ledger) -> None:
    begin(ledger, "a")
    ledger.record_job(Job("b1", 0, "a", "t1"))
    assert ledger.find_store(STORE) is None


def test_a_rebuild_makes_a_data_store_known_once(ledger: Ledger) -> None:
    ledger.note_store(STORE, StoreOrigin.REBUILT, {"runs": 3})
    ledger.note_store(STORE, StoreOrigin.IMPORTED)
    known = ledger.find_store(STORE)
    assert known is not None
    assert (known.origin, known.counts) == (StoreOrigin.REBUILT, {"runs": 3})


def test_a_data_store_is_closed_to_runs_until_its_adoption_has_ended(ledger: Ledger) -> None:
    assert not ledger.begin_adoption(STORE).is_open
    assert ledger.record_foreign(STORE, foreign("i1", "i2"), {"at": 2}) == 2
    begun = ledger.begin_adoption(STORE)
    assert (begun.is_open, begun.counts) == (False, {"found": 2, "position": {"at": 2}})
    decision = ledger.end_adoption(STORE, BY_ADA)
    known = ledger.find_store(STORE)
    assert known is not None
    assert (known.origin, known.is_open, known.decision_id) == (StoreOrigin.ADOPTED, True, decision)
    assert (known.counts, known.known_at) == ({"found": 2}, SEEN_AT)


def test_a_page_that_comes_again_is_recorded_once(ledger: Ledger) -> None:
    ledger.begin_adoption(STORE)
    ledger.record_foreign(STORE, foreign("i1", "i2"), {"at": 2})
    assert ledger.record_foreign(STORE, foreign("i2", "i3"), {"at": 3}) == 3
    assert ledger.count_foreign(STORE) == 3


def test_a_data_store_is_adopted_once_and_only_if_nobody_knows_it(ledger: Ledger) -> None:
    adopt(ledger, "i1")
    with pytest.raises(LedgerError, match=f"the data store {STORE} is adopted since .*: runs may import into it"):
        ledger.begin_adoption(STORE)
    for late in (lambda: ledger.record_foreign(STORE, foreign("i2"), {}), lambda: ledger.end_adoption(STORE, BY_ADA)):
        with pytest.raises(LedgerError, match="is not being adopted: begin its adoption"):
            late()
    assert ledger.count_foreign(STORE) == 1


def test_what_is_foreign_is_found_by_its_id_and_by_its_study(ledger: Ledger) -> None:
    adopt(ledger, "i1", "i2")
    assert ledger.find_foreign(STORE, pl.Series(["i2", "i9"]))["object_id"].to_list() == ["i2"]
    assert ledger.foreign_studies(STORE, pl.Series(["k1"])).height == 2
    assert ledger.foreign_studies(STORE, pl.Series(["k2"])).is_empty()
    assert ledger.foreign_studies("another store", pl.Series(["k1"])).is_empty()


def test_a_data_store_with_settled_imports_of_the_version_before_is_known(ledger: Ledger) -> None:
    assert not ledger.note_settled_store(STORE)
    begin(ledger, "a")
    ledger.record_gates(STORE, "a", gates(s1=("release", None)))
    assert ledger.note_settled_store(STORE)
    known = ledger.find_store(STORE)
    assert known is not None
    assert known.origin is StoreOrigin.IMPORTED


def test_what_runs_of_the_ledger_have_stored_is_not_foreign(ledger: Ledger) -> None:
    """A rebuild that lacks some runs leaves their data store to an adoption, which finds everything there."""
    begin(ledger, "a")
    ledger.claim(NIGHTLY, "a", arrivals("1"))
    ledger.claim_instances(STORE, NIGHTLY, "a", claims(("1", "1.1")))
    ledger.record_imported(STORE, "a", imports(("1", "1.1")), STUDIES.to_frame(), SERIES.to_frame())
    adopt(ledger, "i1", "image-set")
    assert ledger.find_foreign(STORE, pl.Series(["i1", "image-set"]))["object_id"].to_list() == ["i1"]
    known = ledger.find_store(STORE)
    assert known is not None
    assert known.counts == {"found": 1}
