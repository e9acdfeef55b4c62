"""The studies of accepted files by folder: enough of each folder to know that there are too many."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from airlock.ledger.folders import FOLDERS, MOST_OF_A_FOLDER
from tests.unit.airlock.ledger.samples import NIGHTLY, uids

if TYPE_CHECKING:
    from airlock.ledger import Ledger


def pairs(*rows: tuple[str, str]) -> pl.DataFrame:
    return pl.DataFrame([(*row, ".dcm") for row in rows], schema=FOLDERS, orient="row")


def found(ledger: Ledger, *names: str, pipeline: str = NIGHTLY) -> set[tuple[str, str]]:
    rows = ledger.find_folders(pipeline, uids(*names))
    assert set(rows["pattern"]) <= {".dcm"}
    return set(rows.select("folder", "StudyInstanceUID").rows())


def test_what_was_added_is_found_by_its_folder(ledger: Ledger) -> None:
    ledger.add_folders(NIGHTLY, [pairs(("a", "1.1"), ("b", "1.2")), pairs(("a", "1.3"))])
    assert found(ledger, "a", "c") == {("a", "1.1"), ("a", "1.3")}
    assert found(ledger, "a", pipeline="other") == set()


def test_adding_again_changes_nothing(ledger: Ledger) -> None:
    for _ in range(2):
        ledger.add_folders(NIGHTLY, [pairs(("a", "1.1")), pairs(("a", "1.1"))])
    assert found(ledger, "a") == {("a", "1.1")}


def test_a_folder_keeps_one_study_more_than_a_file_may_hold(ledger: Ledger) -> None:
    ledger.add_folders(NIGHTLY, [pairs(*(("a", f"1.{n}") for n in range(60)), ("b", "1.1"))])
    ledger.add_folders(NIGHTLY, [pairs(*(("a", f"2.{n}") for n in range(60)))])
    ledger.add_folders(NIGHTLY, [pairs(*(("a", f"3.{n}") for n in range(60)), ("b", "1.2"))])
    assert len(found(ledger, "a")) == MOST_OF_A_FOLDER
    assert found(ledger, "b") == {("b", "1.1"), ("b", "1.2")}


def test_nothing_is_added_for_nothing(ledger: Ledger) -> None:
    ledger.add_folders(NIGHTLY, [])
    assert found(ledger, "a") == set()
