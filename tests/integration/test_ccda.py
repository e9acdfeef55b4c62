"""C-CDA documents through the whole chain: converted, imported strictly, and held until a person has approved them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from airflow.sdk.exceptions import AirflowFailException

from airlock_local.sample.ccda.documents import ccd, entity_bomb, external_entity, without_namespace
from healthaws.hooks.healthlake_transformation_jobs import HealthLakeDataTransformationJobHook
from localaws.healthlake.transformation.profiles import STARTER
from tests.chain import PROFILE, Chain, ccda_pipeline, release

if TYPE_CHECKING:
    from tests.chain import Place

pytestmark = pytest.mark.slow

TWO = {"1.xml": ccd(1), "2.xml": ccd(2)}


def converted(place: Place, files: dict[str, bytes], run_id: str = "manual__1") -> Chain:
    """Deliver documents and take them in by a run, to its end."""
    place.put(files)
    chain = Chain(place, ccda_pipeline(), run_id=run_id)
    chain.run()
    return chain


def questions(chain: Chain) -> list[int]:
    """Return how many resources each open question is about."""
    with chain.place.ledger() as ledger:
        return [one.subjects for one in ledger.open_reviews({chain.pipeline.name})]


def stored(place: Place) -> int:
    return sum(1 for kind in ("Patient", "Condition", "Practitioner") for _ in place.fhir().search(kind, {}))


def test_converted_resources_wait_for_a_person_whose_approval_routes_them(place: Place) -> None:
    chain = converted(place, TWO)
    waiting = chain.report["dispositions"]
    assert waiting.keys() == {"held"}
    assert chain.report["reasons"].keys() == {"awaiting_review"}
    assert place.contracts() == []
    assert stored(place)

    assert questions(chain) == [waiting["held"]]
    release(chain, "ten of them were compared with their documents")
    assert chain.report["dispositions"] == {"released": waiting["held"]}
    assert chain.report["balanced"]
    assert len(place.routed()) == waiting["held"]

    chain.onward("fhir.audit")  # as one clears it: the answer stands, and nobody is asked again
    assert chain.report["dispositions"] == {"released": waiting["held"]}
    assert questions(chain) == []


def test_what_a_person_keeps_held_stays_held(place: Place) -> None:
    chain = converted(place, {"1.xml": ccd(1)})
    release(chain, "the medications are wrong", approved=False)
    assert chain.report["dispositions"].keys() == {"held"}
    assert place.contracts() == []


def test_every_bad_document_costs_itself_alone(place: Place) -> None:
    bad = {
        "cut.xml": ccd(3)[:-200],
        "text.xml": b"dear colleague",
        "bomb.xml": entity_bomb(),
        "external.xml": external_entity(f"{place.s3_endpoint}/archive/in/1.xml"),
        "other.xml": without_namespace(),
        "nameless.xml": ccd(4, document_id=""),
        "readme.txt": b"exported",
    }
    chain = converted(place, {"1.xml": ccd(1)} | bad)
    words = {row["key"].removeprefix("in/"): (row["disposition"], row["reason"]) for row in chain.lines}
    assert {name: words[name] for name in bad} == {
        "cut.xml": ("quarantined", "truncated"),
        "text.xml": ("quarantined", "not_xml"),
        "bomb.xml": ("quarantined", "xml_entity"),
        "external.xml": ("quarantined", "xml_entity"),
        "other.xml": ("quarantined", "not_ccda"),
        "nameless.xml": ("quarantined", "document_without_id"),
        "readme.txt": ("ignored", "sidecar"),
    }
    assert chain.report["balanced"]
    assert chain.report["arrivals"] == 1 + len(bad)

    release(chain, "compared with the document")
    assert chain.report["dispositions"]["released"] == len(place.routed()) > 0


def test_a_version_that_comes_as_the_job_starts_fails_the_run_and_nothing_goes_on(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = HealthLakeDataTransformationJobHook.profile_version

    def publish_after(hook: HealthLakeDataTransformationJobHook, profile_id: str) -> int:
        found = ask(hook, profile_id)
        place.healthlake().publish_data_transformation_profile(ProfileId=PROFILE, SourceFormat="CCDA")
        return found

    monkeypatch.setattr(HealthLakeDataTransformationJobHook, "profile_version", publish_after)
    place.put(TWO)
    chain = Chain(place, ccda_pipeline())
    with pytest.raises(AirflowFailException, match="2 arrivals are undecided"):
        chain.run()
    assert chain.states["import"] == "failed"
    assert "ran version 2 of profile" in str(chain.errors[0])
    assert chain.report["dispositions"] == {"failed": 2}
    assert chain.report["reasons"].keys() == {"job_unfinished"}
    assert place.contracts() == []
    assert stored(place) == 0
    assert [job["service"] for job in place.jobs()] == ["healthlake"]


def test_document_that_the_service_cannot_convert_is_set_aside(place: Place) -> None:
    place.faults({"kind": "all_files_rejected", "key": "*/000000.xml"})
    chain = converted(place, TWO)
    assert chain.words["1.xml"] == ("quarantined", "conversion_failed")
    assert chain.report["balanced"]
    release(chain, "compared with the documents")
    assert chain.report["dispositions"]["released"] == len(place.routed()) > 0


def test_the_same_documents_again_are_duplicates(place: Place) -> None:
    chain = converted(place, TWO)
    release(chain, "compared with the documents")
    contracts, jobs = place.contracts(), len(place.jobs())

    place.put(TWO, "in/again/")
    again = Chain(place, ccda_pipeline(), run_id="manual__2")
    again.run()  # nothing is held, so nobody is asked
    assert again.report["dispositions"] == {"duplicate": 2}
    assert place.contracts() == contracts
    assert len(place.jobs()) == jobs


def test_a_version_that_nobody_has_signed_for_stops_before_the_conversion(place: Place) -> None:
    place.put(TWO)
    chain = Chain(place, ccda_pipeline("unsigned"))
    chain.pipeline = ccda_pipeline("unsigned", transformation=_naming(profile_version=2))
    with pytest.raises(AirflowFailException, match="2 arrivals are undecided"):
        chain.run()
    assert chain.states["import"] == "failed"
    assert "Nobody has signed for version 2 of profile" in str(chain.errors[0])
    assert place.jobs() == []


def test_a_signed_profile_that_was_deleted_stops_before_the_conversion(place: Place) -> None:
    place.put(TWO)
    made = place.healthlake().create_data_transformation_profile(
        ProfileName="deleted", SourceFormat="CCDA", Source={"StarterProfile": {"StarterProfileName": STARTER}}
    )["ProfileId"]
    place.healthlake().publish_data_transformation_profile(ProfileId=made, SourceFormat="CCDA")
    chain = Chain(place, ccda_pipeline("deleted", transformation=_naming(profile_id=made)))
    place.healthlake().delete_data_transformation_profile(ProfileId=made)
    with pytest.raises(AirflowFailException, match="undecided"):
        chain.run()
    assert f"HealthLake has no published version of profile {made}, which was signed on" in str(chain.errors[0])
    assert place.jobs() == []


def test_a_version_that_was_published_after_the_signed_one_stops_before_the_conversion(place: Place) -> None:
    place.put(TWO)
    made = place.healthlake().create_data_transformation_profile(
        ProfileName="newer", SourceFormat="CCDA", Source={"StarterProfile": {"StarterProfileName": STARTER}}
    )["ProfileId"]
    place.healthlake().publish_data_transformation_profile(ProfileId=made, SourceFormat="CCDA")
    chain = Chain(place, ccda_pipeline("newer", transformation=_naming(profile_id=made)))
    place.healthlake().publish_data_transformation_profile(ProfileId=made, SourceFormat="CCDA")
    with pytest.raises(AirflowFailException, match="undecided"):
        chain.run()
    assert "A job would convert with version 2" in str(chain.errors[0])
    assert place.jobs() == []


def _naming(**changes: Any) -> dict[str, Any]:
    return ccda_pipeline().transformation.model_dump() | changes
