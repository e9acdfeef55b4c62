"""Conservation over generations: whatever is delivered, decided, replaced, redriven and given back, nothing is lost."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import polars as pl
from hypothesis import example, given, settings
from hypothesis import strategies as st

from airlock.ledger import Ledger
from airlock.ledger.redrives import REDRIVABLE, SUCCESSORS
from airlock.records import ARRIVALS, DISPOSITIONS, arrival_id
from tests.ledger_rows import count_arrivals
from tests.servers.ledger import new_ledger
from tests.unit.airlock.ledger.samples import NIGHTLY, SEEN_AT, STORE, begin

KEYS = "abc"
WORDS = st.lists(st.sampled_from([*(word.value for word in REDRIVABLE), "released", "ignored"]), min_size=3, max_size=3)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["replace", "put_back"]), st.sampled_from(KEYS)),
        st.tuples(st.sampled_from(["nightly", "redrive", "give_back"]), WORDS),
    ),
    max_size=10,
)
ASKED = {"asked_by": "ada", "why": "cured", "choice": {}}


class Archive:
    """Three keys, whose objects are replaced now and then, and the runs that take them."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.etags = dict.fromkeys(KEYS, 0)
        self.runs: list[str] = []
        self.said: dict[str, str] = {}  # the dispositions, by arrival

    def replace(self, key: str) -> None:
        self.etags[key] += 1

    def put_back(self, key: str) -> None:
        self.etags[key] = 0

    def nightly(self, words: list[str]) -> None:
        self.ledger.claim(NIGHTLY, self.begun(), self.listing())
        self.settle(words)

    def redrive(self, words: list[str]) -> None:
        if self.taken():
            self.settle(words)

    def give_back(self, _: list[str]) -> None:
        before = self.places()
        counts = self.taken() or {}
        self.ledger.release_claims(NIGHTLY, self.runs[-1])
        assert self.places().keys() == before.keys()
        if not counts.get("in_already"):  # what was found to have come in stays linked
            assert self.places() == before

    def begun(self) -> str:
        self.runs.append(f"run-{len(self.runs)}")
        begin(self.ledger, self.runs[-1])
        return self.runs[-1]

    def listing(self) -> pl.DataFrame:
        rows = [
            (arrival_id("archive", key, None, str(etag), 1), "archive", key, None, str(etag), 1, SEEN_AT)
            for key, etag in self.etags.items()
        ]
        return pl.DataFrame(rows, schema=ARRIVALS, orient="row")

    def choice(self) -> pl.DataFrame:
        return self.ledger.choose_arrivals(STORE, NIGHTLY, None, None, ())

    def taken(self) -> dict[str, int] | None:
        """Redrive all that can be; its objects come as they are now."""
        now = {row["key"]: row for row in self.listing().to_dicts()}
        rows = [
            now[row["key"]] | {"chosen_id": row["arrival_id"], "carries": None, "generation": row["generation"] + 1}
            for row in self.choice().to_dicts()
        ]
        return self.ledger.redrive(NIGHTLY, self.begun(), pl.DataFrame(rows, schema=SUCCESSORS), ASKED)

    def settle(self, words: list[str]) -> None:
        held = self.ledger.held_by(NIGHTLY, self.runs[-1])
        said = held.select("arrival_id", "key", "size").with_columns(disposition=pl.Series(words[: held.height]))
        empty = {name: pl.lit(None, kind) for name, kind in DISPOSITIONS.items() if name not in said.columns}
        self.ledger.settle(NIGHTLY, self.runs[-1], said.with_columns(**empty))
        self.ledger.close_run(self.runs[-1], "audited", {})
        self.said |= dict(said.select("arrival_id", "disposition").iter_rows())

    def rows(self) -> pl.DataFrame:
        held = [name for run in self.runs for name in self.ledger.held_by(NIGHTLY, run)["arrival_id"]]
        assert len(held) == len(set(held)), "two runs hold one arrival"
        return self.ledger.find_arrivals(STORE, NIGHTLY, pl.Series(held, dtype=pl.String))

    def places(self) -> dict[str, str | None]:
        return dict(self.rows().select("arrival_id", "superseded_by").iter_rows())


def is_conserved(archive: Archive) -> None:
    rows = archive.rows()
    assert dict(rows.select("arrival_id", "disposition").iter_rows()) == archive.said, "a word was lost or changed"
    assert sum(count_arrivals(archive.ledger, NIGHTLY).values()) == rows.height
    released = rows.filter(pl.col("disposition") == "released")
    assert released["superseded_by"].null_count() == released.height, "what is released was taken through again"
    heirs = rows["superseded_by"].drop_nulls()
    assert heirs.is_in(rows["arrival_id"].to_list()).all(), "what stands in its place is not there"
    latest = rows.filter(pl.col("superseded_by").is_null())
    assert latest.select("key", "etag").is_unique().all(), "an object stands in two places"
    for key, etag in released.select("key", "etag").iter_rows():
        of_object = rows.filter(key=key, etag=etag)
        assert of_object["generation"].max() == released.filter(key=key, etag=etag)["generation"].item()


# What a redrive has taken through once comes again with the object as it was at first: replaced and put back.
PUT_BACK = [("nightly", ["held"] * 3), ("redrive", ["held"] * 3), ("give_back", []), ("redrive", ["failed"] * 3)]


@given(steps=STEPS)
@example(steps=PUT_BACK)
@settings(max_examples=25)
def test_each_generation_has_its_one_word_and_each_object_its_one_place(steps: list[tuple[str, Any]]) -> None:
    with TemporaryDirectory() as folder, Ledger.open(new_ledger(Path(folder, "ledger.db"))) as ledger:
        archive = Archive(ledger)
        for name, given_to_it in steps:
            getattr(archive, name)(given_to_it)
            is_conserved(archive)
