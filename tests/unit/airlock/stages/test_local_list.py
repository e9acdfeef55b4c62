"""A listing on the local disk is found by its key, and by another column."""

from __future__ import annotations

from typing import Any

import polars as pl

from airlock.stages.local_list import LocalList

COLUMNS = pl.Schema({"name": pl.String, "study": pl.String, "version": pl.Int64, "is_primary": pl.Boolean})


def rows(*some: tuple[Any, ...]) -> pl.DataFrame:
    return pl.DataFrame(some, COLUMNS, orient="row").with_columns(more=pl.lit(1))


def test_rows_are_found_by_key_and_by_another_column() -> None:
    with LocalList(COLUMNS, by="study") as listed:
        listed.add(rows(("x", "1", 1, True), ("y", "2", None, None)))
        listed.add(rows(("x", "1", 2, False)))
        assert listed.find(["1", "3"], "study").rows() == [("x", "1", 2, False)]
        assert listed.find(["y", "z"]).rows() == [("y", "2", None, None)]
        assert listed.values_after("", 10, "study") == ["1", "2"]
        assert listed.values_after("1", 10, "study") == ["2"]
        assert listed.values_after("", 1) == ["x"]
