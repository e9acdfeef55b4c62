"""A study is said to be complete only by the word of a list; what is missing of it is counted, each instance once."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import polars as pl
import pytest

from airlock.imaging.completeness import (
    COUNTS,
    EARLIER,
    add_stored,
    compare_counts,
    count_instances,
    count_unattributed,
    describe,
    explain,
    find_holds,
    find_short,
    judge,
    merge_declared,
    read_earlier,
)
from airlock.imaging.contracts import Completeness
from airlock.imaging.declarations import DECLARED
from airlock.ledger.study_counts import STUDY_COUNTS
from airlock.pipelines import DeclaredCount
from airlock.reasons import Reason
from airlock.records import CONTRACTS, DISPOSITIONS
from tests.unit.airlock.world import NIGHT, dicom, frame, outcomes, unread, verdicts

STUDY = "1.1"


def declared(**numbers: Any) -> pl.DataFrame:
    return frame([{"StudyInstanceUID": STUDY, "newest": NIGHT} | numbers], DECLARED)


def merged(now: dict[str, int], **earlier: Any) -> tuple[int | None, str | None]:
    rows = merge_declared(
        pl.Series([STUDY, "1.2"]),
        declared(**now) if now else DECLARED.to_frame(),
        frame([{"StudyInstanceUID": STUDY} | earlier], EARLIER) if earlier else EARLIER.to_frame(),
    )
    assert rows["StudyInstanceUID"].to_list() == [STUDY, "1.2"]
    assert rows["declared"][1] is None
    number, by = rows.select("declared", "declared_by").row(0)
    return number, by


def counted(
    verdict_rows: pl.DataFrame, outcome_rows: pl.DataFrame, waiting: int = 0, quarantined: int = 0, **numbers: Any
) -> pl.DataFrame:
    """Return the counts of one study, with files of other runs."""
    others = {"waiting": waiting, "quarantined": quarantined}
    elsewhere = {
        name: frame([{"StudyInstanceUID": STUDY, "instances": number}], STUDY_COUNTS)
        for name, number in others.items()
        if number
    }
    of_study = merge_declared(pl.Series([STUDY]), declared(**numbers), EARLIER.to_frame())
    return count_instances(of_study, verdict_rows, outcome_rows, elsewhere)


def numbers(counts: pl.DataFrame) -> tuple[int, ...]:
    return counts.select("stored", "waiting", "quarantined").row(0)


def short(stored: int, number: int, by: str = "manifest") -> pl.DataFrame:
    row = {"StudyInstanceUID": STUDY, "declared": number, "declared_by": by, "newest": NIGHT}
    return frame([row | {"stored": stored, "waiting": 0, "quarantined": 0}], COUNTS)


class TestDeclared:
    def test_a_manifest_counts_more_than_headers_and_of_headers_the_greatest_of_all_runs(self) -> None:
        assert merged({}) == (None, None)
        assert merged({"header": 3}) == (3, "header")
        assert merged({"header": 3, "manifest": 2}) == (2, "manifest")
        assert merged({"header": 3}, earlier=5, earlier_by="header") == (5, "header")
        assert merged({"header": 7}, earlier=5, earlier_by="manifest") == (5, "manifest")
        assert merged({"manifest": 4}, earlier=5, earlier_by="manifest") == (4, "manifest")

    def test_it_is_read_from_earlier_contracts_that_have_it(self) -> None:
        texts = {"1.1": '{"completeness": {"declared": 300, "declared_by": "header"}}', "1.2": "{}"}
        contracts = frame([{"subject": uid, "contract": text} for uid, text in texts.items()], CONTRACTS)
        assert read_earlier(contracts).rows() == [("1.1", 300, "header")]


class TestCounts:
    def test_each_instance_counts_once_whatever_became_of_it(self) -> None:
        a, b, c = dicom("a"), dicom("b"), dicom("c")
        twin = dicom("twin", SOPInstanceUID=c["SOPInstanceUID"])
        without_uid = dicom("without", SOPInstanceUID="")
        stopped = verdicts(c, twin, without_uid, verdict="quarantine", reason="element_too_long")
        duplicate = verdicts(dicom("again", SOPInstanceUID=a["SOPInstanceUID"]), verdict="duplicate")
        rows = pl.concat([verdicts(a, b), stopped, duplicate, verdicts(unread("u", "not_dicom"), verdict="quarantine")])
        facts = pl.concat([outcomes(a), outcomes(b, outcome="rejected")])
        assert numbers(counted(rows, facts)) == (1, 0, 3)

    def test_what_comes_again_or_is_doubtful_is_waiting(self) -> None:
        claimed = verdicts(dicom("a"), verdict="quarantine", reason="instance_claimed")
        doubtful = [
            verdicts(dicom(name), verdict="quarantine", reason="identity_changed", duplicate_of=first)
            for name, first in (("b", None), ("c", "another file"))
        ]
        odd = outcomes(dicom("d"), outcome="non_primary")
        assert numbers(counted(pl.concat([claimed, *doubtful]), odd)) == (1, 2, 0)

    def test_files_of_other_runs_count(self) -> None:
        counts = counted(verdicts(dicom("a")), outcomes(dicom("a")), waiting=2, quarantined=3, manifest=9)
        assert numbers(counts) == (1, 2, 3)
        assert find_short(counts).to_list() == [STUDY]
        stored = add_stored(counts, frame([{"StudyInstanceUID": STUDY, "instances": 3}], STUDY_COUNTS))
        assert find_short(stored).is_empty()

    def test_a_study_of_fifty_thousand_instances_lacks_one(self) -> None:
        files = verdicts(dicom("a")).select(pl.all().repeat_by(49_999)).explode(pl.all())
        files = files.with_columns(
            SOPInstanceUID=pl.format("1.1.1.{}", pl.int_range(pl.len())),
            arrival_id=pl.int_range(pl.len()).cast(pl.String),
        )
        facts = outcomes(dicom("a")).drop("arrival_id", "SOPInstanceUID", "StudyInstanceUID")
        facts = files.select("arrival_id", "SOPInstanceUID", "StudyInstanceUID").join(facts, how="cross")
        counts = counted(files, facts, manifest=50_000)
        assert compare_counts(counts).select("known", "declared", "is").rows() == [(49_999, 50_000, "fewer")]


class TestHolds:
    @pytest.mark.parametrize(
        ("by", "policy", "held"),
        [
            ("manifest", {}, True),
            ("manifest", {"manifest": "warn"}, False),
            ("header", {}, False),
            ("header", {"header": "hold"}, True),
        ],
    )
    def test_fewer_hold_as_the_policy_for_their_source_says(self, by: str, policy: dict[str, str], held: bool) -> None:
        found = find_holds(short(298, 300, by), DeclaredCount(**policy), NIGHT)
        assert found == ({Reason.FEWER_THAN_DECLARED: [(STUDY, "298 of 300")]} if held else {})

    @pytest.mark.parametrize("stored", [300, 301])
    def test_as_many_or_more_hold_nothing(self, stored: int) -> None:
        assert find_holds(short(stored, 300), DeclaredCount(), NIGHT) == {}

    @pytest.mark.parametrize(("then", "after"), [("hold", ["fewer_than_declared"]), ("release_partial", [])])
    def test_a_study_waits_from_its_newest_file_on(self, then: str, after: list[str]) -> None:
        policy = DeclaredCount.model_validate({"wait_hours": 24, "then": then})
        soon, late = NIGHT + timedelta(hours=23), NIGHT + timedelta(hours=25)
        assert list(find_holds(short(1, 2), policy, soon)) == ["awaiting_declared"]
        assert list(find_holds(short(1, 2), policy, late)) == after

    def test_the_detail_says_how_many_of_how_many(self) -> None:
        rows = [
            {"key": name, "reason": reason, "study_instance_uid": STUDY, "detail": None}
            for name, reason in (("a", "fewer_than_declared"), ("b", "truncated"))
        ]
        said = explain(frame(rows, DISPOSITIONS), short(298, 300))
        assert dict(said.select("key", "detail").rows()) == {"a": "298 of 300", "b": None}
        assert said.schema == DISPOSITIONS


@pytest.mark.parametrize(
    ("released", "facts", "state"),
    [
        (3, {}, "unknown"),
        (3, {"declared": 3, "declared_by": "header"}, "unknown"),
        (3, {"declared": 3, "declared_by": "manifest"}, "complete"),
        (4, {"declared": 3, "declared_by": "manifest"}, "complete"),
        (2, {"declared": 3, "declared_by": "header"}, "partial"),
        (3, {"declared": 3, "declared_by": "manifest", "waiting": 1}, "partial"),
        (3, {"quarantined": 1}, "partial"),
        (3, {"unattributed": 1}, "unknown"),
    ],
)
def test_the_contract_says_how_complete_it_is(released: int, facts: dict[str, Any], state: str) -> None:
    empty = {"declared": None, "declared_by": None, "waiting": 0, "quarantined": 0, "unattributed": 0}
    said = judge(released, empty | facts)
    assert said["state"] == state
    assert said["known"] == released + facts.get("waiting", 0) + facts.get("quarantined", 0)
    Completeness.model_validate(said)


def test_unread_files_of_its_sites_may_belong_to_a_study() -> None:
    rows = verdicts(
        dicom("north/a"), dicom("south/b"), dicom("north/c", StudyInstanceUID="1.2"), unread("north/d", "x")
    )
    site = pl.col("key").str.split("/").list.get(1)
    found = count_unattributed(rows, site, {"north": 2, "south": 3, "east": 9})
    assert found == {"1.1": 5, "1.2": 2}
    assert count_unattributed(rows, site, {}) == {}
    assert describe(short(1, 2), found)["1.1"]["unattributed"] == 5
