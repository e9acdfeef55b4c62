from __future__ import annotations

from typing import Any

import pytest

from airlock.clinical.report import CSV_COLUMNS as CLINICAL_COLUMNS
from airlock.ledger import Resolution
from airlock.redrive import RedriveError, read_csv, read_request
from airlock.report import CSV_COLUMNS

ID, OTHER = "0" * 31 + "a", "0" * 31 + "b"
WHY = {"redrive_why": "cured"}


def test_params_of_other_runs_ask_for_no_redrive() -> None:
    assert read_request({"prefix": "in/", "redrive_run": None, "redrive_reasons": []}, "ada") is None


def test_a_request_has_who_and_why() -> None:
    params = WHY | {"redrive_run": "r", "redrive_reasons": ["truncated", "truncated"], "redrive_non_primary": "delete"}
    asked = read_request(params, "ada")
    assert asked is not None
    assert (asked.asked_by, asked.why, asked.reasons) == ("ada", "cured", ("truncated",))
    assert asked.choice == {"run": "r", "reasons": ["truncated"], "non_primary": "delete"}
    named = read_request(params | {"redrive_by": "grace"}, "ada")
    assert named is not None
    assert (named.asked_by, named.non_primary) == ("grace", Resolution.DELETE)


@pytest.mark.parametrize(
    ("params", "fault"),
    [
        ({"redrive_run": "r"}, "redrive_why is missing"),
        ({"redrive_run": "r", "redrive_why": "  "}, "redrive_why is missing"),
        (WHY, "chooses nothing"),
        (WHY | {"redrive_non_primary": "delete"}, "chooses nothing"),
        (WHY | {"redrive_study": "1.2.840.1"}, "redrive_study is no study key"),
        (WHY | {"redrive_reasons": ["no_such"]}, "redrive_reasons has 1 codes that do not exist"),
        (WHY | {"redrive_reasons": "truncated"}, "redrive_reasons is no list"),
        (WHY | {"redrive_csv": "/tmp/edited.csv"}, "redrive_csv is no address"),
        (WHY | {"redrive_csv": "s3://work/edited.xlsx"}, "redrive_csv is no address"),
        (WHY | {"redrive_run": 7}, "redrive_run is no text"),
        (WHY | {"redrive_run": "r", "redrive_non_primary": "keep"}, "redrive_non_primary is none of promote, delete"),
        (WHY | {"redrive_run": "r", "prefix": "in/"}, "prefix cannot go with a redrive"),
    ],
)
def test_a_wrong_request_names_the_param(params: dict[str, Any], fault: str) -> None:
    with pytest.raises(RedriveError, match=fault):
        read_request(params, "ada")


@pytest.mark.parametrize("kind", ["clinical", "ccda"])
@pytest.mark.parametrize("given", [{"redrive_study": "0" * 16}, {"redrive_run": "r", "redrive_non_primary": "delete"}])
def test_what_is_about_studies_is_for_images(kind: str, given: dict[str, Any]) -> None:
    assert read_request(WHY | given | {"redrive_run": "r"}, "ada") is not None
    with pytest.raises(RedriveError, match=rf"{list(given)[-1]} is for pipelines of kind imaging, .* of kind {kind}:"):
        read_request(WHY | given, "ada", kind)
    assert read_request(WHY | {"redrive_run": "r"}, "ada", kind) is not None


def test_a_wrong_value_is_not_repeated() -> None:
    with pytest.raises(RedriveError) as error:
        read_request(WHY | {"redrive_study": "1.2.840.1"}, "ada")
    assert "1.2.840" not in str(error.value)


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
    (row,) = read_csv(body)
    assert (row.arrival_id, row.key) == (ID, "in/a")


def test_rows_know_their_lines_though_cells_have_breaks() -> None:
    rows = read_csv(table(f'"in/a\r\nb",{ID}', f"in/c,{OTHER}"))
    assert [row.line for row in rows] == [2, 4]


def test_a_whole_list_is_read_in_any_order_of_columns() -> None:
    heading = ";".join(reversed(CSV_COLUMNS))
    (row,) = read_csv(table(";".join([ID, *("" for _ in CSV_COLUMNS[1:])]), heading=heading))
    assert row.arrival_id == ID


def test_a_list_of_resources_has_columns_of_its_own() -> None:
    body = table(f"in/a,7,{ID}", f"in/a,8,{ID}", heading="key,line,arrival_id")
    assert [row.arrival_id for row in read_csv(body, CLINICAL_COLUMNS)] == [ID, ID]
    with pytest.raises(RedriveError, match="1 columns in line 1"):
        read_csv(body)


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
        read_csv(body)
