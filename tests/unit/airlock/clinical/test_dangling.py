"""A stored resource whose target the service refused is not released, nor what depends on it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.unit.airlock.clinical.books import audited, observation, organization, patient, rejected, words

if TYPE_CHECKING:
    from tests.unit.airlock.world import World

P1 = patient("p1")
DANGLING, RELEASED = ("held", "unresolved_reference"), ("released", None)


def encounter(name: str, **more: Any) -> dict[str, Any]:
    kind = {"system": "http://terminology.hl7.org/CodeSystem/v3-ActCode", "code": "AMB"}
    base = {"resourceType": "Encounter", "id": name, "status": "finished", "class": kind}
    return base | {"subject": {"reference": "Patient/p1"}} | more


def refers(name: str, to: str, **more: Any) -> dict[str, Any]:
    element = "encounter" if to.startswith("Encounter/") else "derivedFrom"
    reference: Any = {"reference": to}
    return observation(name, "p1", **{element: reference if element == "encounter" else [reference]}, **more)


FILES = {
    "a.ndjson": [P1, encounter("e1"), refers("o1", "Encounter/e1"), observation("o2", "p1")],
    "b.ndjson": [refers("o3", "Observation/o1"), encounter("e2"), refers("o4", "Encounter/e2")],
}
REFUSED = {"Encounter/e1": rejected()}


def test_what_refers_to_a_refused_resource_is_held_directly_or_through_others(world: World) -> None:
    run, found = audited(world, "one", FILES, REFUSED)
    assert found.balanced
    assert words(run) == {
        "Patient/p1": RELEASED,
        "Encounter/e1": ("failed", "rejected"),
        "Observation/o1": DANGLING,
        "Observation/o2": RELEASED,
        "Observation/o3": DANGLING,
        "Encounter/e2": RELEASED,
        "Observation/o4": RELEASED,
    }


def test_a_refused_update_leaves_its_target_in_the_store(world: World) -> None:
    audited(world, "one", {"a.ndjson": [P1, encounter("e1")]})
    changed = encounter("e1", status="cancelled")
    run, _ = audited(world, "two", {"b.ndjson": [changed, refers("o1", "Encounter/e1")]}, REFUSED)
    assert words(run) == {"Encounter/e1": ("failed", "rejected"), "Observation/o1": RELEASED}


def test_a_policy_that_accepts_unknown_references_accepts_these(world: World) -> None:
    run, _ = audited(world, "one", FILES, REFUSED, validation={"unknown_reference": "accept"})
    assert words(run)["Observation/o1"] == RELEASED


BY = {"performer": [{"reference": "Organization/c1"}]}
PERFORMED = {"a.ndjson": [P1, organization("c1"), observation("o1", "p1", **BY), refers("o2", "Observation/o1")]}


def test_one_of_a_type_that_nothing_waits_for_is_released_with_a_note(world: World) -> None:
    run, found = audited(world, "one", PERFORMED, {"Organization/c1": rejected()})
    assert words(run) == {
        "Patient/p1": RELEASED,
        "Organization/c1": ("failed", "rejected"),
        "Observation/o1": ("released", "dangling_reference"),
        "Observation/o2": RELEASED,
    }
    assert found.report["dangling_references"] == {"Organization": 1}


def test_a_pipeline_that_does_not_park_holds_it(world: World) -> None:
    strict = {"unknown_reference": "quarantine"}
    run, _ = audited(world, "one", PERFORMED, {"Organization/c1": rejected()}, validation=strict)
    assert words(run)["Observation/o1"] == words(run)["Observation/o2"] == DANGLING


def test_a_note_hides_no_hold(world: World) -> None:
    refused = dict.fromkeys(("Organization/c1", "Patient/p1"), rejected())
    run, _ = audited(world, "one", PERFORMED, refused)
    assert words(run)["Observation/o1"] == DANGLING, "its patient was refused"


def test_it_is_released_when_both_come_again(world: World) -> None:
    audited(world, "one", FILES, REFUSED)
    run, _ = audited(world, "two", {"c.ndjson": [encounter("e1"), refers("o1", "Encounter/e1")]})
    assert words(run) == {"Encounter/e1": RELEASED, "Observation/o1": RELEASED}
