from __future__ import annotations

import pytest

from airlock.imaging.report import CSV_COLUMNS
from airlock.stages.redrive_list import read_csv
from airlock.stages.redrive_request import RedriveError
from airlock.stages.resources import CSV_COLUMNS as CLINICAL_COLUMNS

ID, OTHER = "0" * 31 + "a", "0" * 31 + "b"


def table(*rows: str, heading: str = "key,arrival_id", end: str = "\r\n") -> bytes:
    return end.join([heading, *rows, ""]).encode()


@pytest.mark.parametrize(
    "body",
    [
        table(f"in/a,{ID}"),
        table(f"in/a,{ID}", end="\n"),
        b"\xef\xbb\xbf" + table(f"in/a,{ID}"),
        table(f"in/a;{ID}", heading="key;arrival_id"),
        table(f"in/a\t{ID}", heading="key\tarrival_id"),
        table("", f"in/a,{ID}", ","),
        table(f'"in/a","{ID}"', heading='"key","arrival_id"'),
    ],
    ids=["rfc4180", "lf", "bom", "semicolons", "tabs", "empty lines", "quoted"],
)
def test_a_list_is_read_as_spreadsheets_write_it(body: bytes) -> None:
    (row,) = read_csv(body, CSV_COLUMNS)
    assert (row.arrival_id, row.key) == (ID, "in/a")


def test_rows_know_their_lines_though_cells_have_breaks() -> None:
    rows = read_csv(table(f'"in/a\r\nb",{ID}', f"in/c,{OTHER}"), CSV_COLUMNS)
    assert [row.line for row in rows] == [2, 4]


def test_a_whole_list_is_read_in_any_order_of_columns() -> None:
    heading = ";".join(reversed(CSV_COLUMNS))
    (row,) = read_csv(table(";".join([ID, *("" for _ in CSV_COLUMNS[1:])]), heading=heading), CSV_COLUMNS)
    assert row.arrival_id == ID


def test_a_list_of_resources_has_columns_of_its_own() -> None:
    body = table(f"in/a,7,{ID}", f"in/a,8,{ID}", heading="key,line,arrival_id")
    assert [row.arrival_id for row in read_csv(body, CLINICAL_COLUMNS)] == [ID, ID]
    with pytest.raises(RedriveError, match="1 columns in line 1"):
        read_csv(body, CSV_COLUMNS)


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        (table(f"in/a,{ID}").decode().encode("utf-16"), "not UTF-8"),
        (table(f"in/a,{ID},1", heading="key,arrival_id,mine"), "1 columns in line 1"),
        (table(f"{ID},{ID}", heading="arrival_id,arrival_id"), "1 columns in line 1"),
        (table("in/a", heading="key"), "lacks the column arrival_id"),
        (b"", "lacks the column arrival_id"),
        (table(f"in/a,{ID}", "in/b"), "line 3: 1 cells under 2 columns"),
        (table("in/a,1.23E+31"), "line 2: the arrival_id is not 32 hex digits"),
        (table(f'in/a,"{ID}'), "cannot be read from line 2 on"),
    ],
    ids=["utf-16", "unknown column", "column twice", "no id", "empty", "short row", "made a number", "open quote"],
)
def test_a_list_that_cannot_be_read_names_the_line(body: bytes, fault: str) -> None:
    with pytest.raises(RedriveError, match=fault):
        read_csv(body, CSV_COLUMNS)
