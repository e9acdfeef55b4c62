"""Whatever runs do in whatever order, each arrival has one holder, and the books balance."""

from __future__ import annotations

from collections import Counter
from itertools import count
from typing import TYPE_CHECKING

import polars as pl
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.ledger_rows import count_arrivals
from tests.unit.airlock.ledger.samples import STORE, arrivals, begin, claims, dispositions, id_of, ids

if TYPE_CHECKING:
    from airlock.ledger import Ledger

RUNS = ("a", "b", "c")
NAMES = ("1", "2", "3", "4")
_example = count()

names = st.lists(st.sampled_from(NAMES), unique=True)
steps = st.lists(st.tuples(st.sampled_from(["claim", "settle", "release"]), st.sampled_from(RUNS), names), max_size=12)
few = settings(
    max_examples=20,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


class Books:
    """What should be true of one pipeline, kept in two dictionaries."""

    def __init__(self, ledger: Ledger, pipeline: str) -> None:
        self.ledger, self.pipeline = ledger, pipeline
        self.holder: dict[str, str] = {}
        self.settled: set[str] = set()
        begin(ledger, *map(self.key, RUNS), pipeline=pipeline)

    def key(self, run: str) -> str:
        return f"{self.pipeline}-{run}"

    def claim(self, run: str, listed: list[str]) -> None:
        claim = self.ledger.claim(self.pipeline, self.key(run), arrivals(*listed))
        for name in listed:
            self.holder.setdefault(name, run)
        elsewhere = [name for name in listed if self.holder[name] != run]
        assert claim.settled == len(self.settled.intersection(elsewhere))
        assert claim.claimed_elsewhere == len(elsewhere) - claim.settled
        assert ids(self.ledger.held_by(self.pipeline, self.key(run))) == self.held(run)

    def settle(self, run: str, wanted: list[str]) -> None:
        own = [name for name in wanted if self.holder.get(name) == run]
        self.ledger.settle(self.pipeline, self.key(run), dispositions(*own))
        self.settled.update(own)

    def release(self, run: str, wanted: list[str]) -> None:
        back = [name for name, holder in self.holder.items() if holder == run and name not in self.settled]
        assert self.ledger.release_claims(self.pipeline, self.key(run)) == len(back)
        for name in back:
            del self.holder[name]

    def held(self, run: str) -> set[str]:
        return {id_of(name) for name, holder in self.holder.items() if holder == run}

    def check(self) -> None:
        held = [self.ledger.held_by(self.pipeline, self.key(run)) for run in RUNS]
        assert [ids(frame) for frame in held] == [self.held(run) for run in RUNS]
        assert pl.concat(held)["arrival_id"].is_duplicated().sum() == 0
        assert sum(count_arrivals(self.ledger, self.pipeline).values()) == len(self.holder)
        assert count_arrivals(self.ledger, self.pipeline).get("released", 0) == len(self.settled)


@few
@given(steps=steps)
def test_each_arrival_has_exactly_one_holder(ledger: Ledger, steps: list[tuple[str, str, list[str]]]) -> None:
    books = Books(ledger, f"pipeline{next(_example)}")
    for action, run, wanted in steps:
        getattr(books, action)(run, wanted)
    books.check()


pairs = st.lists(
    st.tuples(st.sampled_from(NAMES), st.sampled_from(["1.1", "1.2", "1.3"])), unique_by=lambda pair: pair[0]
)


@few
@given(turns=st.lists(st.tuples(st.sampled_from(RUNS), pairs), max_size=6))
def test_each_instance_has_exactly_one_owner_and_everyone_else_is_told(
    ledger: Ledger, turns: list[tuple[str, list[tuple[str, str]]]]
) -> None:
    pipeline = f"pipeline{next(_example)}"
    store = f"{STORE}{pipeline}"
    begin(ledger, *(f"{pipeline}-{run}" for run in RUNS), pipeline=pipeline)
    owner: dict[str, tuple[str, str]] = {}
    for run in RUNS:
        ledger.claim(pipeline, f"{pipeline}-{run}", arrivals(*(f"{run}{name}" for name in NAMES)))
    for run, wanted in turns:
        brought = [(f"{run}{name}", uid) for name, uid in wanted]
        taken = ledger.claim_instances(store, pipeline, f"{pipeline}-{run}", claims(*brought))
        owner = {uid: held for uid, held in owner.items() if held[0] != run or (held[1], uid) in brought}
        for name, uid in brought:
            owner.setdefault(uid, (run, name))
        refused = {uid for name, uid in brought if owner[uid][1] != name}
        assert Counter(taken["SOPInstanceUID"]) == Counter(refused)
    known = ledger.known_instances(store, pl.Series(["1.1", "1.2", "1.3"]))
    assert dict(known.select("SOPInstanceUID", "arrival_id").rows()) == {u: id_of(n) for u, (_, n) in owner.items()}
