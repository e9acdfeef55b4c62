"""The words, and keys of our own."""

from __future__ import annotations

import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from airlock.records import (
    ARRIVALS,
    ATTRIBUTES,
    HEADERS,
    VERDICTS,
    Stage,
    arrival_id,
    arrival_ids,
    digest,
    study_key,
)
from airlock.storage.listing import LISTED

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)


def test_the_stages_are_the_nine_of_the_design() -> None:
    names = ["receive", "buffer", "parse", "validate", "normalize", "stage", "import", "audit", "route"]
    assert [*Stage] == names


def test_another_object_version_is_another_arrival() -> None:
    one = ("archive", "in/x", None, "etag", 10)
    others = [("other", *one[1:]), ("archive", "in/y", *one[2:]), ("archive", "in/x", "v2", "etag", 10)]
    others += [(*one[:3], "etag2", 10), (*one[:4], 11)]
    ids = {arrival_id(*values) for values in (one, *others)}
    assert len(ids) == 6
    assert all(len(key) == 32 for key in ids)


def test_an_arrival_id_is_in_ledgers_and_must_never_change() -> None:
    assert (
        arrival_id("archive", "in/é +%41//x", None, "5d41402abc4b2a76b9719d911017c592-2", 5)
        == "2eab2b8553b3eec069208ebb816eb72d"
    )


@settings(max_examples=50)
@given(st.lists(st.tuples(TEXT, st.none() | TEXT, TEXT, st.integers(0, 2**50)), max_size=5))
def test_the_ids_of_a_listing_are_those_of_its_rows(rows: list[tuple[str, str | None, str, int]]) -> None:
    listed = pl.DataFrame([(*row, None) for row in rows], schema=LISTED, orient="row")
    assert arrival_ids("archive", listed).to_list() == [arrival_id("archive", *row) for row in rows]


def test_a_digest_tells_parts_apart_and_takes_any_text() -> None:
    assert digest("ab", "c") != digest("a", "bc") != digest("abc")
    assert digest("\udcff") != digest("?")
    assert digest("x", length=8) == digest("x")[:8]


def test_a_study_key_is_stable_and_reveals_nothing() -> None:
    uid = "1.2.840.113619.2"
    assert study_key(uid) == "8d49d2f8e6dc0d88"  # in ledgers and contracts: it must never change
    assert study_key(f"{uid}.1") != study_key(uid)


def test_each_dataset_carries_what_the_next_stage_reads() -> None:
    assert set(ATTRIBUTES) <= set(HEADERS)
    assert {*ARRIVALS, *ATTRIBUTES, "verdict", "reason", "detail", "duplicate_of"} == set(VERDICTS)
