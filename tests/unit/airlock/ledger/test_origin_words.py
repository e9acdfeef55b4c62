"""A file whose resources were parked has the word of what became of them, whichever run took them in."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl
import pytest
from sqlalchemy import insert, select, text

from airlock.ledger.arrival_states import arrival_states
from airlock.ledger.database import reading, writing
from airlock.ledger.origin_words import ORIGINS
from airlock.ledger.tables import successors
from tests.unit.airlock.ledger.parking import P1, bring, hold, wait
from tests.unit.airlock.ledger.samples import NIGHTLY, dispositions, id_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airlock.ledger import Ledger

FILE, OBJECT = "Observation/o1", "object"


def parked(ledger: Ledger) -> None:
    """Let run a hold a file, park its resource and say so."""
    hold(ledger, "a", FILE)
    ledger.settle(NIGHTLY, "a", dispositions(FILE, word="parked", study_uid=None))


def settle(ledger: Ledger, run: str, word: str, taken_as: str = OBJECT) -> int:
    """Let a run say what became of the file's resource."""
    rows = dispositions(FILE, word=word, study_uid=None).with_columns(taken_as=pl.lit(id_of(taken_as)))
    return ledger.settle_origins(NIGHTLY, run, rows.select(ORIGINS.names()))


def word(ledger: Ledger) -> str:
    statement = select(arrival_states.c.disposition).where(arrival_states.c.arrival_id == id_of(FILE))
    with reading(ledger._engine) as connection:
        return str(connection.scalar(statement))


@pytest.fixture(params=[-1, 1_000_000])
def size(request: pytest.FixtureRequest, ledger: Ledger) -> Iterator[None]:
    """Let PostgreSQL take the arrivals for as many, or, as in a new ledger, for a number that it does not know."""
    statement = text("UPDATE pg_class SET reltuples = :size WHERE relname = 'arrivals'")
    if ledger._engine.dialect.name == "sqlite":
        yield
        return
    with writing(ledger._engine, "test") as connection:
        connection.execute(statement, {"size": request.param})
    yield
    with writing(ledger._engine, "test") as connection:
        connection.execute(statement, {"size": -1})


@pytest.mark.usefixtures("size")
def test_the_file_is_released_with_its_resource_and_no_later_audit_unsays_it(ledger: Ledger) -> None:
    parked(ledger)
    hold(ledger, "b", OBJECT)
    assert (settle(ledger, "b", "released"), word(ledger)) == (1, "released")
    assert settle(ledger, "b", "released") == 0
    ledger.settle(NIGHTLY, "a", dispositions(FILE, word="parked", study_uid=None))
    assert word(ledger) == "released"


def test_nor_does_it_unsay_that_the_resource_was_quarantined(ledger: Ledger) -> None:
    parked(ledger)
    hold(ledger, "b", OBJECT)
    assert (settle(ledger, "b", "quarantined"), word(ledger)) == (1, "quarantined")
    ledger.settle(NIGHTLY, "a", dispositions(FILE, word="parked", study_uid=None))
    assert word(ledger) == "quarantined"


def test_it_stays_parked_while_another_of_its_resources_waits(ledger: Ledger) -> None:
    wait(ledger, "a", Observation_o1=(P1,))
    ledger.settle(NIGHTLY, "a", dispositions(FILE, word="parked", study_uid=None))
    hold(ledger, "b", OBJECT)
    assert (settle(ledger, "b", "released"), word(ledger)) == (0, "parked")
    assert (settle(ledger, "b", "quarantined"), word(ledger)) == (1, "quarantined")


def test_a_resource_that_nobody_needs_any_more_does_not_hide_one_that_was_released(ledger: Ledger) -> None:
    parked(ledger)
    hold(ledger, "b", OBJECT)
    assert (settle(ledger, "b", "ignored"), word(ledger)) == (1, "ignored")
    bring(ledger, "c", "Organization/x")
    ledger.settle(NIGHTLY, "c", dispositions("Organization/x", word="parked", study_uid=None))
    rows = dispositions("Organization/x", word="ignored", study_uid=None).with_columns(taken_as=pl.lit(id_of(OBJECT)))
    ledger.settle_origins(NIGHTLY, "b", rows.select(ORIGINS.names()))
    statement = select(arrival_states.c.disposition).where(arrival_states.c.arrival_id == id_of("Organization/x"))
    with reading(ledger._engine) as connection:
        assert connection.scalar(statement) == "released"


def test_the_run_that_has_said_a_word_may_say_another_since_a_person_may_let_a_hold_go(ledger: Ledger) -> None:
    parked(ledger)
    hold(ledger, "b", OBJECT)
    assert (settle(ledger, "b", "held"), word(ledger)) == (1, "held")
    assert (settle(ledger, "b", "released"), word(ledger)) == (1, "released")


def test_a_worse_word_goes_only_with_the_redrive_of_what_it_was_said_about(ledger: Ledger) -> None:
    parked(ledger)
    hold(ledger, "b", OBJECT)
    settle(ledger, "b", "held")
    hold(ledger, "c", "another")
    assert (settle(ledger, "c", "released", "another"), word(ledger)) == (0, "held")
    hold(ledger, "d", "again")
    row = {"arrival_id": id_of(OBJECT), "pipeline": NIGHTLY, "superseded_by": id_of("again")}
    with writing(ledger._engine, "test") as connection:
        connection.execute(insert(successors).values(row))
    assert (settle(ledger, "d", "released", "again"), word(ledger)) == (1, "released")
