"""The books of a run on the disk: what is wrong with them is found in whichever partition it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import polars as pl
import pytest

from airlock.imaging.books import open_books
from airlock.records import ARRIVALS
from airlock.stages.reporting import describe_imbalances
from tests.unit.airlock.world import dicom, frame, outcomes, unread, verdicts

if TYPE_CHECKING:
    from airlock.imaging.books import Books

FILES = [dicom(f"{n}", StudyInstanceUID=f"1.{n % 4}", SeriesInstanceUID=f"1.{n % 4}.1") for n in range(12)]
ODD = unread("odd", "not_dicom") | {"verdict": "quarantine"}


def fill(books: Books, decided: list[dict[str, Any]], imported: list[dict[str, Any]], held: list[Any]) -> None:
    """Take in the delivery of `FILES` and `ODD`, with these verdicts, outcomes and arrivals in the ledger."""
    books.add_arrivals(frame([*FILES, ODD], ARRIVALS))
    for each in decided:
        books.add_verdicts(verdicts(each))
    for number, each in enumerate(imported):
        books.add_outcomes(outcomes(each, batch_id=f"b{number % 3}"))
    books.held_ids.add(frame(held, ARRIVALS).select("arrival_id"))


@pytest.mark.parametrize("partitions", [1, 5])
class TestBalance:
    def test_complete_books_have_no_imbalance(self, partitions: int) -> None:
        with open_books(partitions) as books:
            fill(books, [*FILES, ODD], FILES, [*FILES, ODD])
            assert describe_imbalances(books.balance()) == []
            assert books.decided.rows == 13
            assert books.bytes == 13_000

    def test_every_step_is_held_against_the_one_before(self, partitions: int) -> None:
        stranger = dicom("stranger")
        with open_books(partitions) as books:
            fill(books, [*FILES, stranger], [*FILES[1:], FILES[1]], [*FILES[3:], ODD])
            assert describe_imbalances(books.balance()) == [
                "verdicts: 1 arrivals are missing",
                "verdicts: 1 arrivals do not belong there",
                "outcomes: 2 arrivals are missing",
                "outcomes: 1 arrivals occur more than once",
                "the ledger: 3 arrivals are missing",
            ]
            assert books.unknown_ids.to_list() == [stranger["arrival_id"]]
            undecided = [rows.filter(pl.col("verdict").is_null()) for rows in books.decided]
            assert pl.concat(undecided).select("arrival_id", "key").rows() == [(ODD["arrival_id"], ODD["key"])]

    def test_a_series_in_several_batches_is_known(self, partitions: int) -> None:
        with open_books(partitions) as books:
            fill(books, FILES, FILES[:5], [])
            assert books.split_series().to_list() == ["1.0.1"]

    def test_a_study_is_in_one_partition_and_keys_are_in_order(self, partitions: int) -> None:
        with open_books(partitions) as books:
            fill(books, [*FILES, ODD], FILES, [])
            studies = [uid for rows in books.decided for uid in rows["StudyInstanceUID"].unique().drop_nulls()]
            assert sorted(studies) == ["1.0", "1.1", "1.2", "1.3"]
            by_key = books.spool_by_key(ARRIVALS)
            by_key.add(frame([*FILES, ODD], ARRIVALS))
            keys = [key for rows in by_key for key in rows["key"].sort()]
            assert keys == sorted(keys)
