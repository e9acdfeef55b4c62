"""The same resources again: in another delivery, by a cleared task, in two runs at once, and with other content."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.chain import MINIMAL, Chain, clinical_pipeline
from tests.clinical_files import delivery, ndjson, observation, organization, patient, transaction

if TYPE_CHECKING:
    from tests.chain import Place

pytestmark = pytest.mark.slow

STAGES = ("receive", "buffer", "parse", "validate", "normalize", "import", "audit", "route")
RESOURCES = {"Patient/p1", "Observation/o1-1", "Observation/o1-2"}


def run_below(place: Place, prefix: str, files: dict[str, bytes]) -> Chain:
    """Deliver files below a prefix of their own and take them in."""
    place.put(files, f"in/{prefix}/")
    chain = Chain(place, clinical_pipeline(), run_id=f"manual__{prefix}", params={"prefix": f"in/{prefix}/"})
    chain.run()
    return chain


def versions(place: Place) -> dict[str, int]:
    return {name: place.version(name) for name in RESOURCES}


def test_the_same_files_under_another_prefix_are_duplicates_and_change_nothing(place: Place) -> None:
    files = delivery(patients=1, observations=2)
    assert run_below(place, "first", files).report["dispositions"] == {"released": 3}
    routed = place.contracts()

    again = run_below(place, "again", files)
    assert again.report["dispositions"] == {"duplicate": 3}
    assert again.report["balanced"]
    assert len(place.jobs()) == 1
    assert versions(place) == dict.fromkeys(RESOURCES, 1)
    assert place.contracts() == routed


def test_the_same_resources_in_other_files_are_duplicates(place: Place) -> None:
    run_below(place, "first", {"lines.ndjson": ndjson(patient(), observation())})
    again = run_below(place, "again", {"bundle.json": transaction(observation(), patient())})
    assert again.report["dispositions"] == {"duplicate": 2}
    assert len(place.jobs()) == 1


def test_clearing_any_stage_with_what_follows_gives_the_same_and_no_second_job(place: Place) -> None:
    place.put(delivery(patients=1, observations=2) | {"bad.ndjson": ndjson("not json", observation(status=None))})
    chain = Chain(place, clinical_pipeline())
    chain.run()
    first = chain.report, chain.lines, place.contracts()
    for stage in STAGES:
        chain.stage(stage)
        assert (chain.report, chain.lines, place.contracts()) == first, stage
    assert len(place.jobs()) == 1
    assert versions(place) == dict.fromkeys(RESOURCES, 1)


def test_policy_changed_after_the_import_changes_nothing(place: Place) -> None:
    place.put({"a.ndjson": ndjson(patient(), observation())})
    chain = Chain(place, clinical_pipeline())
    chain.run()
    first = chain.report, place.contracts()
    chain.pipeline = clinical_pipeline(parse={"resource_mib": 0.00001}, validation={"service_check": "all"})
    chain.onward()
    assert (chain.report, place.contracts()) == first
    assert len(place.jobs()) == 1


def test_changed_resource_is_an_update_and_a_revision_of_its_patient(place: Place) -> None:
    run_below(place, "first", {"a.ndjson": ndjson(patient(), observation("o1-1"), observation("o1-2"))})
    changed = observation("o1-1", status="amended")
    second = run_below(place, "second", {"b.ndjson": ndjson(changed, observation("o1-2"))})
    assert second.words == {"second/b.ndjson:2": ("duplicate", "duplicate_same_content")}
    assert second.report["dispositions"] == {"released": 1, "duplicate": 1}
    assert versions(place) == {"Patient/p1": 1, "Observation/o1-1": 2, "Observation/o1-2": 1}
    before, after = sorted(place.contracts(), key=lambda contract: contract["revision"])
    assert before["subject_key"] == after["subject_key"]
    assert [len(contract["resources"]) for contract in (before, after)] == [3, 3]
    assert after["resources"] != before["resources"]


def test_of_two_runs_at_once_one_waits_its_turn(place: Place) -> None:
    place.put({"a.ndjson": ndjson(organization("clinic"))}, "in/one/")
    place.put({"b.ndjson": ndjson(organization("clinic"), organization("ward"))}, "in/two/")
    one, two = (
        Chain(place, clinical_pipeline(), run_id=f"manual__{name}", params={"prefix": f"in/{name}/"})
        for name in ("one", "two")
    )
    one.until("validate")
    two.run()
    assert two.words == {"Organization/clinic": ("quarantined", "instance_claimed")}
    assert place.routed() == {"Organization/ward"}
    one.onward("normalize")
    assert one.report["dispositions"] == {"released": 1}

    three = Chain(place, clinical_pipeline(), run_id="manual__three")
    assert three.run()["dispositions"] == {"duplicate": 2}  # the file of the one that had to wait comes again
    assert place.routed() == {"Organization/clinic", "Organization/ward"}
    assert [place.version(f"Organization/{name}") for name in ("clinic", "ward")] == [1, 1]


def test_what_was_stored_with_issues_is_released_once_it_comes_corrected(place: Place) -> None:
    minimal = clinical_pipeline(**MINIMAL)
    place.put({"a.ndjson": ndjson(patient(maritalStatus={}))})
    first = Chain(place, minimal, run_id="manual__first")
    first.run()
    assert first.words == {"Patient/p1": ("held", "stored_with_issues")}
    assert place.contracts() == []

    place.put({"b.ndjson": ndjson(patient())})
    second = Chain(place, minimal, run_id="manual__second")
    assert second.run()["dispositions"] == {"released": 1}
    assert place.routed() == {"Patient/p1"}
