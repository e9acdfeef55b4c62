"""Resources that refer to ones which are not there yet wait for them, and come in when these are released."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest

from airlock.clinical import settle as settling
from airlock.clinical.audit import audit
from airlock.clinical.contracts import ClinicalContract
from airlock.clinical.normalize import normalize
from airlock.clinical.parked import ParkedUnits, read_taken, sweep_bodies, take_in
from airlock.clinical.parse import parse
from airlock.clinical.records import TAKEN
from airlock.clinical.redrive import RULES
from airlock.clinical.rows import RowReader
from airlock.clinical.validate import validate
from airlock.ledger.origin_words import ORIGINS
from airlock.ledger.release import release_run
from airlock.run import RedriveRequest, Run
from airlock.stages.buffer import buffer
from airlock.stages.redrive import redrive
from airlock.stages.resources import DISPOSITIONS
from airlock.storage.s3uri import S3Uri
from airlock.storage.workspace import DatasetWriter
from tests.ledger_rows import read_dispositions
from tests.servers.objects import date_objects
from tests.unit.airlock.clinical.books import (
    STORE,
    Line,
    ended,
    observation,
    organization,
    patient,
    pipeline,
    put,
    rejected,
    words,
)
from tests.unit.airlock.clinical.books import Store as Reader
from tests.unit.airlock.clinical.world import Store
from tests.unit.airlock.world import frame

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airlock.pipelines import ClinicalPipeline
    from tests.unit.airlock.world import World

P1, O1 = patient("p1"), observation("o1", "p1")
WAITS, RELEASED = ("parked", "waiting_for_resource"), ("released", None)
TURN = ("parked", "waiting_for_turn")
NEWER, TOO_LONG = ("ignored", "newer_content"), ("quarantined", "waited_too_long")
NOBODY = Reader()
BY_UPDATE = {"order": {"across_keys": "last_updated"}}
ONE_A_RUN: dict[str, Any] = {"validation": {"park_units_per_run": 1}}


def named(resource_type: str, resource_id: str) -> pl.DataFrame:
    return pl.DataFrame({"resource_type": [resource_type], "resource_id": [resource_id]})


def asking(name: str, number: str) -> dict[str, Any]:
    return observation(name, "x", subject={"reference": f"Patient?identifier=urn:mrn|{number}"})


def allergy(**more: Any) -> dict[str, Any]:
    return {"resourceType": "AllergyIntolerance", "id": "a1", "patient": {"reference": "Patient/p1"}} | more


def encounter(name: str = "e1", of: str = "p1", **more: Any) -> dict[str, Any]:
    kind = {"system": "http://terminology.hl7.org/CodeSystem/v3-ActCode", "code": "AMB"}
    base = {"resourceType": "Encounter", "id": name, "status": "finished", "class": kind}
    return base | {"subject": {"reference": f"Patient/{of}"}} | more


def begun(
    world: World, run_id: str, *resources: Any, store: Store | None = None, **changes: Any
) -> Run[ClinicalPipeline]:
    """Deliver resources as one file, and take them and what is due up to the import."""
    settings = pipeline(**{"audit": {"read_back_sample": 0}} | changes)
    run = Run(settings, run_id, None, S3Uri("archive", f"in/{run_id}/"), world.s3, world.ledger)
    put(world, run_id, {"a.ndjson": list(resources)} if resources else {})
    take_through(run, store)
    return run


def take_through(run: Run[ClinicalPipeline], store: Store | None = None) -> None:
    """Take a run from buffer up to the import."""
    for shard in buffer(run, partial(take_in, run)).shards:
        parse(run, shard)
    validate(run, store)
    normalize(run, run.pipeline.healthlake)


def night(
    world: World, run_id: str, *resources: Any, lines: dict[str, Line | None] | None = None, **changes: Any
) -> Run[ClinicalPipeline]:
    """Take resources, and what is due, through to the end of their audit."""
    run = begun(world, run_id, *resources, **changes)
    ended(world, run, lines)
    assert audit(run, NOBODY).balanced
    return run


def redriven(world: World, **changes: Any) -> Run[ClinicalPipeline]:
    """Redrive what has waited too long, through to the end of its audit."""
    settings = pipeline(**{"audit": {"read_back_sample": 0}} | changes)
    request = RedriveRequest("ada", "it has come", reasons=("waited_too_long",))
    plain = Run(settings, "again", None, S3Uri("archive", "in/"), world.s3, world.ledger)
    run = replace(plain, redrive=request)
    redrive(run, request, RULES)
    take_through(run)
    ended(world, run)
    assert audit(run, NOBODY).balanced
    return run


def bodies(world: World) -> list[str]:
    return [item.key for item in world.s3.list_objects(S3Uri("work", "runs/records/parked/"))]


def dispositions(run: Run[ClinicalPipeline]) -> list[str]:
    return run.workspace.read("dispositions", DISPOSITIONS)["disposition"].sort().to_list()


def said(world: World, run: Run[ClinicalPipeline]) -> list[tuple[str, str | None]]:
    """Return the words on a run's files."""
    found = read_dispositions(world.ledger, run.pipeline.name, run.key)
    return found.select("disposition", "reason").rows()


def completeness(world: World, run: Run[ClinicalPipeline]) -> Any:
    (text,) = world.ledger.contracts(run.pipeline.datastore_id, pl.Series(["Patient/p1"]))["contract"]
    return ClinicalContract.model_validate_json(text).completeness


def later(monkeypatch: pytest.MonkeyPatch, run: Run[ClinicalPipeline], days: int) -> None:
    """Move the database's clock forward."""
    now = run.ledger.database_time() + timedelta(days=days)
    monkeypatch.setattr("airlock.ledger.resources.database_time", lambda _: now)


class TestWaiting:
    def test_it_is_parked_and_comes_in_a_night_after_the_other_one(self, world: World) -> None:
        assert words(night(world, "one", O1)) == {"Observation/o1": WAITS}
        assert len(bodies(world)) == 1
        assert words(night(world, "two", P1)) == {"Patient/p1": RELEASED}
        assert words(night(world, "three")) == {"Observation/o1": RELEASED}
        assert words(night(world, "four")) == {}
        assert bodies(world) == []
        assert world.ledger.count_parked("records").is_empty()

    def test_what_refers_to_a_waiting_one_waits_too_and_comes_with_it(self, world: World) -> None:
        visit = {"encounter": {"reference": "Encounter/e1"}}
        night(world, "one", observation("o1", "p1", **visit))
        assert words(night(world, "two", encounter(), observation("o2", "p1", **visit)))["Encounter/e1"] == WAITS
        night(world, "three", P1)
        found = words(night(world, "four"))
        assert found == dict.fromkeys(("Observation/o1", "Observation/o2", "Encounter/e1"), RELEASED)

    def test_a_circle_comes_in_when_its_last_member_is_there(self, world: World) -> None:
        night(world, "one", P1, observation("o1", "p1", derivedFrom=[{"reference": "Observation/o2"}]))
        last = observation("o2", "p1", hasMember=[{"reference": "Observation/o1"}])
        assert words(night(world, "two", last)) == {"Observation/o2": WAITS}
        assert words(night(world, "three")) == {"Observation/o1": RELEASED, "Observation/o2": RELEASED}

    def test_a_circle_of_one_delivery_comes_in_with_what_all_of_it_lacks(self, world: World) -> None:
        first = observation("o1", "p1", derivedFrom=[{"reference": "Observation/o2"}])
        last = observation("o2", "p1", hasMember=[{"reference": "Observation/o1"}])
        night(world, "one", first, last)
        night(world, "two", P1)
        assert words(night(world, "three")) == {"Observation/o1": RELEASED, "Observation/o2": RELEASED}

    def test_another_pipeline_may_bring_what_is_missing(self, world: World) -> None:
        night(world, "one", O1)
        night(world, "two", P1, name="other")
        assert words(night(world, "three", name="other")) == {}
        assert words(night(world, "four")) == {"Observation/o1": RELEASED}

    def test_when_that_is_rejected_it_waits_on(self, world: World) -> None:
        night(world, "one", O1)
        refused = night(world, "two", P1, lines={"Patient/p1": rejected()})
        assert words(refused) == {"Patient/p1": ("failed", "rejected")}
        assert words(night(world, "three")) == {}
        night(world, "four", patient("p1", gender="other"))
        assert words(night(world, "five")) == {"Observation/o1": RELEASED}

    def test_only_the_types_of_park_on_are_waited_for(self, world: World) -> None:
        by = {"performer": [{"reference": "Practitioner/d1"}, {"reference": "Organization/c1"}]}
        run = night(world, "one", P1, observation("o1", "p1", **by), organization("c2"))
        assert words(run)["Observation/o1"] == ("released", "dangling_reference")
        report = json.loads(run.s3.get(run.workspace.root.join("audit/report.json")))
        assert report["dangling_references"] == {"Organization": 1, "Practitioner": 1}
        run = night(world, "two", observation("o2", "p1", **by), validation={"park_on": ["Practitioner"]})
        assert words(run) == {"Observation/o2": WAITS}

    def test_one_of_another_type_that_waits_itself_is_noted_unless_the_data_store_has_it(self, world: World) -> None:
        def device(of: str) -> dict[str, Any]:
            return {"resourceType": "Device", "id": "d1", "patient": {"reference": f"Patient/{of}"}}

        by = {"device": {"reference": "Device/d1"}}
        found = words(night(world, "one", P1, device("p2"), observation("o1", "p1", **by)))
        assert (found["Device/d1"], found["Observation/o1"]) == (WAITS, ("released", "dangling_reference"))
        night(world, "two", patient("p2"))
        assert words(night(world, "three")) == {"Device/d1": RELEASED}
        found = words(night(world, "four", device("p3"), observation("o2", "p1", **by)))
        assert (found["Device/d1"], found["Observation/o2"]) == (WAITS, RELEASED)

    def test_no_more_comes_in_than_a_run_may_take(self, world: World) -> None:
        night(world, "one", *(observation(f"o{number}", "p1") for number in range(3)))
        night(world, "two", P1)
        few = {"validation": {"park_units_per_run": 2}}
        assert [len(words(night(world, run_id, **few))) for run_id in ("three", "four", "five")] == [2, 1, 0]

    @pytest.mark.parametrize("limits", [{"unpacked_mib": 300 / 2**20}, {"max_faulty": 1}])
    def test_objects_are_no_larger_than_parse_reads_by_now(self, world: World, limits: dict[str, float]) -> None:
        night(world, "one", *(observation(f"o{number}", "p1") for number in range(3)))
        night(world, "two", P1)
        lost = "max_faulty" in limits
        world.s3.delete("work", bodies(world) if lost else [])
        run = night(world, "three", parse=limits)
        assert set(words(run).values()) == {TOO_LONG if lost else RELEASED}
        assert len(said(world, run)) == 3
        assert words(night(world, "four")) == {}

    def test_a_reference_within_a_bundle_is_kept_as_it_was_resolved(self, world: World) -> None:
        urn = "urn:uuid:11111111-2222-4333-8444-555555555555"
        inside = {"fullUrl": urn, "resource": encounter()}
        outside = {"resource": observation("o1", "p1", encounter={"reference": urn})}
        night(world, "one", {"resourceType": "Bundle", "type": "collection", "entry": [inside, outside]})
        night(world, "two", P1)
        run = night(world, "three")
        assert words(run) == {"Encounter/e1": RELEASED, "Observation/o1": RELEASED}

    def test_what_nobody_answers_does_not_keep_out_what_is_due(self, world: World) -> None:
        """One Observation whose Patient never comes is asked about each night; another one's has come."""
        night(world, "one", asking("o0", "404"))
        (counted,) = world.ledger.count_parked().to_dicts()
        night(world, "two", O1)
        night(world, "three", P1)
        found = [words(night(world, f"n{number}", **ONE_A_RUN)) for number in range(4)]
        assert {"Observation/o1": RELEASED} in found
        assert (counted["waits_for_type"], counted["resources"]) == ("Patient", 1), "whose id nobody knows"

    def test_a_target_that_is_released_and_gone_again_is_waited_for_again(self, world: World) -> None:
        night(world, "one", O1)
        run = night(world, "two", P1)
        key = named("Patient", "p1")
        world.ledger.forget_resources(STORE, run.key, key)
        known = world.ledger.known_resources(STORE, key).height
        found = [words(night(world, name)) for name in ("three", "four", "five")]
        assert known == 0
        assert {"Observation/o1": RELEASED} not in found
        night(world, "six", patient("p1", gender="female"))
        assert words(night(world, "seven")) == {"Observation/o1": RELEASED}


class TestRepeating:
    def test_no_verdict_lets_it_wait_before_it_is_kept(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        commit = DatasetWriter.commit

        def end_between(writer: DatasetWriter) -> None:
            if writer._dataset == "parked":
                raise RuntimeError("the task was killed")
            commit(writer)

        monkeypatch.setattr(DatasetWriter, "commit", end_between)
        with pytest.raises(RuntimeError):
            begun(world, "one", O1)
        run = Run(pipeline(), "one", None, S3Uri("archive", "in/one/"), world.s3, world.ledger)
        assert not run.workspace.is_committed("verdicts")

    def test_a_run_gives_the_same_again_from_any_stage(self, world: World) -> None:
        run = night(world, "one", O1)
        audit(run, NOBODY)
        validate(run, None)
        audit(run, NOBODY)
        assert world.ledger.count_parked("records")["resources"].to_list() == [1]
        night(world, "two", P1)
        night(world, "three")
        audit(run, NOBODY)
        assert words(night(world, "four")) == {}

    def test_one_that_took_it_in_does_so_too(self, world: World) -> None:
        night(world, "one", O1)
        night(world, "two", P1)
        run = begun(world, "three")
        assert len(buffer(run, partial(take_in, run)).shards) == 1
        ended(world, run)
        for _ in range(2):
            audit(run, NOBODY)
            assert words(run) == {"Observation/o1": RELEASED}

    def test_while_a_run_has_it_the_next_one_does_not_take_it(self, world: World) -> None:
        night(world, "one", O1)
        night(world, "two", P1)
        run = begun(world, "three")
        assert words(night(world, "four")) == {}
        ended(world, run)
        audit(run, NOBODY)
        assert words(run) == {"Observation/o1": RELEASED}

    def test_what_a_run_gives_back_the_next_one_takes(self, world: World) -> None:
        night(world, "one", O1)
        night(world, "two", P1)
        lost = Run(pipeline(), "three", None, S3Uri("archive", "in/three/"), world.s3, world.ledger)
        buffer(lost, partial(take_in, lost))
        release_run(world.ledger, "records", lost.key, jobs_ended=True)
        assert words(night(world, "four")) == {"Observation/o1": RELEASED}

    def test_one_that_ends_before_its_listing_takes_it_in_all_the_same(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        night(world, "one", O1)
        night(world, "two", P1)
        claims: list[Any] = []

        def end_before(*given: Any) -> None:
            claims.append(given)
            raise RuntimeError("the task was killed")

        with monkeypatch.context() as patch:
            patch.setattr(world.ledger, "claim", end_before)
            with pytest.raises(RuntimeError):
                begun(world, "three", encounter())
        assert len(claims) == 1, "of the listing"
        assert words(night(world, "three")) == {"Encounter/e1": RELEASED, "Observation/o1": RELEASED}

    def test_two_at_once_share_it(self, world: World) -> None:
        """The second finds that the first was faster when it claims, and chooses anew."""
        night(world, "one", O1, encounter("e1"))
        night(world, "two", P1)
        first, second = (
            Run(pipeline(), run_id, None, S3Uri("archive", "in/none/"), world.s3, world.ledger) for run_id in ("3", "4")
        )
        chosen = []

        def overtaken() -> Any:
            taken = take_in(second)
            if not chosen:
                buffer(first, partial(take_in, first))
            chosen.append(taken)
            return taken

        assert buffer(second, overtaken).arrivals == 0
        assert [taken is None for taken in chosen] == [False, True]
        assert read_taken(first).height == 2

    def test_one_that_is_killed_between_its_books_and_the_bodies_loses_nothing(self, world: World) -> None:
        """It is repeated after another run."""
        night(world, "one", O1, encounter(), observation("o2", "p2"))
        night(world, "two", P1)
        run = begun(world, "three")
        ended(world, run)

        def killed(*_: Any) -> None:
            raise KeyboardInterrupt

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(settling, "remove_bodies", killed)
            with pytest.raises(KeyboardInterrupt):
                audit(run, NOBODY)
        assert words(night(world, "four", patient("p2"))) == {"Patient/p2": RELEASED}
        assert audit(run, NOBODY).balanced
        assert words(night(world, "five")) == {"Observation/o2": RELEASED}
        assert bodies(world) == []


def as_of(day: int, status: str, **more: Any) -> dict[str, Any]:
    return observation("o1", "p1", status=status, meta={"lastUpdated": f"2026-01-{day:02}T00:00:00Z"}, **more)


class TestNewestWins:
    def test_a_parked_content_does_not_become_newer_by_waiting(self, world: World) -> None:
        night(world, "one", observation("o1", "p1", status="preliminary"))
        night(world, "two", P1, observation("o1", "p1", status="final"))
        assert words(night(world, "three")) == {"Observation/o1": NEWER}

    def test_older_content_comes_in_before_it_but_not_after_it(self, world: World) -> None:
        waits = as_of(9, "final", encounter={"reference": "Encounter/e1"})
        assert words(night(world, "one", P1, waits, source=BY_UPDATE))["Observation/o1"] == WAITS
        older = as_of(8, "preliminary")
        assert words(night(world, "two", older, source=BY_UPDATE)) == {"Observation/o1": RELEASED}
        night(world, "three", encounter(), source=BY_UPDATE)
        assert words(night(world, "four", source=BY_UPDATE)) == {"Observation/o1": RELEASED}

    def test_older_content_is_not_lost_if_the_newer_one_never_comes(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run = night(world, "one", as_of(9, "final", encounter={"reference": "Encounter/e1"}), source=BY_UPDATE)
        assert words(night(world, "two", as_of(8, "preliminary"), source=BY_UPDATE)) == {"Observation/o1": WAITS}
        night(world, "three", P1, source=BY_UPDATE)
        assert words(night(world, "four", source=BY_UPDATE)) == {"Observation/o1": RELEASED}
        later(monkeypatch, run, 30)
        assert words(night(world, "five", source=BY_UPDATE)) == {"Observation/o1": TOO_LONG}

    def test_nor_if_the_newer_one_is_set_aside(self, world: World) -> None:
        night(world, "one", observation("o1", "p1", status="preliminary"))
        night(world, "two", P1)
        refuses = Store(invalid={"o1": "no such unit"})
        newer = observation("o1", "p1", status="final")
        asks: dict[str, Any] = {"validation": {"service_check": "all"}}
        assert dispositions(night(world, "three", newer, store=refuses, **asks)) == ["parked", "quarantined"]
        assert words(night(world, "four")) == {"Observation/o1": RELEASED}

    def test_its_turn_comes_at_last_even_if_other_content_is_set_aside_each_night(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run = night(world, "one", observation("o1", "p1", status="preliminary"))
        night(world, "two", P1)
        asks: dict[str, Any] = {"validation": {"service_check": "all"}, "store": Store(invalid={"o1": "no such unit"})}
        assert dispositions(night(world, "three", observation("o1", "p1", status="final"), **asks)) == [
            "parked",
            "quarantined",
        ]
        later(monkeypatch, run, 30)
        listed = observation("o1", "p1", status="amended")
        assert dispositions(night(world, "four", listed)) == ["parked", "released"]
        assert dispositions(night(world, "five", **asks)) == ["quarantined"]

    def test_contents_of_one_resource_come_one_by_one(self, world: World) -> None:
        night(world, "one", observation("o1", "p1", status="preliminary"))
        night(world, "two", observation("o1", "p1", status="final"))
        night(world, "three", P1)
        assert dispositions(night(world, "four")) == ["parked", "released"]
        assert words(night(world, "five")) == {"Observation/o1": NEWER}
        assert words(night(world, "six")) == {}
        assert bodies(world) == []

    def test_the_copy_of_one_that_waits_for_its_turn_is_its_runs_until_that_is_settled(self, world: World) -> None:
        night(world, "one", observation("o1", "p1", status="preliminary"))
        night(world, "two", observation("o1", "p1", status="final"))
        night(world, "three", P1)
        before = bodies(world)
        run = begun(world, "four")
        assert sweep_bodies(run.pipeline, world.s3, world.ledger) == 0
        (copied,) = set(bodies(world)) - set(before)
        ended(world, run)
        assert audit(run, NOBODY).balanced
        assert bodies(world) == [copied]

    def test_two_pipelines_that_park_one_resource_bring_the_newer_content_last(self, world: World) -> None:
        night(world, "one", O1)
        night(world, "two", observation("o1", "p1", issued="2026-11-30T00:00:00Z"), name="other")
        night(world, "three", P1)
        assert words(night(world, "four", name="other")) == {"Observation/o1": RELEASED}
        assert words(night(world, "five")) == {"Observation/o1": NEWER}
        assert bodies(world) == []


class TestSentAgain:
    def test_content_that_waits_already_is_a_duplicate(self, world: World) -> None:
        night(world, "one", O1)
        assert dispositions(night(world, "two", O1)) == ["duplicate"]
        assert (len(bodies(world)), world.ledger.count_parked("records")["resources"].to_list()) == (1, [1])
        night(world, "three", P1)
        run = night(world, "four", O1)
        assert dispositions(run) == ["duplicate", "released"]
        assert dispositions(night(world, "five", O1)) == ["duplicate"]

    def test_with_what_it_waits_for_it_comes_in_at_once(self, world: World) -> None:
        night(world, "one", O1)
        assert words(night(world, "two", O1, P1)) == {"Observation/o1": RELEASED, "Patient/p1": RELEASED}
        assert dispositions(night(world, "three")) == ["duplicate"]

    def test_every_night_it_still_waits_too_long(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        run = night(world, "one", O1)
        later(monkeypatch, run, 20)
        night(world, "two", O1)
        later(monkeypatch, run, 10)
        run = night(world, "three", O1)
        assert set(said(world, run)) == {TOO_LONG}
        assert dispositions(run) == ["quarantined", "quarantined"]
        assert words(night(world, "four", O1)) == {"Observation/o1": WAITS}, "from now on, anew"

    def test_content_that_comes_back_is_as_new_as_its_newest_file(self, world: World) -> None:
        waits = observation("o1", "p1", encounter={"reference": "Encounter/e1"})
        night(world, "one", P1, waits)
        other = observation("o1", "p1", status="amended")
        assert words(night(world, "two", other)) == {"Observation/o1": RELEASED}
        assert dispositions(night(world, "three", waits)) == ["duplicate"]
        night(world, "four", encounter())
        assert words(night(world, "five")) == {"Observation/o1": RELEASED}

    @pytest.mark.parametrize("is_deleted", [True, False])
    def test_content_that_is_sent_again_replaces_a_copy_that_is_gone(self, world: World, *, is_deleted: bool) -> None:
        """A rule of the bucket has deleted the copy, or somebody has changed it."""
        night(world, "one", O1)
        (name,) = bodies(world)
        if is_deleted:
            world.s3.delete("work", [name])
        else:
            world.put(f"s3://work/{name}", b"{}")
        night(world, "two", O1)
        night(world, "three", P1)
        night(world, "four")
        assert world.ledger.known_resources(STORE, named("Observation", "o1")).height == 1


class TestContracts:
    def test_a_patients_contract_counts_what_is_parked(self, world: World) -> None:
        run = night(world, "one", P1, observation("o1", "p1", encounter={"reference": "Encounter/e1"}))
        assert completeness(world, run).state == "partial"
        assert completeness(world, run).parked == {"Observation": 1}
        night(world, "two", encounter())
        night(world, "three")
        found = completeness(world, run)
        assert (found.state, found.parked, found.released) == (
            "unknown",
            {},
            {"Encounter": 1, "Observation": 1, "Patient": 1},
        )

    def test_those_of_safety_types_are_named_first(self, world: World) -> None:
        visit = {"encounter": {"reference": "Encounter/e1"}}
        condition = {"resourceType": "Condition", "id": "c1", "subject": {"reference": "Patient/p1"}} | visit
        other = {"resourceType": "ClinicalImpression", "id": "i1", "status": "completed"}
        run = night(world, "one", P1, condition, other | {"subject": {"reference": "Patient/p1"}} | visit)
        assert list(completeness(world, run).parked) == ["Condition", "ClinicalImpression"]

    def test_a_resource_names_the_file_that_brought_it_first(self, world: World) -> None:
        night(world, "one", organization("c1"), O1)
        night(world, "two", P1)
        run = night(world, "three")
        (text,) = world.ledger.contracts(run.pipeline.datastore_id, pl.Series(["Patient/p1"]))["contract"]
        sources = {one["reference"]: (one["source"], one["line"]) for one in json.loads(text)["resources"]}
        assert sources["Observation/o1"] == ("s3://archive/in/one/a.ndjson", 2)

    def test_a_patient_whose_safety_type_waits_is_held_where_the_pipeline_says_so(self, world: World) -> None:
        condition = {"resourceType": "Condition", "id": "c1", "subject": {"reference": "Patient/p1"}}
        holds = {"audit": {"read_back_sample": 0, "hold_incomplete_patients": True}}
        night(world, "one", condition, **holds)
        assert words(night(world, "two", P1, **holds)) == {"Patient/p1": ("held", "patient_held")}
        found = night(world, "three", store=Store(held={"Patient/p1"}), **holds)
        assert words(found) == {"Condition/c1": RELEASED}, "a held resource is in the data store"

    def test_newer_content_that_waits_is_parked_in_the_contract_too(self, world: World) -> None:
        night(world, "zero", P1, allergy())
        run = night(world, "one", allergy(criticality="high", encounter={"reference": "Encounter/e1"}))
        assert words(run) == {"AllergyIntolerance/a1": WAITS}
        found = completeness(world, run)
        assert found.parked == {"AllergyIntolerance": 1}, found


class TestWords:
    def test_a_file_is_released_when_the_last_of_its_resources_is(self, world: World) -> None:
        first = night(world, "one", O1, observation("o2", "p2"))
        night(world, "two", P1)
        night(world, "three")
        assert said(world, first) == [WAITS], "one of its resources waits"
        night(world, "four", patient("p2"))
        night(world, "five")
        assert said(world, first) == [RELEASED]
        audit(first, NOBODY)
        assert said(world, first) == [RELEASED]

    def test_it_says_what_became_of_them(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        older = night(world, "one", observation("o1", "p1", status="preliminary"))
        late = night(world, "two", encounter("e1", "p9"))
        night(world, "three", P1, observation("o1", "p1", status="final"))
        night(world, "four")
        assert said(world, older) == [NEWER]
        later(monkeypatch, late, 30)
        night(world, "five")
        assert said(world, late) == [TOO_LONG]

    def test_an_object_of_what_was_parked_says_nothing_of_what_waits_on(self, world: World) -> None:
        """Nobody would ever say of the object that it has come in: its file has the word."""
        first = night(world, "one", observation("o1", "p1", status="preliminary"))
        night(world, "two", observation("o1", "p1", status="final"))
        night(world, "three", P1)
        taking = night(world, "four")
        assert (said(world, taking), said(world, first)) == ([RELEASED], [TURN])
        night(world, "five")
        assert said(world, first) == [NEWER]

    def test_a_file_of_which_an_object_is_undecided_has_no_new_word_yet(self) -> None:
        def word(name: str, taken_as: str) -> dict[str, Any]:
            return {"arrival_id": name, "taken_as": taken_as, "disposition": "failed"}

        known = [("one", "a"), ("one", "b"), ("two", "b"), ("open", "a"), ("open", "c")]
        taken = frame([{"arrival_id": name, "origin_id": origin} for name, origin in known], TAKEN)
        origins = frame([word("a", "one"), word("b", "one"), word("c", "open")], ORIGINS)
        names = pl.Series(["one", "open", "two"])
        units = ParkedUnits(lambda: iter(()), taken, names, names.clear(), origins)
        files = pl.DataFrame({"arrival_id": ["one", "open", "two"], "is_open": [False, True, False]})
        settled = units.find_settled([files])
        assert (settled.origins["arrival_id"].to_list(), settled.read.to_list()) == (["b"], ["one", "two"])

    def test_one_of_a_file_does_not_hold_those_of_others_that_are_taken_in_with_it(self, world: World) -> None:
        whole: dict[str, Any] = {"audit": {"read_back_sample": 0, "hold_incomplete_files": True}}
        night(world, "one", O1, **whole)
        night(world, "two", encounter(), **whole)
        world.s3.delete("work", bodies(world)[:1])
        night(world, "three", P1, **whole)
        assert sorted(words(night(world, "four", **whole)).values()) == [TOO_LONG, RELEASED]


class TestTheEnd:
    def test_after_its_days_it_is_quarantined(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        later(monkeypatch, night(world, "one", O1, source={"site_pattern": "in/(?P<site>[^/]+)/"}), 30)
        run = night(world, "two")
        assert words(run) == {"Observation/o1": TOO_LONG}
        report = json.loads(run.s3.get(run.workspace.root.join("audit/report.json")))
        assert report["waited_too_long"] == [
            {"resource_type": "Observation", "detail": "Patient", "site": "one", "resources": 1}
        ]
        assert words(night(world, "three", P1)) == {"Patient/p1": RELEASED}
        assert words(night(world, "four")) == {}
        assert bodies(world) == []

    def test_a_day_before_it_is_not(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        later(monkeypatch, night(world, "one", O1), 29)
        assert words(night(world, "two")) == {}

    def test_nor_while_another_run_brings_what_it_waits_for(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        later(monkeypatch, night(world, "one", O1, observation("o2", "p2")), 30)
        brings = begun(world, "two", P1, name="other")
        assert words(night(world, "three")) == {"Observation/o1": WAITS, "Observation/o2": TOO_LONG}
        ended(world, brings)
        assert audit(brings, NOBODY).balanced
        assert words(night(world, "four")) == {"Observation/o1": RELEASED}

    def test_a_redrive_by_the_reason_brings_it_in_once_what_it_lacked_has_come(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Also where something else was wrong with others of the file, and whether the file is there or not."""
        first = night(world, "one", O1, observation("o2", "p2"))
        world.s3.delete("archive", ["in/one/a.ndjson"])
        night(world, "two", patient("p2"))
        later(monkeypatch, first, 30)
        refuses = Store(invalid={"o2": "no such unit"})
        asks: dict[str, Any] = {"validation": {"service_check": "all"}}
        run = night(world, "three", store=refuses, **asks)
        assert set(said(world, run) + said(world, first)) == {("quarantined", "resources_set_aside")}
        night(world, "four", P1)
        again = redriven(world)
        assert words(again) == {"Observation/o1": RELEASED, "Observation/o2": RELEASED}
        assert said(world, first) == [RELEASED]

    def test_what_can_harm_waits_for_a_short_time(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        condition = {"resourceType": "Condition", "id": "c1", "subject": {"reference": "Patient/p1"}}
        later(monkeypatch, night(world, "one", O1, condition), 3)
        assert words(night(world, "two")) == {"Condition/c1": TOO_LONG}

    def test_one_whose_copy_is_gone_is_quarantined_with_its_name(self, world: World) -> None:
        night(world, "one", O1, encounter())
        world.s3.delete("work", bodies(world)[:1])
        night(world, "two", P1)
        assert sorted(words(night(world, "three")).values()) == [TOO_LONG, RELEASED]

    @pytest.mark.parametrize("is_other", [True, False])
    def test_nor_does_one_come_in_that_somebody_has_changed(self, world: World, *, is_other: bool) -> None:
        """Neither other content under the digest of what was sent, nor other lines than the table of its object has."""
        night(world, "one", observation("o1", "p1", valueInteger=70), observation("o2", "p1"))
        (name,) = (key for key in bodies(world) if b"valueInteger" in world.s3.get(S3Uri("work", key)))
        body = world.s3.get(S3Uri("work", name))
        world.put(f"s3://work/{name}", body.replace(b"70", b"999") if is_other else b"\n" + body + b"\n\n")
        night(world, "two", P1)
        assert words(night(world, "three")) == {"Observation/o1": TOO_LONG, "Observation/o2": RELEASED}
        assert bodies(world) == []

    def test_and_its_patients_contract_still_says_that_it_is_missing(self, world: World) -> None:
        run = night(world, "one", P1, observation("o1", "p1", encounter={"reference": "Encounter/e1"}))
        world.s3.delete("work", bodies(world))
        night(world, "two", encounter())
        assert words(night(world, "three")) == {"Observation/o1": TOO_LONG}
        found = completeness(world, run)
        assert (found.state, found.parked, found.quarantined) == ("partial", {}, {"Observation": 1})

    def test_an_object_that_cannot_be_read_costs_nothing(self, world: World) -> None:
        night(world, "one", O1)
        night(world, "two", P1)
        run = Run(pipeline(), "three", None, S3Uri("archive", "in/none/"), world.s3, world.ledger)
        (shard,) = buffer(run, partial(take_in, run)).shards
        listed = world.s3.list_objects(run.workspace.root.join("taken", ""))
        (key,) = (item.key for item in listed if item.key.endswith(".ndjson"))
        world.s3.delete("work", [key])
        parse(run, shard)
        validate(run, None)
        normalize(run, run.pipeline.healthlake)
        assert audit(run, NOBODY).balanced
        assert set(words(run).values()) == {TURN}
        assert said(world, run) == [("ignored", "waiting_for_turn")]
        assert words(night(world, "four")) == {"Observation/o1": RELEASED}

    def test_nor_does_one_that_is_read_in_part(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        night(world, "one", O1, observation("o2", "p1"))
        night(world, "two", P1)
        read = RowReader.read

        def break_off(reader: RowReader, *given: Any) -> Iterator[Any]:
            yield next(iter(read(reader, *given)))
            raise OSError("no connection")

        with monkeypatch.context() as patch:
            patch.setattr(RowReader, "read", break_off)
            assert list(words(night(world, "three")).values()) == [TURN]
        found = night(world, "four")
        assert words(found) == {"Observation/o1": RELEASED, "Observation/o2": RELEASED}
        assert bodies(world) == []

    def test_without_its_table_nothing_of_it_comes_in_as_if_it_were_new(self, world: World) -> None:
        night(world, "one", O1)
        night(world, "two", P1)
        run = Run(pipeline(), "three", None, S3Uri("archive", "in/none/"), world.s3, world.ledger)
        (shard,) = buffer(run, partial(take_in, run)).shards
        listed = world.s3.list_objects(run.workspace.root.join("taken", ""))
        world.s3.delete("work", [item.key for item in listed if item.key.endswith(".parquet")])
        parse(run, shard)
        with pytest.raises(RuntimeError, match="The table of an object of parked resources is gone"):
            validate(run, None)
        release_run(world.ledger, "records", run.key, jobs_ended=True)
        assert words(night(world, "four")) == {"Observation/o1": RELEASED}

    def test_a_workspace_that_has_moved_makes_it_no_ordinary_file(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        later(monkeypatch, night(world, "one", O1), 30)
        night(world, "two")
        night(world, "three", P1)
        assert read_taken(redriven(world, workspace="s3://work/elsewhere/")).height == 1

    def test_nor_is_a_delivered_file_one_by_its_name(self, world: World) -> None:
        run = Run(pipeline(), "one", None, S3Uri("archive", "in/one/"), world.s3, world.ledger)
        put(world, "one", {f"taken/{'0' * 32}.ndjson": [P1]})
        take_through(run)
        assert read_taken(run).is_empty()

    def test_a_sweep_deletes_bodies_that_nothing_names(self, world: World) -> None:
        run = night(world, "one", O1)
        (name,) = bodies(world)
        foreign = "runs/records/parked/note.json"
        for other in (name.replace("-1.json", "-2.json"), foreign):
            world.put(f"s3://work/{other}", b"{}")
        assert sweep_bodies(run.pipeline, world.s3, world.ledger) == 1
        assert sorted(bodies(world)) == sorted([name, foreign])

    def test_those_of_a_run_that_nobody_knows_only_when_nothing_could_need_them(self, world: World) -> None:
        """A ledger that was restored lacks the runs since its backup."""
        run = night(world, "one", O1)
        unknown = f"runs/records/parked/{'0' * 32}-1.json"
        world.put(f"s3://work/{unknown}", b"{}")
        for days, deleted in ((29, 0), (31, 1)):
            date_objects("work", [unknown], run.ledger.database_time() - timedelta(days=days))
            assert sweep_bodies(run.pipeline, world.s3, world.ledger) == deleted


def test_a_plan_says_what_would_wait_and_parks_nothing(world: World) -> None:
    put(world, "plan", {"a.ndjson": [O1]})
    run = Run(pipeline(), "plan", None, S3Uri("archive", "in/plan/"), world.s3, world.ledger).as_plan()
    for shard in buffer(run).shards:
        parse(run, shard)
    assert validate(run, None) == {"park": 1}
    assert bodies(world) == []
