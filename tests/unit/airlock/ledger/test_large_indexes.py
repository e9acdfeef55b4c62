"""An index of a large table is built while others write, and again after an interruption."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import Column, Engine, Index, Integer, MetaData, Table, inspect, text

from airlock.ledger.columns import CONCURRENTLY
from airlock.ledger.database import engine_for, parse_url
from airlock.ledger.large_indexes import build_missing
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator

INDEX = "ix_large_n"


@pytest.fixture
def tables() -> MetaData:
    metadata = MetaData()
    Table("large", metadata, Column("n", Integer), Index(INDEX, "n", info=CONCURRENTLY), Index("ix_other", "n"))
    return metadata


@pytest.fixture
def engine(empty_url: str) -> Iterator[Engine]:
    engine = engine_for(parse_url(empty_url))
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE large (n INTEGER)"))
    yield engine
    engine.dispose()


def names(engine: Engine) -> list[str | None]:
    return [index["name"] for index in inspect(engine).get_indexes("large")]


def test_what_is_missing_is_built_once(engine: Engine, tables: MetaData) -> None:
    told: list[str] = []
    for _ in range(2):
        build_missing(engine, told.append, tables)
    assert names(engine) == [INDEX]  # a step creates the other one
    assert told in ([], [f"building the index {INDEX} while runs go on"])  # SQLite's writers wait


def test_what_an_interrupted_upgrade_left_is_built_again(postgres_url: str, tables: MetaData) -> None:
    engine = engine_for(parse_url(postgres_url))
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE large (n INTEGER)"))
        connection.execute(text(f"CREATE INDEX {INDEX} ON large (n)"))
        connection.execute(text(f"UPDATE pg_index SET indisvalid = false WHERE indexrelid = '{INDEX}'::regclass"))
    build_missing(engine, lambda _: None, tables)
    with engine.connect() as connection:
        valid = connection.scalar(text(f"SELECT indisvalid FROM pg_index WHERE indexrelid = '{INDEX}'::regclass"))
    engine.dispose()
    assert valid is True


def test_others_write_while_an_index_waits_for_a_long_transaction(postgres_url: str, tables: MetaData) -> None:
    engine = engine_for(parse_url(postgres_url))
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE large (n INTEGER)"))
    with ThreadPoolExecutor(1) as pool:
        with engine.begin() as long:
            long.execute(text("INSERT INTO large VALUES (1)"))
            building = pool.submit(build_missing, engine, lambda _: None, tables)
            until("the index is there, unfinished", lambda: names(engine) == [INDEX], 20)
            with engine.begin() as connection:
                connection.execute(text("SET LOCAL lock_timeout = '2s'"))
                connection.execute(text("INSERT INTO large VALUES (2)"))
        building.result()
    engine.dispose()
