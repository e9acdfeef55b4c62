"""Validate: one verdict per unit, and a reason where it is not accepted."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from airlock.clinical.normalize import normalize
from airlock.clinical.parse import parse
from airlock.clinical.records import OPERATION_OUTCOMES, REWRITES, VERDICTS
from airlock.clinical.validate import validate
from airlock.run import Run
from airlock.stages.buffer import buffer
from airlock.storage.s3uri import S3Uri
from tests.unit.airlock.clinical.books import ndjson, observation, organization, patient, pipeline, put
from tests.unit.airlock.clinical.world import (
    Store,
    begun,
    bundle,
    delivery,
    entry,
    file_names,
    imported,
    parsed,
    pretty,
    validated,
    verdicts,
    words,
)

if TYPE_CHECKING:
    from airlock.pipelines import ClinicalPipeline
    from tests.unit.airlock.world import World

P1, P2, O1 = patient("p1"), patient("p2"), observation("o1", "p1")
URN = "urn:uuid:11111111-2222-4333-8444-555555555555"
ACCEPTED, LOST = ("accept", None), ("quarantine", "unresolved_reference")
AWAITED = ("quarantine", "awaited_reference")
PARKED = ("park", "waiting_for_resource")
STRICT = {"validation": {"unknown_reference": "quarantine"}}
TWICE = ("duplicate", "duplicate_same_content")
OTHERWISE = ("quarantine", "duplicate_other_content")


BY_UPDATE = {"order": {"across_keys": "last_updated"}}


def updated(day: int | None, **more: Any) -> dict[str, Any]:
    """Return patient p1 as it was updated on a day of 2026; a day that no month has is a year."""
    if day is None:
        return patient("p1", **more)
    moment = f"{day}-01-01" if day > 31 else f"2026-01-{day:02}"
    return patient("p1", meta={"lastUpdated": f"{moment}T00:00:00Z"}, **more)


def the_counting(run: Run[Any]) -> tuple[str, tuple[str, str | None]]:
    """Return the file and the word of the one unit that is no duplicate."""
    names = file_names(run)
    (row,) = (row for row in verdicts(run) if row["verdict"] != "duplicate")
    return names[row["arrival_id"]].removesuffix(".ndjson"), (row["verdict"], row["reason"])


def outcomes(run: Run[Any]) -> list[dict[str, Any]]:
    return run.workspace.read("operation_outcomes", OPERATION_OUTCOMES).to_dicts()


def with_reference(reference: str, name: str = "o1", **more: Any) -> dict[str, Any]:
    return observation(name, "", subject={"reference": reference}, **more)


class TestUnits:
    def test_every_line_entry_and_empty_file_has_one_verdict(self, world: World) -> None:
        files = {
            "a.ndjson": [P1, "x", "", O1, {"resourceType": "Patient"}],
            "b.json": pretty(bundle("batch", entry(P2), {}, entry(organization("g1"), method="DELETE"))),
            "c.ndjson": b"",
            "notes.txt": b"left by the exporter",
            "cut.ndjson.gz": gzip.compress(ndjson([patient("p7")]))[:-9],
        }
        run = validated(world, files)
        assert words(run) == {
            "Patient/p1": ACCEPTED,
            "a.ndjson:2": ("quarantine", "not_json"),
            "Observation/o1": ACCEPTED,
            "a.ndjson:5": ("quarantine", "missing_resource_id"),
            "Patient/p2": ACCEPTED,
            "b.json:2": ("quarantine", "unsupported_entry"),
            "b.json:3": ("quarantine", "unsupported_entry"),
            "c.ndjson": ("quarantine", "empty_object"),
            "notes.txt": ("ignore", "sidecar"),
            "cut.ndjson.gz": ("quarantine", "truncated"),
        }
        assert validate(run, None) == {"accept": 3, "ignore": 1, "quarantine": 6}

    def test_a_run_that_has_nothing_has_no_verdicts(self, world: World) -> None:
        run = validated(world, {})
        assert words(run) == {}
        assert validate(run, None) == {}

    def test_a_file_that_cannot_be_trusted_takes_its_resources_with_it(self, world: World) -> None:
        body = gzip.compress(ndjson([P1, P2, "x" * 3_000_000]), 0)[:-100]
        run = validated(world, {"a.ndjson.gz": body, "b.ndjson": [O1]})
        assert words(run)["Patient/p1"] == words(run)["Patient/p2"] == ("quarantine", "truncated")
        assert words(run)["Observation/o1"] == PARKED

    @pytest.mark.parametrize(
        ("resource", "reason", "detail"),
        [
            (patient("p9", birthDate="19500101"), "invalid_resource", "Patient.birthDate: "),
            (
                observation("o9", "p1", context={"reference": "Encounter/e"}),
                "fhir_version",
                "it has elements of STU3: ",
            ),
            ({"resourceType": "Sequence", "id": "s"}, "fhir_version", "Sequence is a type of STU3"),
        ],
    )
    def test_a_resource_that_breaks_the_structure_is_stopped(
        self, world: World, resource: dict[str, Any], reason: str, detail: str
    ) -> None:
        run = validated(world, {"a.ndjson": [P1, resource, O1]})
        (wrong,) = (row for row in verdicts(run) if row["verdict"] != "accept")
        assert (wrong["line"], wrong["reason"]) == (2, reason)
        assert wrong["detail"].startswith(detail)

    def test_the_findings_of_the_structure_check_are_kept(self, world: World) -> None:
        run = validated(world, {"a.ndjson": [patient("p9", colour="blue"), P1]})
        (kept,) = outcomes(run)
        assert (kept["source"], kept["resource_id"], kept["line"]) == ("local", "p9", 1)
        assert json.loads(kept["outcome"])["issue"][0]["expression"] == ["Patient.colour"]

    @pytest.mark.parametrize(
        ("reference", "whose"),
        [("Patient/p1", "Patient/p1"), ("Patient/p1/_history/2", "Patient/p1"), ("Organization/g1", None)],
    )
    def test_a_resource_is_its_patients(self, world: World, reference: str, whose: str | None) -> None:
        run = validated(world, {"a.ndjson": [P1, organization("g1"), with_reference(reference)]})
        assert {row["name"]: row["patient"] for row in verdicts(run)}["Observation/o1"] == whose


class TestTwins:
    def test_of_equal_ones_the_first_is_taken(self, world: World) -> None:
        run = validated(world, {"a.ndjson": [P1, json.dumps(P1, indent=None, separators=(",", ":"))], "b.ndjson": [P1]})
        assert words(run) == {"Patient/p1": ACCEPTED, "a.ndjson:2": TWICE, "b.ndjson:1": TWICE}
        assert {row["detail"] for row in verdicts(run)} == {None, "within the delivery"}

    def test_of_unequal_ones_none(self, world: World) -> None:
        run = validated(world, {"a.ndjson": [P1, patient("p1", gender="other")], "b.ndjson": [P1, P2]})
        counts = Counter((row["verdict"], row["reason"]) for row in verdicts(run))
        assert counts == {OTHERWISE: 3, ACCEPTED: 1}

    @pytest.mark.parametrize("days", [(1, 3), (3, 1), (1, 3, 2), (None, 3), (3, None), (2999, 3)])
    def test_of_equal_ones_the_newest_counts(self, world: World, days: tuple[int | None, ...]) -> None:
        imported(validated(world, {"a.ndjson": [updated(2, gender="other")]}, source=BY_UPDATE))
        files = {f"{number}.ndjson": [updated(day)] for number, day in enumerate(days)}
        assert the_counting(validated(world, files, "two", source=BY_UPDATE)) == (str(days.index(3)), ACCEPTED)

    @pytest.mark.parametrize("days", [(1, 3), (3, 1)])
    def test_of_equal_ones_in_a_file_the_newest_counts(self, world: World, days: tuple[int, ...]) -> None:
        imported(validated(world, {"a.ndjson": [updated(2, gender="other")]}, source=BY_UPDATE))
        run = validated(world, {"0.ndjson": [updated(day) for day in days]}, "two", source=BY_UPDATE)
        assert {row["line"]: row["verdict"] for row in verdicts(run)} == {
            1 + days.index(3): "accept",
            1 + days.index(1): "duplicate",
        }

    @pytest.mark.parametrize(("day", "word"), [(1, ("ignore", "newer_content")), (2, ("accept", "order_unknown"))])
    def test_of_equal_ones_that_are_all_older_or_as_old_the_first_counts(
        self, world: World, day: int, word: tuple[str, str]
    ) -> None:
        imported(validated(world, {"a.ndjson": [updated(2, gender="other")]}, source=BY_UPDATE))
        files = {f"{number}.ndjson": [updated(day)] for number in range(2)}
        assert the_counting(validated(world, files, "two", source=BY_UPDATE)) == ("0", word)

    def test_of_equal_ones_one_that_takes_the_place_of_the_known_content_counts(self, world: World) -> None:
        imported(validated(world, {"0.ndjson": [updated(3, gender="other")]}, source=BY_UPDATE))
        put(world, "one", {"0.ndjson": [updated(1)]})
        put(world, "two", {"0.ndjson": [updated(2)]})
        run = Run(pipeline(source=BY_UPDATE), "two", None, S3Uri("archive", "in/"), world.s3, world.ledger)
        for shard in buffer(run).shards:
            parse(run, shard)
        assert validate(run, None) == {"accept": 1, "duplicate": 1}
        assert the_counting(run) == ("one/0", ACCEPTED)

    def test_a_decimals_digits_are_content(self, world: World) -> None:
        weight = json.dumps(observation("o1", "p1", valueQuantity={"value": 70.1}))
        lines = [P1, weight, weight.replace("70.1}", "70.10}")]
        assert words(validated(world, {"a.ndjson": lines}))["Observation/o1"] == OTHERWISE

    def test_the_twin_of_one_that_is_stopped_later_falls_with_it(self, world: World) -> None:
        lost = {"resourceType": "Observation", "id": "o", "status": "final", "code": {"text": "x"}}
        lost |= {"subject": {"reference": "Patient/nowhere"}}
        run = validated(world, {"a.ndjson": [lost], "b.ndjson": [lost]}, **STRICT)
        assert {row["verdict"] for row in verdicts(run)} == {"quarantine"}
        assert {row["reason"] for row in verdicts(run)} == {"unresolved_reference"}

    def test_one_that_is_broken_does_not_count(self, world: World) -> None:
        run = validated(world, {"a.ndjson": [patient("p1", colour="blue"), P1]})
        assert [(row["verdict"], row["reason"]) for row in verdicts(run)] == [
            ("quarantine", "invalid_resource"),
            ACCEPTED,
        ]

    def test_one_id_in_two_types_is_no_twin(self, world: World) -> None:
        run = validated(world, {"a.ndjson": [patient("x"), organization("x")]})
        assert set(words(run).values()) == {ACCEPTED}


class TestAgainstTheLedger:
    def test_the_same_content_is_not_taken_again(self, world: World) -> None:
        imported(validated(world, {"a.ndjson": [P1, O1]}))
        run = validated(world, {"b.ndjson": [O1, P1 | {"meta": {"versionId": "1"}}, P2]}, "two")
        assert words(run) == {"b.ndjson:1": TWICE, "b.ndjson:2": TWICE, "Patient/p2": ACCEPTED}
        assert "by an earlier delivery" in {row["detail"] for row in verdicts(run)}

    @pytest.mark.parametrize(("policy", "word"), [("update", ACCEPTED), ("quarantine", OTHERWISE)])
    def test_other_content_is_taken_or_stopped_as_the_policy_says(
        self, world: World, policy: str, word: tuple[str, str | None]
    ) -> None:
        imported(validated(world, {"a.ndjson": [P1]}))
        changes = {"validation": {"changed_resource": policy}}
        run = validated(world, {"b.ndjson": [P1 | {"gender": "other"}, P2]}, "two", **changes)
        assert words(run) == {"Patient/p1": word, "Patient/p2": ACCEPTED}

    def test_a_run_does_not_take_its_own_imports_for_anothers(self, world: World) -> None:
        run = validated(world, {"a.ndjson": [P1]})
        imported(run)
        assert validate(run, None) == {"accept": 1}

    def test_a_resource_that_another_run_has_claimed_is_quarantined(self, world: World) -> None:
        validated(world, {"a.ndjson": [P1, P2]})
        run = validated(world, {"b.ndjson": [P1 | {"gender": "other"}, O1]}, "two")
        assert words(run) == {"Patient/p1": ("quarantine", "instance_claimed"), "Observation/o1": ACCEPTED}

    def test_a_rerun_keeps_its_claims_and_gives_back_the_others(self, world: World) -> None:
        run = validated(world, {"a.ndjson": [P1, P2]})
        assert validate(run, None) == {"accept": 2}
        stricter = Run(
            pipeline(validation={"service_check": "all"}), run.run_id, None, run.prefix, world.s3, world.ledger
        )
        assert validate(stricter, Store(invalid={"p1": "no"})) == {"accept": 1, "quarantine": 1}
        assert words(validated(world, {"b.ndjson": [P1, P2]}, "two"))["Patient/p1"] == ACCEPTED


@pytest.mark.parametrize("limits", [{"max_units": 49}, {"unpacked_mib": 0.001}])
def test_nothing_of_a_file_beyond_its_caps_is_accepted_and_it_is_one_unit(world: World, limits: dict[str, Any]) -> None:
    many = gzip.compress(ndjson([patient(f"p{number}") for number in range(50)]))
    run = validated(world, {"a.ndjson.gz": many, "b.ndjson": [P1]}, parse=limits)
    assert words(run) == {"a.ndjson.gz": ("quarantine", "file_too_large"), "Patient/p1": ACCEPTED}


def mother(reference: str = URN) -> dict[str, Any]:
    """Return a Bundle of a Patient and an Observation that knows it by its fullUrl."""
    child = entry(with_reference(reference), None, "POST", "Observation")
    return bundle("transaction", entry(P1, URN, "PUT", "Patient/p1"), child)


class TestReferences:
    def test_a_reference_to_a_conditional_entry_stops_the_resource(self, world: World) -> None:
        content = mother()
        content["entry"][0]["request"] = {"method": "POST", "url": "Patient", "ifNoneExist": "identifier=s|1"}
        run = validated(world, {"a.json": pretty(content)})
        assert words(run) == {
            "a.json:1": ("quarantine", "unsupported_entry"),
            "Observation/o1": LOST,
        }

    def test_a_bundles_full_urls_are_written_as_ids(self, world: World) -> None:
        run = validated(world, {"a.json": pretty(mother())})
        assert set(words(run).values()) == {ACCEPTED}
        assert run.workspace.read("rewrites", REWRITES).select("found", "reference").rows() == [(URN, "Patient/p1")]
        assert {row["patient"] for row in verdicts(run)} == {"Patient/p1"}

    def test_a_patient_who_comes_in_every_bundle_is_known_in_each(self, world: World) -> None:
        second = bundle("transaction", entry(P1, URN), entry(with_reference(URN, "o2")))
        run = validated(world, {"a.json": pretty(mother()), "b.json": pretty(second)})
        assert words(run) == {
            "Patient/p1": ACCEPTED,
            "Observation/o1": ACCEPTED,
            "b.json:1": TWICE,
            "Observation/o2": ACCEPTED,
        }

    @pytest.mark.parametrize("policy", ["update", "quarantine"])
    @pytest.mark.parametrize("change", [{}, {"gender": "other"}])
    def test_and_in_those_of_later_deliveries(self, world: World, policy: str, change: dict[str, Any]) -> None:
        imported(validated(world, {"a.json": pretty(mother())}))
        second = bundle("transaction", entry(P1 | change, URN), entry(with_reference(URN, "o2")))
        changes = {"validation": {"changed_resource": policy}}
        run = validated(world, {"b.json": pretty(second)}, "two", **changes)
        assert words(run)["Observation/o2"] == ACCEPTED

    @pytest.mark.parametrize(
        ("policy", "reference", "word"),
        [
            *((policy, "urn:uuid:nobody", LOST) for policy in ("park", "quarantine", "accept")),
            ("park", "Patient?identifier=s|1", PARKED),
            *((policy, "Patient?identifier=s|1", LOST) for policy in ("quarantine", "accept")),
        ],
    )
    def test_one_that_leads_nowhere_never_comes_in(
        self, world: World, policy: str, reference: str, word: tuple[str, str]
    ) -> None:
        run = validated(
            world, {"a.json": pretty(mother(reference))}, store=Store(), validation={"unknown_reference": policy}
        )
        assert words(run) == {"Patient/p1": ACCEPTED, "Observation/o1": word}

    @pytest.mark.parametrize("where", ["delivery", "store"])
    def test_a_conditional_one_is_resolved(self, world: World, where: str) -> None:
        bearer = patient("p5", identifier=[{"system": "s", "value": "1"}])
        lines = [with_reference("Patient?identifier=s|1"), *([bearer] if where == "delivery" else [])]
        store = Store(held={"Patient/p5"}, found={"Patient?identifier=s|1": ["p5"]} if where == "store" else {})
        run = validated(world, {"a.ndjson": lines}, store=store)
        assert words(run)["Observation/o1"] == ACCEPTED
        assert {row["patient"] for row in verdicts(run)} == {"Patient/p5"}

    @pytest.mark.parametrize(
        "reference", ["#inside", "http://elsewhere/Patient/1", "Patient/p1/_history/2", "urn:oid:1.2.3"]
    )
    def test_those_that_need_nobody_pass(self, world: World, reference: str) -> None:
        run = validated(world, {"a.ndjson": [P1, with_reference(reference)]}, store=Store())
        assert words(run)["Observation/o1"] == (LOST if reference.startswith("urn") else ACCEPTED)

    def test_the_ledger_and_the_data_store_are_asked(self, world: World) -> None:
        imported(validated(world, {"a.ndjson": [P1]}))
        store = Store(held={"Patient/p2"})
        lines = [observation("o1", "p1"), observation("o2", "p2"), observation("o3", "p3")]
        run = validated(world, {"b.ndjson": lines}, "two", store)
        assert words(run) == {"Observation/o1": ACCEPTED, "Observation/o2": ACCEPTED, "Observation/o3": PARKED}
        assert sorted(store.asked) == ["Patient/p2", "Patient/p3"]

    def test_a_resource_that_refers_to_a_stopped_one_is_stopped(self, world: World) -> None:
        encounter = {
            "resourceType": "Encounter",
            "id": "e1",
            "status": "finished",
            "class": {"code": "AMB"},
            "subject": {"reference": "Patient/nobody"},
        }
        later = observation("o1", "p1", encounter={"reference": "Encounter/e1"})
        lines = [later, encounter, P1, patient("p3", x=1), observation("o3", "p3")]
        run = validated(world, {"a.ndjson": lines}, **STRICT)
        assert words(run) == {
            "Observation/o1": LOST,
            "Encounter/e1": LOST,
            "Patient/p1": ACCEPTED,
            "Patient/p3": ("quarantine", "invalid_resource"),
            "Observation/o3": LOST,
        }
        details = {row["name"]: row["detail"] for row in verdicts(run)}
        assert details["Observation/o1"] == "the one that is nowhere is of type Encounter"
        assert details["Encounter/e1"] == details["Observation/o3"] == "the one that is nowhere is of type Patient"

    def test_unknown_ones_pass_where_the_policy_lets_them(self, world: World) -> None:
        run = validated(world, {"a.ndjson": [O1]}, store=Store(), validation={"unknown_reference": "accept"})
        assert words(run) == {"Observation/o1": ACCEPTED}


class TestReferencesToWhatAnotherRunMayBring:
    """Where such references are quarantined; otherwise it does not matter which run is first."""

    LINES = (observation("o1", "p1"), observation("o2", "p2"))

    def test_one_to_a_claimed_resource_is_awaited(self, world: World) -> None:
        validated(world, {"a.ndjson": [P1]})
        run = validated(world, {"b.ndjson": list(self.LINES)}, "two", **STRICT)
        assert words(run) == {"Observation/o1": AWAITED, "Observation/o2": LOST}
        assert {row["detail"] for row in verdicts(run) if row["reason"] == AWAITED[1]} == {
            "the one that another run may bring is of type Patient"
        }

    def test_any_is_awaited_while_a_run_has_not_decided(self, world: World) -> None:
        delivery(world, {"a.ndjson": [P1]})
        run = validated(world, {"b.ndjson": list(self.LINES)}, "two", Store(held={"Patient/p2"}), **STRICT)
        assert words(run) == {"Observation/o1": AWAITED, "Observation/o2": ACCEPTED}

    def test_none_when_the_run_has_decided_otherwise(self, world: World) -> None:
        validated(world, {"a.ndjson": [P2, patient("p1", colour="blue")]})
        run = validated(world, {"b.ndjson": list(self.LINES)}, "two", **STRICT)
        assert words(run) == {"Observation/o1": LOST, "Observation/o2": AWAITED}

    def test_a_run_of_another_pipeline_counts_when_it_has_claimed(self, world: World) -> None:
        other = parsed(world, {"a.ndjson": [P1]}, name="other")
        assert words(validated(world, {"b.ndjson": [O1]}, "two", **STRICT))["Observation/o1"] == LOST
        validate(other, None)
        assert words(validated(world, {"b.ndjson": [O1]}, "three", **STRICT))["Observation/o1"] == AWAITED

    def test_what_refers_to_an_awaiting_resource_waits_too(self, world: World) -> None:
        validated(world, {"a.ndjson": [P1]})
        visit = {"resourceType": "Encounter", "id": "e1", "status": "finished", "class": {"code": "AMB"}}
        visit |= {"subject": {"reference": "Patient/p1"}}
        by_visit = {"encounter": {"reference": "Encounter/e1"}}
        lines = [visit, observation("o1", "p1", **by_visit), observation("o2", "p2", **by_visit)]
        run = validated(world, {"b.ndjson": lines}, "two", **STRICT)
        assert words(run) == {"Encounter/e1": AWAITED, "Observation/o1": AWAITED, "Observation/o2": LOST}


class TestTheServicesWord:
    LINES = (P1, O1, observation("o2", "p1"), P2)

    def checked(self, world: World, check: str, store: Store | None, **more: Any) -> Run[ClinicalPipeline]:
        return validated(
            world, {"a.ndjson": list(self.LINES)}, store=store, validation={"service_check": check, **more}
        )

    def test_none_is_asked_about_unless_the_policy_says_so(self, world: World) -> None:
        store = Store(invalid={"o1": "wrong"})
        assert set(words(self.checked(world, "none", store)).values()) == {ACCEPTED}
        assert store.validated == []

    def test_without_a_data_store_nobody_is_asked(self, world: World) -> None:
        assert set(words(self.checked(world, "all", None)).values()) == {ACCEPTED}

    def test_a_resource_with_a_finding_is_stopped_and_the_outcome_kept(self, world: World) -> None:
        run = self.checked(world, "all", Store(invalid={"o1": "the code is none"}))
        assert words(run)["Observation/o1"] == ("quarantine", "service_finds_invalid")
        assert Counter(words(run).values())[ACCEPTED] == 3
        (kept,) = outcomes(run)
        assert (kept["source"], kept["resource_type"], kept["resource_id"]) == ("$validate", "Observation", "o1")
        assert json.loads(kept["outcome"])["issue"][0]["diagnostics"] == "the code is none"

    def test_a_resource_that_refers_to_it_is_stopped_too(self, world: World) -> None:
        run = self.checked(world, "all", Store(invalid={"p1": "no"}))
        assert words(run)["Observation/o1"] == words(run)["Observation/o2"] == PARKED

    def test_a_sample_has_its_size(self, world: World) -> None:
        store = Store()
        self.checked(world, "sample", store, sample_size=2)
        assert sorted(each["resourceType"] for each in store.validated) == ["Observation", "Patient"]

    def test_it_is_asked_about_the_resource_as_it_would_be_sent(self, world: World) -> None:
        store = Store()
        validated(world, {"a.json": pretty(mother())}, store=store, validation={"service_check": "all"})
        (weight,) = (each for each in store.validated if each["resourceType"] == "Observation")
        assert weight["subject"] == {"reference": "Patient/p1"}

    def test_it_is_not_asked_about_a_stopped_resource(self, world: World) -> None:
        store = Store()
        lines = [patient("p9", colour="blue"), P1, P1, patient("p2"), patient("p2", gender="other")]
        validated(world, {"a.ndjson": lines}, store=store, validation={"service_check": "all"})
        assert [each["id"] for each in store.validated] == ["p1"]


class TestReruns:
    def test_validating_again_gives_the_same(self, world: World) -> None:
        run = validated(world, {"a.ndjson": [P1, "x", O1, P1], "b.json": pretty(mother())})
        names = ("verdicts", VERDICTS), ("rewrites", REWRITES), ("operation_outcomes", OPERATION_OUTCOMES)
        first = [run.workspace.read(*name) for name in names]
        validate(run, None)
        assert [run.workspace.read(*name).equals(frame) for name, frame in zip(names, first, strict=True)] == [True] * 3

    def test_verdicts_do_not_change_once_a_job_was_begun(self, world: World) -> None:
        run = validated(world, {"a.ndjson": [P1, O1]}, store=Store())
        normalize(run, run.pipeline.healthlake)
        begun(run)
        stricter = Run(
            pipeline(validation={"service_check": "all"}), run.run_id, None, run.prefix, world.s3, world.ledger
        )
        store = Store(invalid={"p1": "wrong"})
        assert validate(stricter, store) == {"accept": 2}
        assert store.validated == []
        assert set(words(run).values()) == {ACCEPTED}

    def test_batches_alone_do_not_make_it_stand(self, world: World) -> None:
        run = validated(world, {"a.ndjson": [P1, O1]})
        normalize(run, run.pipeline.healthlake)
        stricter = Run(
            pipeline(validation={"service_check": "all"}), run.run_id, None, run.prefix, world.s3, world.ledger
        )
        assert validate(stricter, Store(invalid={"o1": "wrong"})) == {"accept": 1, "quarantine": 1}


def test_shards_make_no_difference(world: World) -> None:
    files = {f"{number}.ndjson": [patient(f"q{number}"), P1, observation(f"o{number}", "p1")] for number in range(5)}
    run = validated(world, files)
    one = words(run)
    assert Counter(one.values()) == {ACCEPTED: 11, TWICE: 4}
    world.ledger.drop_resource_claims(
        run.pipeline.datastore_id, run.key, run.workspace.read("verdicts", VERDICTS).drop_nulls("resource_id")
    )
    assert words(validated(world, files, "two", parse={"shard_size": 2})) == one
