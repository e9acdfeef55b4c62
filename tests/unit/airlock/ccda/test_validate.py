"""Validate of documents: what parse found, twins by ClinicalDocument.id, and what was converted before."""

from __future__ import annotations

import gzip
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest

from airlock.ccda.normalize import normalize
from airlock.ccda.records import DOCUMENT, DOCUMENTS, VERDICTS
from airlock.ccda.validate import validate
from airlock.records import Verdict
from airlock_local.sample.ccda.documents import ccd, entity_bomb
from tests.unit.airlock.ccda.world import PROFILE, ended, parsed, validated, words

if TYPE_CHECKING:
    from airlock.run import Run
    from tests.unit.airlock.world import World

ACCEPTED = ("accept", None)
TWICE = ("duplicate", "duplicate_same_content")
OTHERWISE = ("quarantine", "duplicate_other_content")


def converted(run: Run[Any], version: int = 1) -> None:
    """Tell the ledger that what was accepted is converted and imported."""
    rows = run.workspace.read("verdicts", VERDICTS).filter(pl.col("verdict") == Verdict.ACCEPT)
    named = rows.with_columns(
        resource_type=pl.lit(DOCUMENT), resource_id=pl.col("document_id"), batch_id=pl.lit(None, pl.String)
    )
    run.ledger.record_imported_resources(PROFILE[:-1] + str(version), run.key, named)


def test_every_document_has_one_verdict(world: World) -> None:
    run = parsed(world, {"a.xml": ccd(1), "b.xml": ccd(2), "c.xml": b"x", "notes.txt": b"x", "d.xml": entity_bomb()})
    assert validate(run) == {"accept": 2, "ignore": 1, "quarantine": 2}
    assert words(run) == {
        "a.xml": ACCEPTED,
        "b.xml": ACCEPTED,
        "c.xml": ("quarantine", "not_xml"),
        "d.xml": ("quarantine", "xml_entity"),
        "notes.txt": ("ignore", "sidecar"),
    }


def test_of_equal_twins_the_first_is_taken_packed_or_not(world: World) -> None:
    run = validated(world, {"a.xml.gz": gzip.compress(ccd(1)), **{f"{name}.xml": ccd(1) for name in "bcdefg"}})
    assert words(run) == {"a.xml.gz": ACCEPTED, **{f"{name}.xml": TWICE for name in "bcdefg"}}


@pytest.mark.parametrize("days", [(1, 3), (3, 1)])
def test_of_equal_twins_the_newest_counts(world: World, days: tuple[int, int]) -> None:
    order = {"order": {"across_keys": "key_date"}}
    converted(validated(world, {"2020/01/02/a.xml": ccd(1, problems=2)}, source=order))
    keys = [f"{folder}/2020/01/{day:02}/a.xml" for folder, day in zip("ab", days, strict=True)]
    run = validated(world, dict.fromkeys(keys, ccd(1)), "two", source=order)
    assert words(run) == {key: ACCEPTED if "/03/" in key else TWICE for key in keys}


def test_of_unequal_twins_none(world: World) -> None:
    run = validated(world, {"a.xml": ccd(1), "b.xml": ccd(1, problems=2), "c.xml": ccd(2)})
    assert words(run) == {"a.xml": OTHERWISE, "b.xml": OTHERWISE, "c.xml": ACCEPTED}


def test_a_document_that_was_converted_before_is_a_duplicate(world: World) -> None:
    converted(validated(world, {"a.xml": ccd(1), "b.xml": ccd(2)}))
    run = validated(world, {"a.xml": ccd(1), "b.xml": ccd(2, problems=3), "c.xml": ccd(3)}, "two")
    assert words(run) == {"a.xml": TWICE, "b.xml": ACCEPTED, "c.xml": ACCEPTED}


def test_unless_by_another_version_of_the_profile(world: World) -> None:
    converted(validated(world, {"a.xml": ccd(1)}))
    run = validated(world, {"a.xml": ccd(1)}, "two", transformation={"profile_version": 2})
    assert words(run) == {"a.xml": ACCEPTED}


def test_a_document_that_another_run_has_claimed_is_quarantined(world: World) -> None:
    validated(world, {"a.xml": ccd(1)})
    run = validated(world, {"b.xml": ccd(1), "c.xml": ccd(2)}, "two")
    assert words(run) == {"b.xml": ("quarantine", "instance_claimed"), "c.xml": ACCEPTED}


def test_a_rerun_gives_the_same(world: World) -> None:
    run = validated(world, {"a.xml": ccd(1), "b.xml": ccd(1), "c.xml": ccd(2)})
    first = run.workspace.read("verdicts", VERDICTS)
    validate(run)
    assert run.workspace.read("verdicts", VERDICTS).equals(first)
    converted(run)  # its own conversion is no other's
    validate(run)
    assert run.workspace.read("verdicts", VERDICTS).equals(first)


def test_verdicts_do_not_change_once_a_conversion_was_begun(world: World) -> None:
    run = validated(world, {"a.xml": ccd(1)})
    normalize(run)
    ended(world, run, {})
    run.workspace.write("documents/0000", *_unreadable(run))
    assert validate(run) == {"accept": 1}


def _unreadable(run: Run[Any]) -> tuple[pl.Schema, pl.DataFrame]:
    rows = run.workspace.read("documents/0000", DOCUMENTS).with_columns(reason=pl.lit("not_xml"))
    return DOCUMENTS, rows
