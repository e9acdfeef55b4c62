"""Audit of a conversion: every document accounted for by the files that its job left, and handed on with its reason."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from airlock.ccda.audit import STOPPED_SHARD, audit
from airlock.ccda.normalize import normalize
from airlock.ccda.records import CONVERSIONS, FOLDER
from airlock.clinical.audit import audit as audit_units
from airlock.clinical.normalize import normalize as normalize_units
from airlock.clinical.parse import parse
from airlock.clinical.records import VERDICTS as UNITS
from airlock.clinical.validate import validate
from airlock.ledger import Job
from airlock.records import ARRIVALS
from airlock.stages.batches import find_batches
from airlock.stages.buffer import find_shards
from airlock.stages.resources import FILES
from airlock_local.sample.ccda.documents import ccd
from tests.ledger_rows import count_arrivals
from tests.unit.airlock.ccda.world import Left, ended, names, normalized, parsed
from tests.unit.airlock.clinical.books import Store, observation, patient
from tests.unit.airlock.clinical.books import ended as imported
from tests.unit.airlock.clinical.books import words as unit_words

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airlock.pipelines import CcdaPipeline
    from airlock.run import Run
    from airlock.stages.auditing import Audited
    from tests.unit.airlock.world import World


def audited(
    world: World, left: Mapping[str, Left], *, ends: dict[str, Any] | None = None, **changes: Any
) -> Run[CcdaPipeline]:
    """Take documents through a conversion that leaves this of each, and account for them."""
    run = normalized(world, {f"{name}.xml": ccd(number) for number, name in enumerate(left)}, **changes)
    ended(world, run, {f"{name}.xml": each for name, each in left.items()}, **(ends or {}))
    audit(run)
    return run


def conversions(run: Run[CcdaPipeline]) -> dict[str, dict[str, Any]]:
    named = names(run)
    rows = run.workspace.read("conversions", CONVERSIONS).iter_rows(named=True)
    return {named[row["arrival_id"]].removesuffix(".xml"): row for row in rows}


def told(run: Run[CcdaPipeline], name: str = "a") -> tuple[str | None, str | None]:
    return conversions(run)[name]["reason"], conversions(run)[name]["detail"]


class TestDocuments:
    def test_a_result_goes_on_whether_or_not_it_is_named_with_the_inputs_ending(self, world: World) -> None:
        run = audited(world, {"a": Left(), "b": Left(ending=".xml")})
        for name, file in (("a", "000000.ndjson"), ("b", "000001.xml.ndjson")):
            row = conversions(run)[name]
            assert (row["reason"], row["detail"], row["bucket"]) == (None, None, "work")
            assert row["key"].endswith(f"/converted/{file}")
            assert row["size"] > 0

    def test_an_error_or_nothing_at_all_has_a_reason_and_the_rest_goes_on(self, world: World) -> None:
        left = {
            "said": (Left(None, "no structuredBody"), "conversion_failed", "no structuredBody"),
            "ending": (Left(None, "no structuredBody", ending=".xml"), "conversion_failed", "no structuredBody"),
            "long": (Left(None, "x" * 900), "conversion_failed", "x" * 500),
            "garbage": (Left(None, b"not json"), "conversion_failed", None),
            "list": (Left(None, b"[1]"), "conversion_failed", None),
            "nothing": (Left(None), "conversion_missing", None),
            "sound": (Left(), None, None),
        }
        run = audited(world, {name: each for name, (each, *_) in left.items()})
        assert {name: told(run, name) for name in left} == {name: tuple(word) for name, (_, *word) in left.items()}
        assert [name for name, row in conversions(run).items() if row["key"]] == ["sound"]

    def test_an_error_beside_a_result_counts(self, world: World) -> None:
        run = audited(world, {"a": Left([patient("p1")], "half of it"), "b": Left()})
        assert told(run) == ("conversion_failed", "half of it")
        assert told(run, "b") == (None, None)

    @pytest.mark.parametrize(
        ("least", "drifted"),
        [(0.8, ["less", "none", "text"]), (0.0, []), (1.0, ["just", "less", "most", "none", "text"])],
    )
    def test_coverage_has_to_be_what_the_pipeline_asks_for(
        self, world: World, least: float, drifted: list[str]
    ) -> None:
        left = {"all": 1, "most": 0.9, "just": 0.8, "less": 0.79, "none": None, "text": "0.9"}
        run = audited(
            world,
            {name: Left(coverage=coverage) for name, coverage in left.items()},
            transformation={"min_coverage": least},
        )
        found = conversions(run)
        assert sorted(name for name, row in found.items() if row["reason"] == "conversion_drift") == drifted
        assert {name: row["coverage"] for name, row in found.items()} == left | {"text": None}

    @pytest.mark.parametrize("count", ["TotalFilesScanned", "TotalFilesConverted", "TotalFilesFailed"])
    def test_counts_that_contradict_the_files_stop_all_results(self, world: World, count: str) -> None:
        run = audited(world, {"a": Left(None, "broken"), "b": Left(), "c": Left()}, ends={count: 7})
        assert told(run) == ("conversion_failed", "broken")
        assert told(run, "b") == told(run, "c") == ("job_counts_disagree", None)

    def test_a_job_without_counts_is_judged_by_its_files(self, world: World) -> None:
        run = normalized(world, {"a.xml": ccd(1)})
        ended(world, run, {})
        (batch,) = find_batches(run)
        run.workspace.write_json(f"jobs/{batch.batch_id}/progress.json", {"profile_version": 1})
        audit(run)
        assert told(run) == (None, None)

    def test_a_job_that_failed_is_told_with_its_message_where_it_left_nothing(self, world: World) -> None:
        left = {"a": Left(None), "b": Left()}
        run = audited(world, left, ends={"status": "FAILED", "message": "no access to the key"})
        assert told(run) == ("job_failed", "no access to the key")
        assert told(run, "b") == (None, None)  # status proves nothing, files do

    def test_without_a_job_nothing_goes_on(self, world: World) -> None:
        run = normalized(world, {"a.xml": ccd(1)})
        audit(run)
        assert told(run) == ("job_not_started", None)
        (batch,) = find_batches(run)
        world.ledger.record_job(Job(batch.batch_id, 0, run.key, "token", "job-1", input_uri=batch.input_uri))
        audit(run)
        assert told(run) == ("job_unfinished", None)

    def test_a_document_that_could_not_be_staged_keeps_its_reason(self, world: World) -> None:
        run = normalized(world, {"a.xml": ccd(1), "b.xml": ccd(2)}, "two")
        assert find_batches(run)
        world.put("s3://archive/in/two/a.xml", ccd(7))
        normalize(run)
        ended(world, run, {})
        audit(run)
        assert told(run) == ("object_changed", None)
        assert told(run, "b") == (None, None)

    def test_the_summary_counts_and_names_the_profile(self, world: World) -> None:
        run = audited(world, {"a": Left(coverage=0.5), "b": Left(coverage=1.0), "c": Left(None, "x")})
        summary = json.loads(run.s3.get(run.workspace.root.join("conversion.json")))
        assert summary == {
            "preview": True,
            "profile_id": "a" * 32,
            "profile_version": 1,
            "documents": 3,
            "sent": 3,
            "converted": 2,
            "lowest_coverage": 0.5,
            "mean_coverage": 0.75,
        }


NO_READ_BACK = {"read_back_sample": 0, "manifest_wait_seconds": 0}
FILES_OF_ALL_KINDS = {
    "a.xml": ccd(1),
    "b.xml": ccd(2),
    "c.xml": ccd(3),
    "twin.xml": ccd(1),
    "bad.xml": b"x",
    "notes.txt": b"x",
}


def handed_on(run: Run[CcdaPipeline]) -> tuple[dict[str, str], dict[str, str | None]]:
    """Return the shard of each document in the leg, and the reasons of those that are aside."""
    leg, named = run.within(FOLDER), names(run)
    shards = {
        named[arrival]: shard
        for shard in find_shards(leg)
        for arrival in leg.workspace.read(f"arrivals/{shard}", ARRIVALS)["arrival_id"]
    }
    aside = leg.workspace.read(f"files/{STOPPED_SHARD}", FILES)
    return shards, {named[arrival]: reason for arrival, reason in aside.select("arrival_id", "reason").iter_rows()}


def carried_on(world: World, run: Run[CcdaPipeline]) -> Audited:
    """Audit the conversions, and take what goes on through its own stages; its jobs bring in all they are sent."""
    leg = run.within(FOLDER)
    for shard in audit(run):
        parse(leg, shard)
    validate(leg, None)
    normalize_units(leg, run.pipeline.healthlake)
    imported(world, leg)
    return audit_units(leg, Store())


class TestTheLeg:
    def test_every_document_is_in_it_once_with_its_result_or_its_reason(self, world: World) -> None:
        run = normalized(world, FILES_OF_ALL_KINDS, parse={"shard_size": 1})
        ended(world, run, {"b.xml": Left(None, "broken")})
        assert audit(run) == ["0000", "0001"]
        shards, reasons = handed_on(run)
        assert shards.keys() == FILES_OF_ALL_KINDS.keys()
        assert {name for name, shard in shards.items() if shard != STOPPED_SHARD} == {"a.xml", "c.xml"}
        assert reasons == {
            "b.xml": "conversion_failed",
            "bad.xml": "not_xml",
            "notes.txt": "sidecar",
            "twin.xml": "duplicate_same_content",
        }

    def test_its_stages_close_the_books_over_every_document(self, world: World) -> None:
        run = normalized(world, FILES_OF_ALL_KINDS)
        left = {
            "a.xml": Left([patient("p1"), observation("o1", "p1")]),
            "b.xml": Left(None, "x"),
            "c.xml": Left([]),
        }
        ended(world, run, left)
        leg = run.within(FOLDER)
        for shard in audit(run):
            parse(leg, shard)
        assert validate(leg, None) == {"accept": 2, "duplicate": 1, "ignore": 1, "quarantine": 3}
        named = names(run)
        rows = leg.workspace.read("verdicts", UNITS).iter_rows(named=True)
        assert {(named[row["arrival_id"]], row["resource_id"], row["reason"]) for row in rows} == {
            ("a.xml", "p1", None),
            ("a.xml", "o1", None),
            ("b.xml", None, "conversion_failed"),
            ("c.xml", None, "empty_object"),
            ("bad.xml", None, "not_xml"),
            ("notes.txt", None, "sidecar"),
            ("twin.xml", None, "duplicate_same_content"),
        }

    def test_nothing_converted_leaves_all_aside(self, world: World) -> None:
        run = normalized(world, {"bad.xml": b"x"})
        assert audit(run) == []
        assert handed_on(run) == ({"bad.xml": STOPPED_SHARD}, {"bad.xml": "not_xml"})

    def test_of_a_run_that_broke_off_before_it_decided_everything_is_undecided(self, world: World) -> None:
        run = parsed(world, {"a.xml": ccd(1)})
        assert audit(run) == []
        assert handed_on(run)[1] == {"a.xml": "undecided"}

    @pytest.mark.parametrize(("job_id", "reason"), [("job-one-1", "job_unfinished"), (None, "job_not_started")])
    def test_nothing_goes_on_before_every_conversion_has_ended(
        self, world: World, job_id: str | None, reason: str
    ) -> None:
        files = {"a.xml": ccd(1), "b.xml": ccd(2), "bad.xml": b"x"}
        run = normalized(world, files, transformation={"documents_per_job": 1}, audit=NO_READ_BACK)
        ended(world, run, {"a.xml": Left([patient("p1")])}, batches=1)
        late = find_batches(run)[1]
        world.ledger.record_job(Job(late.batch_id, 0, run.key, "token", job_id, input_uri=late.input_uri))
        first = carried_on(world, run)
        assert handed_on(run) == (
            dict.fromkeys(files, STOPPED_SHARD),
            {"a.xml": "undecided", "b.xml": reason, "bad.xml": "not_xml"},
        )
        assert (first.balanced, first.open_arrivals) == (True, 2)
        assert unit_words(run.within(FOLDER)) == {
            "a.xml:": ("failed", "undecided"),
            "b.xml:": ("failed", reason),
            "bad.xml:": ("quarantined", "not_xml"),
        }
        assert count_arrivals(world.ledger, "records") == {"claimed": 2, "quarantined": 1}

        ended(world, run, {"a.xml": Left([patient("p1")]), "b.xml": Left([patient("p2")])})
        last = carried_on(world, run)
        assert (last.balanced, last.open_arrivals) == (True, 0)
        assert unit_words(run.within(FOLDER)) == {
            "Patient/p1": ("held", "awaiting_review"),
            "Patient/p2": ("held", "awaiting_review"),
            "bad.xml:": ("quarantined", "not_xml"),
        }

    def test_the_converted_files_do_not_change_once_their_import_was_begun(self, world: World) -> None:
        run = normalized(world, {"a.xml": ccd(1), "b.xml": ccd(2)}, audit=NO_READ_BACK)
        ended(world, run, {"a.xml": Left([patient("p1")]), "b.xml": Left(None, "broken")})
        carried_on(world, run)
        before = handed_on(run), conversions(run)
        ended(world, run, {"a.xml": Left(None, "broken"), "b.xml": Left([patient("p2")])})
        assert carried_on(world, run).balanced
        assert (handed_on(run), conversions(run)) == before

    def test_auditing_again_gives_the_same(self, world: World) -> None:
        run = normalized(world, FILES_OF_ALL_KINDS)
        ended(world, run, {"b.xml": Left(None, "broken", coverage=0.3)})
        first = audit(run), handed_on(run), conversions(run)
        assert (audit(run), handed_on(run), conversions(run)) == first
