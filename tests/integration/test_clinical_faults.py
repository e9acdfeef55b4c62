"""The whole clinical chain with each of HealthLake's faults in turn: what may be released, and what must not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from airflow.sdk.exceptions import AirflowFailException

from healthaws.exceptions import FhirUnavailableError
from healthaws.hooks.healthlake_fhir import HealthLakeFhirHook
from tests.chain import HEALTHLAKE, Chain, clinical_pipeline
from tests.clinical_files import delivery

if TYPE_CHECKING:
    from tests.chain import Place

pytestmark = pytest.mark.slow

SIX = delivery(patients=2, observations=2)
OF_P1, OF_P2 = ({f"Patient/p{number}", *(f"Observation/o{number}-{each}" for each in (1, 2))} for number in (1, 2))
ALL = OF_P1 | OF_P2
IMPATIENT = {"manifest_wait_seconds": 0.1}


def run_with(place: Place, *faults: dict[str, Any], **changes: Any) -> Chain:
    place.put(SIX)
    place.faults(*faults)
    chain = Chain(place, clinical_pipeline(**changes))
    chain.run()
    return chain


def dispositions(chain: Chain) -> dict[str, int]:
    assert chain.report["balanced"]
    assert sum(chain.report["dispositions"].values()) == chain.report["resources"] == 6
    return chain.report["dispositions"]


def reasons(chain: Chain) -> dict[str, int]:
    return {code: entry["units"] for code, entry in chain.report["reasons"].items()}


def released_once(place: Place, chain: Chain) -> None:
    """Everything is downstream, by one job, and there is one version of it."""
    assert dispositions(chain) == {"released": 6}
    assert place.routed() == ALL
    assert len(place.jobs()) == 1
    assert {place.version(name) for name in ALL} == {1}


class TestOutput:
    """What the job leaves in its output folder is the only proof."""

    def test_late_manifest_is_waited_for(self, place: Place) -> None:
        released_once(place, run_with(place, {"kind": "manifest_late", "seconds": 1}))

    def test_nothing_is_released_without_a_manifest_and_all_once_it_is_there(self, place: Place) -> None:
        place.put(SIX)
        chain = Chain(place, clinical_pipeline(audit=IMPATIENT))
        chain.until("import")
        taken_away = place.take("output")
        chain.onward("audit")
        assert dispositions(chain) == {"failed": 6}
        assert reasons(chain) == {"manifest_missing": 6}
        assert place.routed() == set()

        place.give("output", taken_away)
        chain.onward("audit")
        released_once(place, chain)

    def test_lines_without_a_manifest_hold_what_they_name(self, place: Place) -> None:
        chain = run_with(place, {"kind": "manifest_missing", "keep_results": True}, audit=IMPATIENT)
        assert dispositions(chain) == {"held": 6}
        assert reasons(chain) == {"job_counts_disagree": 6}
        assert place.routed() == set()

    def test_resource_that_no_line_names_is_unaccounted_for(self, place: Place) -> None:
        chain = run_with(place, {"kind": "manifest_partial", "key": "Observation/o1-1"}, audit=IMPATIENT)
        assert dispositions(chain) == {"held": 5, "failed": 1}
        assert chain.words["Observation/o1-1"] == ("failed", "not_in_manifest")
        assert chain.report["jobs"][0]["discrepancies"]
        assert place.routed() == set()

    def test_errors_that_nothing_tells_of_hold_everything(self, place: Place) -> None:
        chain = run_with(place, {"kind": "completed_with_errors"})
        assert chain.report["jobs"][0]["status"] == "COMPLETED_WITH_ERRORS"
        assert dispositions(chain) == {"held": 6}
        assert place.routed() == set()


class TestResources:
    """What the service says of single resources."""

    def test_every_resource_rejected_releases_nothing(self, place: Place) -> None:
        chain = run_with(place, {"kind": "all_resources_rejected"})
        assert chain.report["jobs"][0]["status"] == "COMPLETED_WITH_ERRORS"
        assert dispositions(chain) == {"failed": 6}
        assert reasons(chain) == {"rejected": 6}
        assert place.routed() == set()

    def test_one_rejected_resource_costs_itself_alone(self, place: Place) -> None:
        chain = run_with(place, {"kind": "all_resources_rejected", "key": "Observation/o1-1"})
        assert chain.words == {"Observation/o1-1": ("failed", "rejected")}
        assert place.routed() == ALL - {"Observation/o1-1"}

    def test_one_rejected_resource_holds_its_patient_where_the_policy_says_so(self, place: Place) -> None:
        strict = {"manifest_wait_seconds": 3, "hold_incomplete_patients": True, "hold_types": ["Observation"]}
        chain = run_with(place, {"kind": "all_resources_rejected", "key": "Observation/o1-1"}, audit=strict)
        assert reasons(chain) == {"rejected": 1, "patient_held": 2}
        assert place.routed() == OF_P2

    def test_what_refers_to_a_rejected_resource_does_not_go_downstream(self, place: Place) -> None:
        run_with(place, {"kind": "all_resources_rejected", "key": "Patient/p1"})
        assert place.routed() == OF_P2

    def test_resource_that_the_service_lost_holds_its_patient(self, place: Place) -> None:
        chain = run_with(place, {"kind": "server_error_on_resources", "key": "Observation/o1-1"})
        assert dispositions(chain) == {"released": 3, "held": 2, "failed": 1}
        assert chain.words == dict.fromkeys(OF_P1, ("held", "patient_held")) | {
            "Observation/o1-1": ("failed", "not_in_manifest")  # no file names what the service lost
        }
        assert place.routed() == OF_P2


class TestJob:
    """How a job ends, or does not."""

    def test_failed_job_is_tried_again_as_a_new_generation(self, place: Place) -> None:
        chain = run_with(place, {"kind": "job_failed_without_output", "times": 1})
        assert dispositions(chain) == {"released": 6}
        assert [job["jobStatus"] for job in place.jobs()] == ["FAILED", "COMPLETED"]
        assert chain.report["jobs"][0]["generation"] == 1

    @pytest.mark.parametrize(
        ("kind", "ends"), [("job_failed_without_output", {"failed": 6}), ("job_failed_with_output", {"released": 6})]
    )
    def test_job_that_always_fails_ends_and_its_lines_decide(
        self, place: Place, kind: str, ends: dict[str, int]
    ) -> None:
        chain = run_with(place, {"kind": kind}, audit=IMPATIENT, healthlake=HEALTHLAKE | {"max_generations": 2})
        assert [job["jobStatus"] for job in place.jobs()] == ["FAILED", "FAILED"]
        assert chain.xcom["audit", 0]["open_arrivals"] == 0
        assert dispositions(chain) == ends
        assert len(place.routed()) == ends.get("released", 0)

    def test_cancelled_job_is_not_repeated_and_releases_nothing(self, place: Place) -> None:
        chain = run_with(place, {"kind": "cancelled"}, audit=IMPATIENT)
        assert dispositions(chain) == {"failed": 6}
        assert reasons(chain) == {"job_failed": 6}
        assert len(place.jobs()) == 1
        assert place.routed() == set()

    def test_job_cancelled_on_its_way_releases_nothing(self, place: Place) -> None:
        chain = run_with(place, {"kind": "cancelled", "key": "Observation/o1-1"}, audit=IMPATIENT)
        assert chain.words["Observation/o1-1"] == ("failed", "job_failed")
        assert dispositions(chain) == {"held": 5, "failed": 1}
        assert place.routed() == set()

    def test_waiting_in_the_queue_does_not_eat_the_running_time(self, place: Place) -> None:
        three_polls = HEALTHLAKE | {"job_timeout_minutes": 3 / 60}
        chain = run_with(place, {"kind": "queued_long", "seconds": 4}, healthlake=three_polls)
        assert chain.errors == []
        released_once(place, chain)

    @pytest.mark.parametrize(
        ("kind", "brief"),
        [("stuck_in_progress", {"job_timeout_minutes": 1 / 60}), ("queued_long", {"queued_timeout_minutes": 1 / 60})],
    )
    def test_job_that_never_ends_leaves_the_run_open_and_is_taken_up_again(
        self, place: Place, kind: str, brief: dict[str, float]
    ) -> None:
        place.put(SIX)
        place.faults({"kind": kind})
        chain = Chain(place, clinical_pipeline(healthlake=HEALTHLAKE | brief), tries=1)
        with pytest.raises(AirflowFailException, match="3 arrivals are undecided"):
            chain.run()
        assert reasons(chain) == {"job_unfinished": 6}
        assert place.routed() == set()

        place.faults()  # the job goes on
        chain.pipeline = clinical_pipeline()
        chain.onward("import")
        released_once(place, chain)


class TestCalls:
    """What happens to the calls themselves."""

    @pytest.mark.parametrize("kind", ["throttle_storm", "quota_storm", "role_not_assumable"])
    def test_refusals_are_waited_out_without_using_up_retries(self, place: Place, kind: str) -> None:
        chain = run_with(place, {"kind": kind, "operation": "StartFHIRImportJob", "times": 3})
        assert chain.errors == []
        released_once(place, chain)

    @pytest.mark.parametrize("answer", ["drop", "500"])
    def test_lost_answer_starts_no_second_job(self, place: Place, answer: str) -> None:
        fault = {"kind": "lost_response", "operation": "StartFHIRImportJob", "times": 1, "answer": answer}
        released_once(place, run_with(place, fault))

    def test_read_back_bears_a_service_that_stumbles(self, place: Place) -> None:
        stumbles = {"kind": "lost_response", "operation": "ReadResource", "answer": "500", "times": 1}
        chain = run_with(place, stumbles, {"kind": "throttle_storm", "operation": "ReadResource", "times": 1})
        assert chain.errors == []
        released_once(place, chain)

    def test_nothing_is_released_that_cannot_be_read_back(self, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(HealthLakeFhirHook.__init__.__kwdefaults__, "max_attempts", 1)
        place.put(SIX)
        place.faults({"kind": "lost_response", "operation": "ReadResource", "answer": "500"})
        chain = Chain(place, clinical_pipeline(), tries=1)
        with pytest.raises(FhirUnavailableError, match="read Observation: HTTP 500"):
            chain.run()
        assert place.routed() == set()

        place.faults()
        chain.onward("audit")
        released_once(place, chain)

    def test_what_reads_back_otherwise_is_held(self, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("airlock.clinical.read_back.TRIES", 1)
        place.put(SIX)
        chain = Chain(place, clinical_pipeline())
        chain.until("import")
        found = place.stored("Observation/o1-1")
        assert found
        place.fhir().update(found | {"status": "amended"})
        chain.onward("audit")
        assert chain.words["Observation/o1-1"] == ("held", "read_back_mismatch")
        assert place.routed() == OF_P2
