"""What the reports of all kinds share: counts in order, and cells that no spreadsheet runs."""

from __future__ import annotations

import csv
import io
import re

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airlock.records import DISPOSITIONS
from airlock.stages.reporting import (
    MOST_SITES,
    OTHER_SITES,
    count_by_site,
    count_values,
    harmless_text,
    summarize,
    to_csv,
)
from tests.unit.airlock.world import frame, pipeline

COLUMNS = ("key", "size", "sop_instance_uid", "detail")


def rows(dispositions: pl.DataFrame) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(to_csv(dispositions, COLUMNS), newline="")))


def test_counts_come_most_frequent_first_and_then_by_name() -> None:
    assert list(count_values(pl.Series("x", ["b", "c", "a", "c", None])).items()) == [("c", 2), ("a", 1), ("b", 1)]


def test_of_many_sites_the_smallest_are_counted_together() -> None:
    source = pipeline(source={"site_pattern": "(?P<site>x)"}).source
    found = count_by_site(source, {f"s{n}": n for n in range(1, MOST_SITES + 3)})
    assert len(found["sites"]) == MOST_SITES + 1
    assert (found["sites"][f"s{MOST_SITES + 2}"], found["sites"][OTHER_SITES]) == (MOST_SITES + 2, 1 + 2)
    assert sum(found["sites"].values()) == found["files"]


def test_a_log_says_how_many_unread_files_hold_nothing() -> None:
    report = {"balanced": True, "arrivals": 3, "dispositions": {"quarantined": 3}}
    counted = report | {"unattributed": {"files": 2, "sites": {"north": 2}}}
    assert summarize(report | {"unattributed": {"files": 0, "sites": {}}}) == summarize(report)
    assert summarize(counted)[-1] == "Unattributed: 2 (not readable, and of no known study), by site: north 2."


class TestCells:
    @pytest.mark.parametrize(
        "key",
        ["a,b", 'a"b', "a\nb", "a\r\nb", "a\rb", "é 山 \u2028", "a;b\tc", " a ", "'a", "a\x00b", "a=1", "1-2", '"', ""],
    )
    def test_an_odd_value_comes_back_as_it_is(self, key: str) -> None:
        table = rows(frame([{"key": key, "disposition": "released"}], DISPOSITIONS))
        assert [row["key"] for row in table] == [key]

    @pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "\n"])
    @pytest.mark.parametrize("column", ["key", "detail", "sop_instance_uid"])
    def test_a_cell_that_a_spreadsheet_would_run_is_made_harmless(self, column: str, start: str) -> None:
        table = rows(frame([{column: f"{start}HYPERLINK()"}], DISPOSITIONS))
        assert [row[column] for row in table] == [f"'{start}HYPERLINK()"]

    @pytest.mark.parametrize("separator", [";", "\t", "\r", "\n"])
    def test_nor_does_a_spreadsheet_run_what_it_cuts_off_at_its_own_separator(self, separator: str) -> None:
        key = f"in/a{separator}=HYPERLINK(){separator}-1"
        table = rows(frame([{"key": key}], DISPOSITIONS))
        assert [row["key"] for row in table] == [f"in/a{separator}'=HYPERLINK(){separator}'-1"]
        assert harmless_text(key) == table[0]["key"]

    @given(cells=st.lists(st.none() | st.text(st.sampled_from("a=+-@,;\"'\t\r\n \u00e9"), max_size=4), max_size=6))
    def test_it_is_written_as_pythons_csv_writer_does(self, cells: list[str | None]) -> None:
        table = frame([{"key": cell, "detail": cell, "size": 7} for cell in cells], DISPOSITIONS)
        text = io.StringIO(newline="")
        writer = csv.writer(text)
        for cell in cells:
            harmless = cell and re.sub(r"([;\t\r\n])(?=[=+\-@])", r"\1'", re.sub(r"\A(?=[=+\-@\t\r\n])", "'", cell))
            writer.writerow([harmless, 7, harmless])
        assert to_csv(table, ("key", "size", "detail"), head=False) == text.getvalue()

    def test_a_number_stays_one(self) -> None:
        assert rows(frame([{"key": "a", "size": -1}], DISPOSITIONS))[0]["size"] == "-1"
