"""Redrive of records end to end: files and documents go through again, and what they have released stays as it is."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING, Any

import pytest
from airflow.sdk.exceptions import AirflowFailException

from airlock_local.sample.ccda.documents import ccd
from tests.chain import MINIMAL, Chain, ccda_pipeline, clinical_pipeline, release
from tests.clinical_files import ndjson, observation, organization, patient
from tests.ledger_rows import count_arrivals

if TYPE_CHECKING:
    from airlock.pipelines import Pipeline
    from tests.chain import Place

pytestmark = pytest.mark.slow

BAD = observation("o1", status=None)


def again(place: Place, number: int = 1, wanted: Pipeline | None = None, **params: Any) -> Chain:
    """Return a redrive's run."""
    asked = {"redrive_why": "the cause is cured", "redrive_by": "an operator"} | params
    return Chain(place, wanted or clinical_pipeline(), run_id=f"manual__redrive_{number}", params=asked)


def taken(
    place: Place,
    files: dict[str, bytes],
    name: str = "first",
    wanted: Pipeline | None = None,
) -> Chain:
    """Deliver files and take them in."""
    place.put(files)
    chain = Chain(place, wanted or clinical_pipeline(), run_id=f"manual__{name}")
    chain.run()
    return chain


def versions(place: Place, *names: str) -> dict[str, int]:
    return {name: place.version(name) for name in names}


def test_a_fixed_file_brings_what_was_set_aside_and_nothing_that_was_released(place: Place) -> None:
    first = taken(place, {"a.ndjson": ndjson(patient(), BAD, organization())})
    assert first.report["dispositions"] == {"released": 2, "quarantined": 1}
    place.put({"a.ndjson": ndjson(patient(), observation("o1"), organization())})

    redrive = again(place, redrive_run="manual__first", redrive_reasons=["invalid_resource"])
    report = redrive.run()

    assert report["dispositions"] == {"duplicate": 2, "released": 1}
    assert report["redrive"]["counts"] == {"chosen": 1, "taken": 1, "carried": 0, "in_already": 0}
    assert (report["redrive"]["asked_by"], report["redrive"]["why"]) == ("an operator", "the cause is cured")
    assert versions(place, "Patient/p1", "Observation/o1", "Organization/clinic") == {
        "Patient/p1": 1,
        "Observation/o1": 1,
        "Organization/clinic": 1,
    }
    assert place.routed() == {"Patient/p1", "Observation/o1", "Organization/clinic"}
    once = redrive.report, place.contracts()

    redrive.onward()
    assert (redrive.report, place.contracts()) == once
    assert len(place.jobs()) == 2
    assert Chain(place, clinical_pipeline(), run_id="manual__nightly").run()["arrivals"] == 0
    with pytest.raises(AirflowFailException, match="meets the request"):
        again(place, 2, redrive_run="manual__first").until("buffer")


def test_an_unchanged_file_is_decided_on_by_todays_policy(place: Place) -> None:
    files = {"a.ndjson": ndjson(patient(), observation("o1", of="p9"))}
    strict = clinical_pipeline(validation={"unknown_reference": "quarantine"})
    assert taken(place, files, wanted=strict).words == {"Observation/o1": ("quarantined", "unresolved_reference")}
    lenient = clinical_pipeline(validation={"unknown_reference": "accept"})
    redrive = again(place, wanted=lenient, redrive_reasons=["unresolved_reference"])
    assert redrive.run()["dispositions"] == {"duplicate": 1, "released": 1}
    assert place.version("Patient/p1") == 1


def test_a_resource_that_a_file_has_twice_is_a_duplicate_both_times(place: Place) -> None:
    taken(place, {"a.ndjson": ndjson(patient(), patient(), BAD)})
    redrive = again(place, redrive_run="manual__first")
    assert redrive.run()["dispositions"] == {"duplicate": 2, "quarantined": 1}


def test_a_reason_that_no_resource_of_a_file_has_chooses_nothing(place: Place) -> None:
    taken(place, {"a.ndjson": ndjson(patient(), BAD)})
    with pytest.raises(AirflowFailException, match="meets the request"):
        again(place, redrive_reasons=["not_json"]).until("buffer")


def test_what_came_corrected_since_is_never_written_over(place: Place) -> None:
    taken(place, {"a.ndjson": ndjson(patient(), observation("o2"), BAD)})
    taken(
        place, {"b.ndjson": ndjson(observation("o1", status="amended"), observation("o2", status="amended"))}, "second"
    )
    contracts = place.contracts()

    redrive = again(place, wanted=clinical_pipeline(), redrive_run="manual__first")
    redrive.run()

    assert redrive.words["Observation/o2"] == ("ignored", "newer_content")
    assert redrive.words["Observation/o1"] == ("quarantined", "invalid_resource")
    assert place.stored("Observation/o2")["status"] == "amended"  # type: ignore[index]  # it is there
    assert versions(place, "Observation/o1", "Observation/o2") == {"Observation/o1": 1, "Observation/o2": 2}
    assert place.contracts() == contracts


def test_an_edited_list_chooses_the_files_of_the_rows_that_were_kept(place: Place) -> None:
    files = {
        name: ndjson(patient(of), observation(f"o-{of}", of), "{")
        for name, of in (("a.ndjson", "p1"), ("b.ndjson", "p2"))
    }
    first = taken(place, files)
    kept = [row for row in first.lines if row["key"] == "in/a.ndjson"]
    place.put({"a.ndjson": ndjson(patient(), observation("o-p1"), observation("o3"))})
    place.s3().put_object(Bucket="workspace", Key="edited.csv", Body=table(kept))

    report = again(place, redrive_csv="s3://workspace/edited.csv", redrive_reasons=["not_json"]).run()

    assert report["dispositions"] == {"duplicate": 2, "released": 1}
    assert report["redrive"]["counts"]["chosen"] == 1


def test_a_list_with_what_cannot_be_redriven_is_refused_as_a_whole(place: Place) -> None:
    files = {"a.ndjson": ndjson(patient()), "c.ndjson": b"", "d.ndjson": ndjson(patient())}
    first = taken(place, files)
    rows = {row["key"]: row for row in first.lines}
    bad = rows["in/c.ndjson"]
    lists = {
        "duplicate": ([bad, rows["in/d.ndjson"]], "line 3: it is duplicate, and only held"),
        "exchanged": ([bad | {"key": "in/a.ndjson"}], "line 2: its key is not that of the arrival"),
        "strange": ([bad | {"SOPInstanceUID": ""}], "1 columns in line 1"),
    }
    for name, (kept, fault) in lists.items():
        place.s3().put_object(Bucket="workspace", Key=f"{name}.csv", Body=table(kept))
        with pytest.raises(AirflowFailException, match=fault):
            again(place, redrive_csv=f"s3://workspace/{name}.csv").until("buffer")
    with place.ledger() as ledger:
        assert count_arrivals(ledger, "records") == {"released": 1, "quarantined": 1, "duplicate": 1}


def table(rows: list[dict[str, str]]) -> bytes:
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, rows[0])
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue().encode()


def test_what_waits_for_the_same_patient_in_another_file_goes_along(place: Place) -> None:
    place.faults({"kind": "all_resources_rejected", "key": "Observation/o1"})
    whole = {"hold_incomplete_patients": True, "hold_types": ["Observation"]}
    strict = clinical_pipeline(audit={"manifest_wait_seconds": 3} | whole)
    files = {"Patient.ndjson": ndjson(patient()), "Observation.ndjson": ndjson(observation("o1"))}
    first = taken(place, files, wanted=strict)
    assert first.words == {"Patient/p1": ("held", "patient_held"), "Observation/o1": ("failed", "rejected")}
    place.faults()

    redrive = again(place, wanted=strict, redrive_reasons=["rejected"])
    assert redrive.run()["dispositions"] == {"released": 2}
    assert redrive.report["redrive"]["counts"]["chosen"] == 2
    assert place.routed() == {"Patient/p1", "Observation/o1"}


def test_what_was_stored_with_issues_is_brought_anew_and_what_was_released_is_not(place: Place) -> None:
    minimal = clinical_pipeline(**MINIMAL)
    files = {"a.ndjson": ndjson(patient(maritalStatus={}), observation("o1"))}
    first = taken(place, files, wanted=minimal)
    assert first.words == {"Patient/p1": ("held", "stored_with_issues")}
    place.put({"a.ndjson": ndjson(patient(), observation("o1"))})

    redrive = again(place, wanted=minimal, redrive_reasons=["stored_with_issues"])
    assert redrive.run()["dispositions"] == {"duplicate": 1, "released": 1}
    assert versions(place, "Patient/p1", "Observation/o1") == {"Patient/p1": 2, "Observation/o1": 1}
    assert place.routed() == {"Patient/p1", "Observation/o1"}


def test_what_is_still_stored_with_issues_is_held_again(place: Place) -> None:
    minimal = clinical_pipeline(**MINIMAL)
    taken(place, {"a.ndjson": ndjson(patient(maritalStatus={}))}, wanted=minimal)
    redrive = again(place, wanted=minimal, redrive_run="manual__first")
    redrive.run()
    assert redrive.words == {"Patient/p1": ("held", "stored_with_issues")}
    assert place.routed() == set()


def test_a_word_that_comes_after_a_redrive_has_taken_the_file_over_releases_nothing(place: Place) -> None:
    minimal = clinical_pipeline(**MINIMAL)
    place.put({"a.ndjson": ndjson(patient(maritalStatus={}))})
    first = Chain(place, minimal, run_id="manual__first")
    first.run()
    redrive = again(place, wanted=minimal, redrive_run="manual__first")
    redrive.run()

    assert release(first, "read beside its source")["dispositions"] == redrive.report["dispositions"] == {"held": 1}
    assert place.routed() == set()


@pytest.mark.parametrize(
    "params", [{"redrive_study": "0" * 16}, {"redrive_run": "manual__first", "redrive_non_primary": "delete"}]
)
def test_what_is_about_studies_is_refused_by_name(place: Place, params: dict[str, str]) -> None:
    field = list(params)[-1]
    with pytest.raises(AirflowFailException, match=f"{field} is for pipelines of kind imaging, .* Leave it out"):
        again(place, **params).until("receive")


class TestDocuments:
    def test_a_fixed_document_is_converted_and_asked_about(self, place: Place) -> None:
        place.put({"1.xml": ccd(1), "2.xml": ccd(2)[:-200]})
        first = Chain(place, ccda_pipeline(), run_id="manual__first")
        first.run()
        release(first, "compared")
        assert first.words["2.xml"] == ("quarantined", "truncated")
        before, jobs = place.routed(), len(place.jobs())
        place.put({"2.xml": ccd(2)})

        redrive = again(place, wanted=ccda_pipeline(), redrive_reasons=["truncated"])
        redrive.run()
        assert release(redrive, "compared")["dispositions"]["released"]

        assert redrive.report["redrive"]["counts"]["chosen"] == 1
        assert place.routed() > before
        assert len(place.jobs()) == jobs + 2  # a conversion and an import

    def test_a_document_that_a_person_kept_held_comes_corrected(self, place: Place) -> None:
        place.put({"1.xml": ccd(1)})
        first = Chain(place, ccda_pipeline(), run_id="manual__first")
        first.run()
        assert {reason for _, reason in first.words.values()} == {"awaiting_review"}
        place.put({"1.xml": ccd(1, problems=2)})

        redrive = again(place, wanted=ccda_pipeline(), redrive_run="manual__first")
        redrive.run()
        assert {reason for _, reason in redrive.words.values()} == {"awaiting_review"}
        assert release(first, "it was right after all")["dispositions"].keys() == {"held"}
        assert place.routed() == set()

        assert release(redrive, "compared")["dispositions"].keys() == {"released"}
        assert place.routed()

    def test_an_unchanged_held_document_is_asked_about_once_more(self, place: Place) -> None:
        place.put({"1.xml": ccd(1)})
        first = Chain(place, ccda_pipeline(), run_id="manual__first")
        first.run()
        release(first, "wrong", approved=False)
        redrive = again(place, wanted=ccda_pipeline(), redrive_run="manual__first")
        redrive.run()
        assert release(redrive, "compared")["dispositions"].keys() == {"released"}
        assert place.routed()
