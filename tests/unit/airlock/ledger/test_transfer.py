"""A ledger is copied to another database as a whole, or not at all."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import select

from airlock.ledger import Adoption, BrakeAnswer, Job, Ledger, LedgerError, upgrade
from airlock.ledger.columns import metadata
from airlock.ledger.database import engine_for, parse_url
from airlock.ledger.transfer import transfer
from tests.unit.airlock.ledger.samples import NIGHTLY, SEEN_AT, STORE, arrivals, begin
from tests.unit.airlock.ledger.test_data_stores import foreign

if TYPE_CHECKING:
    from pathlib import Path


def answer(ledger: Ledger) -> None:
    given = BrakeAnswer(
        "import", go_on=True, measure="unread", share=0.5, decided_by="ada", why="w", decided_at=SEEN_AT, details={}
    )
    ledger.answer_brake(NIGHTLY, "a", given)


def fill(url: str) -> None:
    upgrade(url)
    with Ledger.open(url) as ledger:
        begin(ledger, "a")
        ledger.claim(NIGHTLY, "a", arrivals("1", "2"))
        ledger.record_job(Job("b1", 0, "a", "t1", submitted_at=SEEN_AT), STORE)
        ledger.begin_adoption("e" * 32)
        ledger.record_foreign("e" * 32, foreign("i1", "i2"), {})
        ledger.end_adoption("e" * 32, Adoption("ada", "w", SEEN_AT))
        answer(ledger)


def rows(url: str) -> dict[str, list[Any]]:
    engine = engine_for(parse_url(url))
    with engine.connect() as connection:
        found = {table.name: sorted(map(tuple, connection.execute(select(table)))) for table in metadata.sorted_tables}
    engine.dispose()
    return found


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/other.db"


@pytest.mark.parametrize("backwards", [False, True])
def test_every_row_is_there_and_numbers_count_on(sqlite_url: str, postgres_url: str, backwards: bool) -> None:
    source, target = (postgres_url, sqlite_url) if backwards else (sqlite_url, postgres_url)
    fill(source)
    told: list[str] = []
    copied = transfer(source, target, told.append)
    assert rows(target) == rows(source)
    assert copied == sum(map(len, rows(target).values()))
    assert "arrivals: 2 rows" in told
    with Ledger.open(target) as ledger:
        answer(ledger)
    assert len(rows(target)["decisions"]) == 3


def test_a_database_with_rows_is_refused(sqlite_url: str, tmp_path: Path) -> None:
    filled = f"sqlite:///{tmp_path}/filled.db"
    for url in (sqlite_url, filled):
        fill(url)
    before = rows(filled)
    with pytest.raises(LedgerError, match="has rows already: name an empty database"):
        transfer(sqlite_url, filled)
    assert rows(filled) == before


def test_a_copy_onto_itself_is_refused_at_once(sqlite_url: str, postgres_url: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    detour = f"sqlite:///{tmp_path}/folder/../other.db"
    for source, target in ((sqlite_url, detour), (postgres_url, postgres_url.replace("+psycopg2", ""))):
        fill(source)
        before = rows(source)
        with pytest.raises(LedgerError, match="are the same ledger"):
            transfer(source, target)
        assert rows(source) == before


def test_another_address_of_the_source_is_refused_at_once(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The copy waited for ever for the lock that it held itself."""
    fill(postgres_url)
    monkeypatch.setattr("airlock.ledger.transfer._find_place", lambda _: object())
    with pytest.raises(LedgerError, match="has rows already"):
        transfer(postgres_url, postgres_url)


def test_an_interrupted_copy_leaves_nothing(sqlite_url: str, tmp_path: Path) -> None:
    target = f"sqlite:///{tmp_path}/target.db"
    fill(sqlite_url)

    def interrupt(sentence: str) -> None:
        if sentence.startswith("arrivals:"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        transfer(sqlite_url, target, interrupt)
    assert not any(rows(target).values())
    assert transfer(sqlite_url, target) == sum(map(len, rows(sqlite_url).values()))


def test_an_older_ledger_is_upgraded_first(sqlite_url: str, tmp_path: Path) -> None:
    from tests.unit.airlock.ledger.test_schema import upgrade_to

    upgrade_to(sqlite_url, "0011")
    with pytest.raises(LedgerError, match="has schema 0011, this Airlock needs"):
        transfer(sqlite_url, f"sqlite:///{tmp_path}/target.db")
