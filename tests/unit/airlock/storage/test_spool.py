"""Rows are read again by partition: each row once, the rows of one value together and in their order."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airlock.storage import spool
from airlock.storage.spool import (
    PARTITION_ROWS,
    SortedSpool,
    Spool,
    compute_bounds,
    count_partitions,
    partition_hash,
    zip_partitions,
)

if TYPE_CHECKING:
    from pathlib import Path

ROWS = pl.DataFrame({"study": ["a", "b", None, "a", "c", "b"], "row": range(6)})


@pytest.fixture(autouse=True)
def _small_partitions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool, "PARTITION_ROWS", 2)


@given(values=st.lists(st.one_of(st.none(), st.sampled_from("abcdefgh")), max_size=30), partitions=st.integers(1, 5))
def test_every_row_comes_back_once_with_those_of_its_value(values: list[str | None], partitions: int) -> None:
    rows = pl.DataFrame({"study": values, "row": range(len(values))}, schema={"study": pl.String, "row": pl.Int64})
    with Spool(pl.col("study"), partitions) as spooled:
        for piece in rows.iter_slices(3):
            spooled.add(piece)
        found = list(spooled)
    assert sorted(row for part in found for row in part["row"]) == list(range(len(values)))
    for part in found:
        assert part["row"].is_sorted() or part.group_by("study").agg(pl.col("row").is_sorted().all())["row"].all()
    seen = [study for part in found for study in part["study"].unique()]
    assert len(seen) == len(set(seen))


def test_the_partitions_are_pieces_of_one_order_however_many_there_are() -> None:
    rows = pl.DataFrame({"study": [f"{number}" for number in range(50)]})
    expected = rows.sort(partition_hash(pl.col("study")))["study"].to_list()
    for partitions in (2, 3, 7):
        with Spool(pl.col("study"), partitions) as spooled:
            spooled.add(rows)
            parts = [part.sort(partition_hash(pl.col("study"))) for part in spooled]
        assert len(parts) == partitions
        assert pl.concat(parts)["study"].to_list() == expected


def test_it_can_be_read_again_and_added_to() -> None:
    with Spool(pl.col("study"), 3) as spooled:
        spooled.add(ROWS)
        first = [part.rows() for part in spooled]
        assert [part.rows() for part in spooled] == first
        spooled.add(ROWS)
        assert sum(part.height for part in spooled) == spooled.rows == 12


def test_a_few_long_rows_do_not_stay_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool, "PARTITION_ROWS", PARTITION_ROWS)
    monkeypatch.setattr(spool, "PENDING_BYTES", 10_000)
    drafts = pl.DataFrame({"study": ["a", "b"], "contract": ["x" * 4_000, "y" * 4_000]})
    with Spool(pl.col("study"), 3) as spooled:
        for _ in range(10):
            spooled.add(drafts)
            assert sum(rows.estimated_size() for rows in spooled._pending) < 10_000
        assert sum(part.height for part in spooled) == 20


@pytest.mark.parametrize("partitions", [1, 3])
def test_a_spool_without_rows_has_no_partition(partitions: int) -> None:
    with Spool(pl.col("study"), partitions) as spooled:
        spooled.add(ROWS.clear())
        assert list(spooled) == []


def test_no_file_is_left_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool.tempfile, "tempdir", str(tmp_path))
    with Spool(pl.col("study"), 3) as spooled:
        spooled.add(ROWS)
        assert not any(tmp_path.iterdir())  # nor anything that a killed task could leave behind
        assert sum(part.height for part in spooled) == ROWS.height


def test_the_number_of_partitions_follows_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool, "PARTITION_ROWS", PARTITION_ROWS)
    assert [count_partitions(rows) for rows in (0, 1, 100_000, 100_001, 5_000_000)] == [1, 1, 1, 2, 50]


@given(keys=st.lists(st.text(max_size=3), max_size=30), partitions=st.integers(1, 6))
def test_ranges_come_in_the_order_of_their_text(keys: list[str], partitions: int) -> None:
    rows = pl.DataFrame({"key": keys, "row": range(len(keys))}, schema={"key": pl.String, "row": pl.Int64})
    with SortedSpool(pl.col("key"), compute_bounds(rows["key"][::2], partitions)) as spooled:
        for piece in rows.iter_slices(3):
            spooled.add(piece)
        found = [part.sort("key", maintain_order=True) for part in spooled]
    assert pl.concat([rows.clear(), *found]).rows() == rows.sort("key", maintain_order=True).rows()
    assert spooled.partitions <= partitions


def test_bounds_make_ranges_of_about_one_size() -> None:
    keys = pl.Series("key", [f"{n:03}" for n in range(100)])
    with SortedSpool(pl.col("key"), compute_bounds(keys, 4)) as spooled:
        spooled.add(keys.to_frame())
        assert [part.height for part in spooled] == [25, 25, 25, 25]


def test_several_spools_have_a_value_in_the_same_partition() -> None:
    with Spool(pl.col("study"), 3) as one, Spool(pl.col("study"), 3) as other:
        one.add(ROWS)
        other.add(ROWS.filter(pl.col("study") == "a").rename({"row": "more"}))
        found = list(zip_partitions(one, other))
    assert [part.columns for _, part in found] == [["study", "more"]] * 3
    assert [part.height for _, part in found if part.height] == [2]
    for rows, part in found:
        assert part.is_empty() or "a" in rows["study"]
