"""Rows into the database and out of it: what goes in comes out, whatever the text."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest
from sqlalchemy import Text, cast, literal, select

from airlock.ledger import frames
from airlock.ledger.database import engine_for, parse_url, reading
from airlock.ledger.errors import LedgerError
from airlock.ledger.tables import runs
from airlock.records import TIMESTAMP

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Connection, Engine, Select

TEXTS = [
    "plain",
    "",
    None,
    "\\",
    r"\N",
    r"\.",
    r"a\tb",
    "a\tb",
    "a\nb\r\nc",
    '"quoted", or not',
    "\b\f\v\x7f",
    "Jürgen^山田",
]
SCHEMA = pl.Schema({"text": pl.String, "number": pl.Int64, "time": TIMESTAMP})


@pytest.fixture
def engine(url: str) -> Iterator[Engine]:
    opened = engine_for(parse_url(url))
    yield opened
    opened.dispose()


def rows(texts: list[Any]) -> pl.DataFrame:
    numbers = range(len(texts))
    time = datetime(2026, 11, 26, 5, 30, tzinfo=UTC)
    columns = {"text": texts, "number": numbers, "time": [time + timedelta(microseconds=number) for number in numbers]}
    return pl.DataFrame(columns, schema=SCHEMA)


def back(engine: Engine, given: pl.DataFrame | list[pl.DataFrame]) -> pl.DataFrame:
    with reading(engine) as connection:
        staged = frames.stage(connection, given, SCHEMA, ["text"])
        return frames.fetch(connection, select(staged).order_by(staged.c.number), SCHEMA)


def test_what_is_staged_comes_back_as_it_was(engine: Engine) -> None:
    given = rows(TEXTS)
    assert back(engine, given).equals(given)


def test_a_text_alone_in_its_row_may_be_empty_or_null(engine: Engine) -> None:
    given = rows(TEXTS).select("text")
    with reading(engine) as connection:
        staged = frames.stage(connection, given, given.schema, ["text"])
        found = frames.fetch(connection, select(staged), given.schema)
    assert found.equals(given)


def test_frames_are_staged_one_after_the_other(engine: Engine) -> None:
    given = rows(TEXTS)
    assert back(engine, [given.head(3), given.head(0), given.tail(-3)]).equals(given)


def test_nothing_staged_gives_no_rows(engine: Engine) -> None:
    assert back(engine, []).equals(SCHEMA.to_frame())


def test_many_rows_come_back_in_frames_that_are_all_there_is_in_memory(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frames, "COPY_BYTES", 100)
    monkeypatch.setattr(frames, "CHUNK", 5)
    given = rows(TEXTS * 5)
    with reading(engine) as connection:
        staged = frames.stage(connection, given, SCHEMA, ["text"])
        found = list(frames.fetch_frames(connection, select(staged).order_by(staged.c.number), SCHEMA))
    assert len(found) > 5
    assert pl.concat(found).equals(given)


def test_values_of_a_query_are_quoted(engine: Engine) -> None:
    odd = "it's \\ 100% %(x)s"
    with reading(engine) as connection:
        found = frames.fetch(connection, select(cast(literal(odd), Text)), pl.Schema({"text": pl.String}))
    assert found["text"].to_list() == [odd]


def test_an_error_of_a_copy_names_no_content(postgres_ledger: str) -> None:
    engine = engine_for(parse_url(postgres_ledger))
    no_time = select(cast(literal("SECRET"), runs.c.started_at.type))
    with pytest.raises(LedgerError, match="SQLSTATE 22007") as refused, reading(engine) as connection:
        frames.fetch(connection, no_time, pl.Schema({"time": TIMESTAMP}))
    engine.dispose()
    assert "SECRET" not in str(refused.value)


def plan(connection: Connection, statement: Select[Any]) -> str:
    compiled = statement.compile(connection.engine, compile_kwargs={"literal_binds": True})
    return "\n".join(connection.exec_driver_sql(f"EXPLAIN {compiled}").scalars())


def test_large_tables_are_not_hashed_where_that_is_asked_and_only_there(postgres_ledger: str) -> None:
    engine = engine_for(parse_url(postgres_ledger))
    many = rows([f"{number:05}" for number in range(20_000)])
    with reading(engine) as connection:
        one, other = (frames.stage(connection, many, SCHEMA, ["text"]) for _ in range(2))
        both = select(one.c.number, other.c.number).join(other, one.c.text == other.c.text)
        with frames.forbid_plans(connection, "hashjoin"):
            within = plan(connection, both)
        after = plan(connection, both)
    engine.dispose()
    assert ("Hash Join" in within, "Hash Join" in after) == (False, True)
