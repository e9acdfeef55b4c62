"""What HealthImaging asks of one file: each rule finds its own case and no other."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest

from airlock.dicom.preconditions import TRANSFER_SYNTAXES, file_rules
from airlock.pipelines import ELEMENT_LENGTHS, Limits
from airlock.reasons import Reason
from tests.unit.airlock.world import dicom, joined

BASE = "1.2.840.10008.1.2"


def findings(limits: Limits | None = None, **changes: Any) -> list[tuple[str, str]]:
    """Return what the rules find on one file, in the order in which they are asked."""
    rows = joined(dicom("x", **changes))
    rules = file_rules(limits or Limits())
    return [(rule.reason, rule.detail) for rule in rules if rows.select(rule.finds.fill_null(value=False)).item()]


def test_a_sound_file_has_none() -> None:
    assert findings() == []


@pytest.mark.parametrize("value", [None, "", " ", "\x20\x20"])
@pytest.mark.parametrize(
    ("keyword", "reason"),
    [
        ("SOPInstanceUID", "missing_sop_instance_uid"),
        ("StudyInstanceUID", "missing_study_instance_uid"),
        ("SeriesInstanceUID", "missing_series_instance_uid"),
        ("SOPClassUID", "missing_sop_class_uid"),
        ("TransferSyntaxUID", "missing_transfer_syntax_uid"),
    ],
)
def test_a_mandatory_uid_that_is_absent_or_empty_is_named(keyword: str, reason: str, value: str | None) -> None:
    assert findings(**{keyword: value})[0] == (reason, keyword)


@pytest.mark.parametrize(("keyword", "longest"), ELEMENT_LENGTHS.items())
@pytest.mark.parametrize("letter", ["1", "é", "山"])
def test_each_length_is_allowed_up_to_its_limit_in_characters(keyword: str, longest: int, letter: str) -> None:
    too_long = ("element_too_long", f"{keyword} is longer than {longest} characters")
    assert too_long not in findings(**{keyword: letter * longest})
    assert too_long in findings(**{keyword: letter * (longest + 1)})
    assert not any(reason == Reason.ELEMENT_TOO_LONG for reason, _ in findings(**{keyword: letter * longest}))


def test_the_limits_are_those_that_aws_gives() -> None:
    assert {
        **dict.fromkeys(("PatientName", "PatientID", "StudyInstanceUID", "StudyID", "StudyDescription"), 256),
        **dict.fromkeys(("AccessionNumber", "SOPInstanceUID", "SeriesInstanceUID"), 256),
        "PatientBirthDate": 18,
        "StudyDate": 18,
        "StudyTime": 28,
        "PatientSex": 16,
    } == ELEMENT_LENGTHS


def test_a_limit_is_a_setting() -> None:
    assert findings(Limits(element_lengths={"StudyID": 4}), StudyID="12345")[0][0] == "element_too_long"
    assert findings(Limits(element_lengths={"StudyID": 5}), StudyID="12345") == []


@pytest.mark.parametrize(
    ("keyword", "limit"),
    [("NumberOfStudyRelatedSeries", "related_series"), ("NumberOfStudyRelatedInstances", "related_instances")],
)
def test_a_count_is_allowed_up_to_its_limit(keyword: str, limit: str) -> None:
    limits = Limits(**{limit: 1000})
    for value in (None, "", "0", "1000", " 1000 ", "-5", "many", "1\\2000"):
        assert findings(limits, **{keyword: value}) == [], value
    for value in ("1001", " 1001 ", "+1001", "9" * 30):
        assert findings(limits, **{keyword: value}) == [("count_out_of_range", f"{keyword} is above 1000")], value
    assert findings(**{keyword: "1000000"}) == []
    assert findings(**{keyword: "1000001"}) != []


def test_a_file_is_allowed_up_to_its_limit() -> None:
    assert findings(Limits(file_bytes=1000), size=1000) == []
    assert findings(Limits(file_bytes=1000), size=1001) == [("file_too_large", "more than 1000 bytes")]


@pytest.mark.parametrize("keyword", ["SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID"])
class TestUids:
    @pytest.mark.parametrize("uid", ["0", "1.2", "2.25.0", "1." + "1" * 62])
    def test_a_legal_one_passes(self, keyword: str, uid: str) -> None:
        assert findings(**{keyword: uid}) == []

    @pytest.mark.parametrize(
        "uid",
        ["01", "1.02", "1..2", ".1", "1.", "1.a", "1,2", "1.2 ", "1.2\n", "1.2\\1.3", "\uff11.2", "1." + "1" * 63],
    )
    def test_an_illegal_one_is_named(self, keyword: str, uid: str) -> None:
        assert findings(**{keyword: uid}) == [("invalid_uid", keyword)]


class TestTransferSyntaxes:
    @pytest.mark.parametrize(
        "suffix",
        [
            "",
            ".1",
            ".1.99",
            ".2",
            ".4.51",
            ".4.57",
            ".4.70",
            ".4.80",
            ".4.81",
            ".4.90",
            ".4.92",
            ".4.93",
            ".4.201",
            ".4.202",
            ".5",
            ".4.50",
            ".4.91",
            ".4.203",
            ".4.100",
            ".4.106",
            ".4.100.1",
            ".4.106.1",
            ".4.107",
            ".4.108",
            ".4.112",
        ],
    )
    def test_a_known_one_passes(self, suffix: str) -> None:
        assert findings(TransferSyntaxUID=BASE + suffix) == []

    @pytest.mark.parametrize(
        "uid", [f"{BASE}.3", f"{BASE}.4.52", f"{BASE}.4.107.1", f"{BASE}.4.109", "1.2.3", f"{BASE}."]
    )
    def test_any_other_is_named(self, uid: str) -> None:
        assert findings(TransferSyntaxUID=uid) == [("unknown_transfer_syntax", "TransferSyntaxUID")]

    def test_there_are_as_many_as_aws_lists(self) -> None:
        assert len(TRANSFER_SYNTAXES) == 15 + 3 + 7 + 7 + 2 + 1


def test_the_first_finding_is_the_gravest() -> None:
    found = findings(SOPInstanceUID="", StudyInstanceUID=None, StudyID="x" * 300, TransferSyntaxUID="1.2")
    assert [reason for reason, _ in found] == [
        "missing_sop_instance_uid",
        "missing_study_instance_uid",
        "element_too_long",
        "invalid_uid",
        "unknown_transfer_syntax",
    ]


def test_no_detail_repeats_a_value() -> None:
    values = {"PatientID": "MUELLER" * 60, "StudyInstanceUID": "MUELLER", "NumberOfStudyRelatedSeries": "77777777"}
    text = str(findings(**values))
    assert "MUELLER" not in text
    assert "7777" not in text


def test_the_rules_work_on_an_empty_delivery() -> None:
    empty = joined()
    for rule in file_rules(Limits()):
        assert empty.select(rule.finds).to_series().dtype == pl.Boolean
