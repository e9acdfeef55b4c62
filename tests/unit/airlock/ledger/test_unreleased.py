"""The arrivals counted for held subjects are those that the view of all arrivals has, in any ledger."""

from __future__ import annotations

from collections import Counter
from itertools import product
from random import Random
from typing import TYPE_CHECKING

import polars as pl
import pytest
from sqlalchemy import insert, select

from airlock.ledger.arrival_states import arrival_states as states
from airlock.ledger.gates import GATES
from airlock.ledger.tables import gates, runs, successors
from airlock.records import study_key
from tests.unit.airlock.ledger.samples import NIGHTLY, STORE, arrivals, begin, dispositions, id_of, uids, verdicts

if TYPE_CHECKING:
    from airlock.ledger import Ledger

NAMES = [f"file-{number}" for number in range(12)]
STUDIES = ["1.study", "2.study"]
SUBJECTS = [*STUDIES, *(f"file/{id_of(name)}" for name in NAMES), "Patient/1"]
PIPELINES = (NIGHTLY, "evening")
STORES = (STORE, "fedcba9876543210fedcba9876543210")
SAID: dict[str, list[str | None]] = {
    "disposition": ["held", "held", "quarantined", "failed", "released", "duplicate", "ignored"],
    "reason": ["truncated", "study_incomplete", None],
    "study_instance_uid": [*STUDIES, None],
}
COUNTED = {"held", "quarantined", "failed"}


class RandomLedger:
    """A ledger that is filled at random, through the methods that a run calls, in any order."""

    def __init__(self, ledger: Ledger, seed: int) -> None:
        self.ledger, self.random = ledger, Random(seed)

    def fill(self, steps: int = 24) -> None:
        runs = [(pipeline, f"{pipeline}-{number}") for pipeline in PIPELINES for number in range(2)]
        for pipeline, run in runs:
            begin(self.ledger, run, pipeline=pipeline)
            self.claim(pipeline, run)
            self.settle(pipeline, run)
            self.decide(pipeline, run)
        for _ in range(steps):
            self.random.choice((self.claim, self.validate, self.settle, self.decide))(*self.random.choice(runs))

    def claim(self, pipeline: str, run: str) -> None:
        self.ledger.claim(pipeline, run, arrivals(*self.random.sample(NAMES, 7)))

    def validate(self, pipeline: str, run: str) -> None:
        pairs = [(name, self.random.choice([*STUDIES, ""])) for name in self.held_names(pipeline, run)]
        self.ledger.record_verdicts(self.random.choice(STORES), pipeline, run, verdicts(*pairs))

    def settle(self, pipeline: str, run: str) -> None:
        names = self.held_names(pipeline, run)
        words = pl.DataFrame(
            [[self.random.choice(values) for values in SAID.values()] for _ in names],
            schema=dict.fromkeys(SAID, pl.String),
            orient="row",
        )
        self.ledger.settle(pipeline, run, dispositions(*names).with_columns(words))
        for name in names:
            if self.random.random() < 0.1:
                self.supersede(pipeline, name)

    def supersede(self, pipeline: str, name: str) -> None:
        """Link an arrival to one that came instead, or that was given back."""
        key = {"arrival_id": id_of(name), "pipeline": pipeline}
        by = self.random.choice((id_of("another"), None))
        with self.ledger._writing("redrives") as connection:
            if connection.execute(select(successors).filter_by(**key)).first() is None:
                connection.execute(insert(successors).values(key | {"superseded_by": by}))

    def decide(self, _: str, run: str) -> None:
        store, subject = self.random.choice(STORES), self.random.choice((*STUDIES, self.random.choice(SUBJECTS)))
        gate = self.random.choice(("hold", "hold", "release"))
        row = (subject, study_key(subject), gate, "study_held" if gate == "hold" else None)
        self.ledger.record_gates(store, run, pl.DataFrame([row], schema=GATES, orient="row"))
        if gate == "hold" and self.random.random() < 0.2:
            self.ledger.override_holds(store, run, uids(subject), "ada", "seen")

    def held_names(self, pipeline: str, run: str) -> list[str]:
        names = self.ledger.held_by(pipeline, run)["key"].str.strip_prefix("in/").to_list()
        return self.random.sample(names, (len(names) + 1) // 2)


def count_by_view(ledger: Ledger, held: pl.DataFrame) -> Counter[tuple[str | None, ...]]:
    """Count by reading every arrival, as before there was an index."""
    with ledger._reading() as connection:
        every = connection.execute(select(states).where(states.c.superseded_by.is_(None))).all()
        joined = select(gates.c.subject, gates.c.datastore_id, runs.c.pipeline).join(
            runs, runs.c.run_key == gates.c.run_key
        )
        deciding = {tuple(row) for row in connection.execute(joined)}
    return Counter(
        (subject, store, row.disposition, row.reason)
        for subject, store in held.select("subject", "datastore_id").iter_rows()
        for row in every
        if (row.study_key == study_key(subject) or f"file/{row.arrival_id}" == subject)
        and row.disposition in COUNTED
        and (subject, store, row.pipeline) in deciding
    )


@pytest.mark.parametrize("seed", range(3))
def test_the_counts_are_those_of_every_arrival(ledger: Ledger, seed: int) -> None:
    RandomLedger(ledger, seed).fill()
    asked = pl.DataFrame(list(product(SUBJECTS, STORES)), schema=["subject", "datastore_id"], orient="row")
    expected = count_by_view(ledger, asked)
    assert expected, "or the ledger has nothing to compare"
    found = ledger.unreleased(asked)
    assert {row[:4]: row[4] for row in found.iter_rows()} == expected
    assert found.select(pl.struct("subject", "datastore_id", "disposition", "reason").n_unique()).item() == found.height
