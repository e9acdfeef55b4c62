"""The ledger as pages read it: it cannot be changed, and nobody waits long for it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import polars as pl
import pytest
from sqlalchemy import insert, select, text

from airlock.ledger import LedgerSchemaError
from airlock.ledger.censuses import Counted
from airlock.ledger.columns import MessageState
from airlock.ledger.console import Console
from airlock.ledger.database import limited
from airlock.ledger.decision_tables import decisions
from airlock.ledger.errors import LedgerError, LedgerSlowError
from airlock.ledger.outbox import MESSAGES
from airlock.ledger.tables import runs
from tests.unit.airlock.ledger.samples import NIGHTLY, begin

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airlock.ledger import Ledger

AT = datetime(2026, 11, 24, 2, tzinfo=UTC)
SLOW = {
    "postgresql": "SELECT pg_sleep(30)",
    "sqlite": "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 1000000000) SELECT max(i) FROM n",
}


@pytest.fixture
def console(url: str) -> Iterator[Console]:
    opened = Console.connect(url)
    yield opened
    opened.dispose()


class TestPage:
    def test_it_cannot_write(self, ledger: Ledger, console: Console) -> None:
        row = {"run_key": "x", "pipeline": NIGHTLY, "run_id": "x", "started_at": AT, "state": "running"}
        with pytest.raises(LedgerError), console.page() as page, page._reading() as connection:
            connection.execute(insert(runs).values(row))
        assert ledger.run("x") is None

    def test_others_write_as_before_when_it_has_ended(self, ledger: Ledger, console: Console) -> None:
        with console.page() as page:
            page.held_now({NIGHTLY})
        begin(ledger, "a")
        console.log_reveal(NIGHTLY, None, person="Kim", why="because")
        assert ledger.run("a") is not None

    def test_a_statement_that_takes_long_ends(self, ledger: Ledger, console: Console) -> None:
        with pytest.raises(LedgerSlowError), limited(console._engine, 0.2) as connection:
            connection.execute(text(SLOW[connection.dialect.name]))
        with console.page() as page:  # and the connection is as good as before
            assert page.held_now({NIGHTLY}) == []

    def test_where_works_in_it(self, ledger: Ledger, console: Console) -> None:
        with console.page(stages_values=True) as page:
            assert page.where("1.2.3").known_as == ()
            assert page.find_owed("1.2.3").is_empty()

    def test_a_ledger_of_another_schema_is_refused_until_it_is_upgraded(self, ledger: Ledger, console: Console) -> None:
        def version(number: str) -> None:
            with ledger._writing("schema") as connection:
                connection.execute(text("UPDATE airlock_ledger_version SET version_num = :n"), {"n": number})

        before = ledger.schema
        version("9999")
        with pytest.raises(LedgerSchemaError), console.page():
            pass
        version(before)
        with console.page() as page:
            assert page.latest_runs({NIGHTLY}) == []


class TestCensus:
    def test_the_latest_one_counts_and_is_recorded_once(self, ledger: Ledger, console: Console) -> None:
        counted = [Counted("north", "2026-10", 5, 50), Counted("north", "", 1, 10)]
        assert ledger.record_census(NIGHTLY, "s3://a/b/", "listing", AT.replace(day=1), counted[:1]) == 1
        assert ledger.record_census(NIGHTLY, "s3://a/b/", "listing", AT, counted) == 2
        assert ledger.record_census(NIGHTLY, "s3://a/b/", "listing", AT, counted) == 0
        with console.page() as page:
            found = page.latest_census({NIGHTLY})
            assert page.latest_census({"other"}) == []
        assert [(one.site, one.month, one.objects, one.counted_at) for one in found] == [
            ("north", "", 1, AT),
            ("north", "2026-10", 5, AT),
        ]


class TestQueues:
    def test_open_messages_are_counted_by_destination_and_error(self, ledger: Ledger, console: Console) -> None:
        begin(ledger, "a")
        rows = [(f"key {number}", 1, "digest", f"s3://w/{number}.json") for number in range(3)]
        ledger.enqueue(NIGHTLY, "a", "s3://out/", pl.DataFrame(rows, schema=MESSAGES, orient="row"))
        first = ledger.lease_due(NIGHTLY, "s3://out/", 1, "me")[0]
        ledger.mark_given_up(first.id, "http_503", "me")
        with console.page() as page:
            found = page.open_by_destination({NIGHTLY})
            assert page.open_by_destination({"other"}) == []
            assert page.unrouted({NIGHTLY}) == []
        assert [(one.state, one.error, one.messages) for one in found] == [
            (MessageState.FAILED, "http_503", 1),
            (MessageState.PENDING, None, 2),
        ]


class TestReveals:
    def test_each_look_is_a_row_of_the_decision_log(self, ledger: Ledger, console: Console) -> None:
        for name in (NIGHTLY, "other"):
            console.log_reveal(name, "key", person="Kim", why="the sender asks")
        with ledger._reading() as connection:
            rows = connection.execute(select(decisions.c.kind, decisions.c.pipeline, decisions.c.decided_by)).all()
        assert [tuple(row) for row in rows] == [("reveal", NIGHTLY, "Kim"), ("reveal", "other", "Kim")]
        with console.page() as page:
            ((at, who, why),) = page.reveals_of({NIGHTLY}, "key")
            assert page.reveals_of({NIGHTLY}, "another key") == []
        assert (who, why, at.tzinfo) == ("Kim", "the sender asks", UTC)

    @pytest.mark.parametrize(("person", "why"), [("", "x"), ("Kim", " ")])
    def test_without_a_person_or_a_reason_nothing_is_recorded(
        self, ledger: Ledger, console: Console, person: str, why: str
    ) -> None:
        with pytest.raises(LedgerError, match="person and a reason"):
            console.log_reveal(NIGHTLY, None, person=person, why=why)
