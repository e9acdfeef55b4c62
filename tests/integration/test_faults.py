"""The whole chain with each of the service's faults switched on in turn: what may be released, and what must not."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from tests.chain import Chain, pipeline
from tests.dicom_files import ct, delivery
from tests.ledger_rows import count_arrivals

if TYPE_CHECKING:
    from tests.chain import Place

pytestmark = pytest.mark.slow

SIX = delivery(studies=2, instances=3)
QUICK = {
    "datastore_id": "d" * 32,
    "data_access_role_arn": "arn:aws:iam::123456789012:role/import",
    "output_uri": "s3://output/imports/",
    "region_name": "us-east-1",
    "poll_seconds": 1,
    "job_timeout_minutes": 1,
    "backoff_seconds": 0.1,
}


def run_with(place: Place, *faults: dict[str, Any], **changes: Any) -> Chain:
    place.put(SIX)
    place.faults(*faults)
    chain = Chain(place, pipeline(**({"healthimaging": QUICK} | changes)))
    chain.run()
    return chain


def dispositions(chain: Chain) -> dict[str, int]:
    assert chain.report["balanced"]
    assert sum(chain.report["dispositions"].values()) == chain.report["arrivals"] == len(SIX)
    return chain.report["dispositions"]


def reasons(chain: Chain) -> dict[str, int]:
    return {code: entry["arrivals"] for code, entry in chain.report["reasons"].items()}


def contracts(place: Place) -> int:
    return len(place.keys("contracts"))


def test_without_a_fault_everything_is_released_and_routed_once(place: Place) -> None:
    chain = run_with(place)
    assert dispositions(chain) == {"released": 6}
    assert contracts(place) == 2
    assert len(place.jobs()) == 1


def test_completed_with_every_file_rejected_releases_nothing(place: Place) -> None:
    chain = run_with(place, {"kind": "all_files_rejected"})
    assert chain.report["jobs"][0]["status"] == "COMPLETED"
    assert dispositions(chain) == {"failed": 6}
    assert reasons(chain) == {"rejected": 6}
    assert contracts(place) == 0


def test_one_rejected_file_holds_its_study_only(place: Place) -> None:
    chain = run_with(place, {"kind": "all_files_rejected", "key": "*/000001.dcm"})
    assert dispositions(chain) == {"released": 3, "held": 2, "failed": 1}
    assert reasons(chain) == {"study_incomplete": 2, "rejected": 1}
    assert contracts(place) == 1


def test_server_errors_are_told_from_bad_files(place: Place) -> None:
    chain = run_with(place, {"kind": "server_error_on_files", "key": "*/000001.dcm"})
    assert dispositions(chain) == {"released": 3, "held": 2, "failed": 1}
    assert reasons(chain)["server_error"] == 1


def test_late_manifest_is_waited_for(place: Place) -> None:
    chain = run_with(place, {"kind": "manifest_late", "seconds": 1})
    assert dispositions(chain) == {"released": 6}


def test_manifest_that_comes_too_late_proves_nothing(place: Place) -> None:
    quick = {"manifest_wait_seconds": 0.1}
    chain = run_with(place, {"kind": "manifest_late", "seconds": 3600}, audit=quick)
    assert dispositions(chain) == {"failed": 6}
    assert reasons(chain) == {"manifest_missing": 6}
    assert contracts(place) == 0


def test_auditing_again_once_the_manifest_is_there_releases(place: Place) -> None:
    place.put(SIX)
    chain = Chain(place, pipeline(healthimaging=QUICK, audit={"manifest_wait_seconds": 0.0}))
    chain.until("import")
    taken_away = place.take("output")
    chain.stage("audit")
    chain.stage("route")
    assert dispositions(chain) == {"failed": 6}
    assert contracts(place) == 0

    place.give("output", taken_away)
    chain.stage("audit")
    chain.stage("route")
    assert dispositions(chain) == {"released": 6}
    assert contracts(place) == 2
    assert len(place.jobs()) == 1


def test_files_that_no_result_line_names_are_unaccounted_for(place: Place) -> None:
    quick = {"manifest_wait_seconds": 0.1}
    chain = run_with(place, {"kind": "manifest_partial", "key": "*/000001.dcm"}, audit=quick)
    assert dispositions(chain) == {"held": 5, "failed": 1}
    assert reasons(chain)["not_in_manifest"] == 1
    assert chain.report["jobs"][0]["discrepancies"]
    assert contracts(place) == 0


def test_results_without_a_manifest_still_name_their_files(place: Place) -> None:
    quick = {"manifest_wait_seconds": 0.1}
    chain = run_with(place, {"kind": "manifest_missing", "keep_results": True}, audit=quick)
    assert sum(dispositions(chain).values()) == 6


def test_failed_job_is_tried_again_as_a_new_generation(place: Place) -> None:
    chain = run_with(place, {"kind": "job_failed_without_output", "times": 1})
    assert dispositions(chain) == {"released": 6}
    assert [job["jobStatus"] for job in place.jobs()] == ["FAILED", "COMPLETED"]
    assert chain.report["jobs"][0]["generation"] == 1


@pytest.mark.parametrize("kind", ["job_failed_without_output", "job_failed_with_output"])
def test_job_that_always_fails_ends_and_holds(place: Place, kind: str) -> None:
    quick = {"manifest_wait_seconds": 0.1}
    chain = run_with(place, {"kind": kind}, audit=quick)
    assert len(place.jobs()) == QUICK.get("max_generations", 3)
    assert chain.report["jobs"][0]["status"] == "FAILED"
    assert "released" not in dispositions(chain) or kind == "job_failed_with_output"
    assert chain.xcom["audit", 0]["open_arrivals"] == 0


def test_stuck_job_ends_in_a_decision_and_is_taken_up_again(place: Place) -> None:
    place.put(SIX)
    place.faults({"kind": "stuck_in_progress"})
    chain = Chain(place, pipeline(healthimaging=QUICK | {"job_timeout_minutes": 0.03}), tries=1)
    with pytest.raises(Exception, match="6 arrivals are undecided"):
        chain.run()
    assert reasons(chain) == {"job_unfinished": 6}
    assert contracts(place) == 0

    place.faults()  # the job goes on
    chain.pipeline = pipeline(healthimaging=QUICK)
    for stage in ("import", "audit", "route"):
        chain.stage(stage)
    assert dispositions(chain) == {"released": 6}
    assert len(place.jobs()) == 1


@pytest.mark.parametrize("kind", ["throttle_storm", "quota_storm"])
def test_refusals_are_waited_out_without_using_up_retries(place: Place, kind: str) -> None:
    chain = run_with(place, {"kind": kind, "operation": "StartDICOMImportJob", "times": 4})
    assert dispositions(chain) == {"released": 6}
    assert chain.errors == []
    assert len(place.jobs()) == 1


@pytest.mark.parametrize("answer", ["drop", "500"])
def test_lost_answer_starts_no_second_job(place: Place, answer: str) -> None:
    chain = run_with(place, {"kind": "lost_response", "operation": "StartDICOMImportJob", "times": 1, "answer": answer})
    assert dispositions(chain) == {"released": 6}
    assert len(place.jobs()) == 1


def test_slow_service_is_borne(place: Place) -> None:
    chain = run_with(place, {"kind": "slow_responses", "seconds": 1, "operation": "GetDICOMImportJob", "times": 3})
    assert dispositions(chain) == {"released": 6}


def test_metadata_conflict_that_only_the_store_knows_is_held_as_non_primary(place: Place) -> None:
    place.put({"first.dcm": ct(1, 1, 1)}, prefix="other/")
    foreign = Chain(place, pipeline("foreign", source={"uri": "s3://archive/other/"}))
    foreign.run()
    with place.ledger() as ledger:  # as if somebody else had imported it
        assert count_arrivals(ledger, "foreign")
    place.put({"second.dcm": ct(1, 1, 2, AccessionNumber="ANOTHER")})
    chain = Chain(place, pipeline(validation={"grouping_conflict": "accept"}))
    report = chain.run()
    assert report["outcomes"] == {"non_primary": 1}
    assert report["dispositions"] == {"held": 1}
    assert report["reasons"].keys() == {"non_primary"}


def test_the_same_delivery_again_imports_nothing(place: Place) -> None:
    run_with(place)
    again = Chain(place, pipeline(healthimaging=QUICK), run_id="manual__2026-11-25T00:00:00+00:00")
    report = again.run()
    assert report["arrivals"] == 0
    assert report["balanced"]
    assert report["jobs"] == []
    assert len(place.jobs()) == 1
    assert contracts(place) == 2


def test_clearing_any_stage_with_what_follows_gives_the_same_and_no_second_job(place: Place) -> None:
    chain = run_with(place)
    first = chain.report, chain.rows
    stages = ("receive", "buffer", "parse", "validate", "normalize", "stage", "import", "audit", "route")
    for cleared in range(len(stages)):
        for stage in stages[cleared:]:
            chain.stage(stage)
        assert (chain.report, chain.rows) == first, stages[cleared]
    assert len(place.jobs()) == 1
    assert contracts(place) == 2


def test_asking_for_a_new_generation_starts_exactly_one_more_job(place: Place) -> None:
    chain = run_with(place)
    chain.stores["import", 0].set("generation", 1)
    for _ in range(2):
        chain.stage("import")
    assert len(place.jobs()) == 2


def test_dispositions_count_every_arrival_once(place: Place) -> None:
    chain = run_with(place, {"kind": "all_files_rejected", "share": 0.5})
    assert Counter(row["disposition"] for row in chain.rows.values()) == Counter(dispositions(chain))
