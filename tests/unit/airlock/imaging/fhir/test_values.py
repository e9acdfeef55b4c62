"""DICOM values as FHIR data types."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airlock.imaging.fhir import values
from airlock.imaging.fhir.values import (
    day,
    defined_term,
    exact,
    gender,
    human_names,
    moment,
    spoken_name,
    text,
    unsigned,
)

if TYPE_CHECKING:
    from datetime import date

# hl7.org/fhir/R4/datatypes.html
FHIR_DATETIME = (
    r"([0-9]([0-9]([0-9][1-9]|[1-9]0)|[1-9]00)|[1-9]000)(-(0[1-9]|1[0-2])(-(0[1-9]|[1-2][0-9]|3[0-1])"
    r"(T([01][0-9]|2[0-3]):[0-5][0-9]:([0-5][0-9]|60)(\.[0-9]+)?(Z|(\+|-)((0[0-9]|1[0-3]):[0-5][0-9]|14:00)))?)?)?"
)
BERLIN = "Europe/Berlin"


class TestText:
    @pytest.mark.parametrize(
        ("stored", "expected"),
        [
            ("CT thorax", "CT thorax"),
            ("  CT \x01\x1b[2J\n thorax\u2028\u00a0", "CT [2J thorax"),
            ("Größe \ufffd 山", "Größe \ufffd 山"),
            ("a" * 65_536, "a" * values.LONGEST_TEXT),
            ("", None),
            (" \x00\u00a0 ", None),
            (None, None),
        ],
    )
    def test_it_is_what_can_be_read(self, stored: str | None, expected: str | None) -> None:
        assert text(stored) == expected

    @pytest.mark.parametrize("stored", ["A\x01", "A\nB", "\ufffd1", "A\u00a0", "a" * 1025, "", "  ", None])
    def test_an_identifier_is_not_mended_but_left_out(self, stored: str | None) -> None:
        assert exact(stored) is None

    def test_an_identifier_is_as_stored_less_its_padding(self) -> None:
        assert exact(" A  1^é ") == "A  1^é"


class TestNumbers:
    @pytest.mark.parametrize(
        ("stored", "expected"), [("0", 0), (" 12 ", 12), ("+3", 3), ("0007", 7), ("2147483647", 2**31 - 1)]
    )
    def test_an_integer_string_is_a_number(self, stored: str, expected: int) -> None:
        assert unsigned(stored) == expected

    @pytest.mark.parametrize("stored", ["-1", "2147483648", "1.0", "1\\2", "٣", "1e3", "x", "", None])
    def test_what_fhir_cannot_hold_is_left_out(self, stored: str | None) -> None:
        assert unsigned(stored) is None


class TestDates:
    @pytest.mark.parametrize(("stored", "expected"), [("20240229", "2024-02-29"), ("1993.08.22", "1993-08-22")])
    def test_a_date_is_a_date(self, stored: str, expected: str) -> None:
        assert day(stored) == expected

    @pytest.mark.parametrize(
        "stored",
        [
            "1980",
            "198001",
            "20230229",
            "00000101",
            "19800000",
            "1993.0822",
            "20240101-20240201",
            "2024-01-01",
            "٢٠٢٤٠١٠١",
        ],
    )
    def test_a_partial_or_impossible_one_is_none(self, stored: str) -> None:
        assert day(stored) is None

    @given(st.dates())
    def test_every_day_there_is_comes_back(self, on: date) -> None:
        assert day(f"{on:%Y%m%d}".rjust(8, "0")) == on.isoformat()


class TestMoments:
    @pytest.mark.parametrize(
        ("on", "at", "expected"),
        [
            ("20240131", "101112", "2024-01-31T10:11:12+01:00"),
            ("20240731", "101112.123456", "2024-07-31T10:11:12.123456+02:00"),
            ("20240131", "1011", "2024-01-31T10:11:00+01:00"),
            ("20240131", "10:11:12", "2024-01-31T10:11:12+01:00"),
            ("20161231", "235960", "2016-12-31T23:59:60+01:00"),
            ("20240131", "10", "2024-01-31"),
            ("20240131", "250000", "2024-01-31"),
            ("20240131", "106000", "2024-01-31"),
            ("20240131", "101161", "2024-01-31"),
            ("20240131", "10:1112", "2024-01-31"),
            ("20240131", None, "2024-01-31"),
            ("18800101", "101112", "1880-01-01"),  # local mean time, 53 minutes and 28 seconds
            ("20240231", "101112", None),
            (None, "101112", None),
        ],
    )
    def test_a_time_needs_its_date_and_a_zone(self, on: str | None, at: str | None, expected: str | None) -> None:
        assert moment(on, at, BERLIN) == expected

    def test_without_a_zone_there_is_no_time(self) -> None:
        assert moment("20240131", "101112", None) == "2024-01-31"

    @pytest.mark.parametrize(
        ("timezone", "offset"),
        [
            ("America/St_Johns", "-03:30"),
            ("Pacific/Kiritimati", "+14:00"),
            ("UTC", "+00:00"),
            ("Asia/Kolkata", "+05:30"),
        ],
    )
    def test_zones_are_written_as_fhir_wants_them(self, timezone: str, offset: str) -> None:
        assert moment("20240131", "101112", timezone) == f"2024-01-31T10:11:12{offset}"

    @pytest.mark.parametrize(("stored", "offset"), [("+0130", "+01:30"), ("-0330 ", "-03:30"), ("+1400", "+14:00")])
    def test_the_headers_own_offset_goes_before_the_pipelines_zone(self, stored: str, offset: str) -> None:
        assert moment("20240131", "101112", BERLIN, stored) == f"2024-01-31T10:11:12{offset}"
        assert moment("20240131", "101112", None, stored) == f"2024-01-31T10:11:12{offset}"

    @pytest.mark.parametrize("stored", ["", "+1", "0100", "+0160", "+1430", "+0100\\+0200", "UTC"])
    def test_an_offset_that_is_not_valid_is_ignored(self, stored: str) -> None:
        assert moment("20240131", "101112", BERLIN, stored) == "2024-01-31T10:11:12+01:00"
        assert moment("20240131", "101112", None, stored) == "2024-01-31"

    def test_a_zone_farther_than_fhir_goes_gives_no_time(self) -> None:
        """Guam kept the date of Manila and the sun of Guam, 14 hours and 21 minutes behind, until 1844."""
        assert moment("18400101", "101112", "Pacific/Guam") == "1840-01-01"

    @given(
        st.one_of(st.text(max_size=12), st.dates().map(lambda on: f"{on:%Y%m%d}".rjust(8, "0"))),
        st.one_of(st.text(max_size=12), st.times().map(lambda at: f"{at:%H%M%S.%f}")),
        st.sampled_from([BERLIN, "Asia/Manila", "America/Juneau", "Pacific/Apia"]),
    )
    def test_whatever_is_stored_it_is_a_datetime_or_nothing(self, on: str, at: str, timezone: str) -> None:
        found = moment(on, at, timezone)
        assert found is None or re.fullmatch(FHIR_DATETIME, found)


class TestNames:
    @pytest.mark.parametrize(
        ("stored", "expected"),
        [
            ("Doe", [{"family": "Doe"}]),
            ("Doe^Jane^Q", [{"family": "Doe", "given": ["Jane", "Q"]}]),
            (
                "Doe^Jane Ann^^Prof.^PhD",
                [{"family": "Doe", "given": ["Jane Ann"], "prefix": ["Prof."], "suffix": ["PhD"]}],
            ),
            ("^Jane", [{"given": ["Jane"]}]),
            ("^^Q", [{"given": ["Q"]}]),
            ("Doe^Jane^^^^more^still", [{"family": "Doe", "given": ["Jane"]}]),
            ("Doe^Jane\\Roe^Mary", [{"family": "Doe", "given": ["Jane"]}]),
            ("\x01 Doe ^\t", [{"family": "Doe"}]),
            ("^^^^", []),
            ("==", []),
            ("", []),
            (None, []),
        ],
    )
    def test_a_name_has_five_components(self, stored: str | None, expected: list[Any]) -> None:
        assert human_names(stored) == expected

    def test_each_representation_is_a_name_of_its_own(self) -> None:
        alphabetic, ideographic, phonetic = human_names("Yamada^Tarou=山田^太郎=やまだ^たろう=more")
        assert alphabetic == {"family": "Yamada", "given": ["Tarou"]}
        assert (ideographic["family"], ideographic["given"]) == ("山田", ["太郎"])
        assert (phonetic["family"], phonetic["given"]) == ("やまだ", ["たろう"])
        assert [name["extension"][0]["valueCode"] for name in (ideographic, phonetic)] == ["IDE", "SYL"]

    def test_a_name_may_be_ideographic_only(self) -> None:
        (only,) = human_names("=山田^太郎")
        assert only["extension"][0]["valueCode"] == "IDE"

    @pytest.mark.parametrize(
        ("stored", "expected"),
        [("House^Gregory^M^Dr^Jr", "Dr Gregory M House Jr"), ("=山田^太郎", "太郎 山田"), ("^^", None), (None, None)],
    )
    def test_a_name_is_said_in_order(self, stored: str | None, expected: str | None) -> None:
        assert spoken_name(stored) == expected


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        ("M", "male"),
        ("F ", "female"),
        ("O", "other"),
        ("U", None),
        ("m", None),
        ("M\\F", None),
        ("", None),
        (None, None),
    ],
)
def test_only_what_dicom_defines_is_a_gender(stored: str | None, expected: str | None) -> None:
    assert gender(stored) == expected


@pytest.mark.parametrize(
    ("stored", "expected"), [("CT", "CT"), (" MY_TERM 2 ", "MY_TERM 2"), ("ct", None), ("C  T", None), ("CT\\MR", None)]
)
def test_a_defined_term_is_legal_in_both_worlds(stored: str, expected: str | None) -> None:
    assert defined_term(stored) == expected
