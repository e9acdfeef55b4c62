"""What a run has acted on stands: clearing tasks after the policy, the limits or the archive have changed."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from airlock.records import Window
from airlock.run import run_key
from tests.chain import Chain, pipeline
from tests.dicom_files import ct, delivery
from tests.servers.objects import date_objects, encrypt_bucket, put_in_parts

if TYPE_CHECKING:
    from tests.chain import Place

pytestmark = pytest.mark.slow

STAGES = ("receive", "buffer", "parse", "validate", "normalize", "stage", "import", "audit", "route")


def again(chain: Chain) -> None:
    for stage in STAGES:
        chain.stage(stage)


def test_policy_and_limits_changed_after_import_change_nothing(place: Place) -> None:
    place.put(delivery(studies=2, instances=2))
    chain = Chain(place, pipeline())
    chain.run()
    first = chain.report, chain.rows

    chain.pipeline = pipeline(limits={"files_per_job": 2, "element_lengths": {"PatientID": 2}})
    again(chain)

    assert (chain.report, chain.rows) == first
    assert len(place.jobs()) == 1


def test_archive_changed_after_import_changes_nothing(place: Place) -> None:
    place.put(delivery(studies=1, instances=3))
    chain = Chain(place, pipeline())
    chain.run()
    first = without_reading(chain.report), chain.rows

    place.put({"study-1/001.dcm": ct(1, 1, 1, pixel=9)})
    place.s3().delete_object(Bucket="archive", Key="in/study-1/002.dcm")
    again(chain)

    assert (without_reading(chain.report), chain.rows) == first
    assert len(place.jobs()) == 1


def without_reading(report: dict[str, Any]) -> dict[str, Any]:
    """Return a report without what reading has cost: reading other objects costs something else."""
    return {name: value for name, value in report.items() if name != "reading"}


def test_batches_without_a_job_are_staged_again(place: Place) -> None:
    place.put(delivery(studies=2, instances=2))
    chain = Chain(place, pipeline(limits={"files_per_job": 2}))
    chain.until("stage")
    first, second = chain.xcom["normalize", 0]
    operators = list(chain._operators("import"))
    chain.task(operators[0], 0)
    for key in place.keys("staging"):
        place.s3().delete_object(Bucket="staging", Key=key)

    for stage in ("normalize", "stage", "import", "audit", "route"):
        chain.stage(stage)

    assert chain.xcom["normalize", 0] == [first, second]
    assert chain.report["dispositions"] == {"released": 4}
    assert len(place.jobs()) == 2


def test_object_changed_between_listing_and_reading_is_taken_by_the_next_run(place: Place) -> None:
    place.put(delivery(studies=1, instances=2))
    chain = Chain(place, pipeline())
    chain.until("buffer")
    place.put({"study-1/002.dcm": ct(1, 1, 2, pixel=7)})
    for stage in STAGES[2:]:
        chain.stage(stage)
    assert chain.rows["study-1/002.dcm"]["reason"] == "object_changed"
    assert chain.rows["study-1/001.dcm"]["disposition"] in {"released", "held"}

    following = Chain(place, pipeline(), run_id="manual__2")
    report = following.run()
    assert report["dispositions"] == {"released": 1}


def test_an_archive_under_a_kms_key_with_uploads_in_parts_and_replicas_is_imported(place: Place) -> None:
    encrypt_bucket(place.s3(), "archive")
    files = delivery(studies=1, instances=3)
    place.put({name: files[name] for name in ("study-1/001.dcm", "study-1/002.dcm")})
    put_in_parts(place.s3(), "archive", "in/study-1/003.dcm", files["study-1/003.dcm"])
    date_objects("archive", ["in/study-1/002.dcm"], datetime(2019, 3, 1, 12, 0, tzinfo=UTC))
    listed = place.s3().list_objects_v2(Bucket="archive")["Contents"]
    assert [item["ETag"].strip('"').partition("-")[2] for item in listed] == ["", "", "1"]
    hashes = {hashlib.md5(body, usedforsecurity=False).hexdigest() for body in files.values()}
    assert hashes.isdisjoint(item["ETag"].strip('"') for item in listed)
    assert listed[1]["LastModified"].year == 2019

    assert Chain(place, pipeline()).run()["dispositions"] == {"released": 3}
    assert Chain(place, pipeline(), run_id="manual__next").run()["arrivals"] == 0


def test_object_changed_between_reading_and_staging_is_not_imported(place: Place) -> None:
    place.put(delivery(studies=1, instances=2))
    chain = Chain(place, pipeline())
    chain.until("validate")
    place.put({"study-1/002.dcm": ct(1, 1, 2, pixel=7)})
    for stage in STAGES[4:]:
        chain.stage(stage)
    row = chain.rows["study-1/002.dcm"]
    assert (row["disposition"], row["reason"]) == ("failed", "object_changed")
    assert chain.rows["study-1/001.dcm"]["disposition"] == "held"
    assert chain.report["balanced"]
    assert place.keys("contracts") == []


def test_object_archived_between_reading_and_staging_costs_itself_only(place: Place) -> None:
    place.put(delivery(studies=2, instances=1))
    chain = Chain(place, pipeline())
    chain.until("validate")
    body = ct(1, 1, 1)
    place.s3().put_object(Bucket="archive", Key="in/study-1/001.dcm", Body=body, StorageClass="GLACIER")
    for stage in STAGES[4:]:
        chain.stage(stage)
    row = chain.rows["study-1/001.dcm"]
    assert (row["disposition"], row["stage"], row["reason"]) == ("failed", "stage", "access_denied")
    assert chain.report["balanced"]
    assert chain.report["dispositions"] == {"released": 1, "failed": 1}
    with place.ledger() as ledger:
        assert ledger.count_owed("nightly")["waiting"].to_list() == [1]  # the next run tries it again


def test_study_over_three_nights_is_one_contract_that_grows(place: Place) -> None:
    place.put({"1.dcm": ct(1, 1, 1)})
    Chain(place, pipeline(), run_id="manual__1").run()
    place.put({"2.dcm": ct(1, 1, 2), "3.dcm": ct(1, 1, 3)[:-50]})
    second = Chain(place, pipeline(), run_id="manual__2")
    second.run()
    assert second.report["studies"] == {"released": 0, "held": 1, "stopped": 0}
    assert len(place.keys("contracts")) == 1

    place.put({"3.dcm": ct(1, 1, 3)})
    third = Chain(place, pipeline(), run_id="manual__3")
    third.run()
    assert third.report["studies"]["released"] == 1
    contracts = place.take("contracts")
    assert len(contracts) == 2
    newest = contracts[max(contracts)]
    assert newest.count(b'"SOPInstanceUID"') == 3


def test_file_that_could_not_be_got_at_comes_again_by_itself(place: Place) -> None:
    place.put(delivery(studies=1, instances=2))
    first = Chain(place, pipeline(), run_id="manual__1")
    first.until("buffer")
    taken = place.take("archive")
    for stage in STAGES[2:]:
        first.stage(stage)
    assert first.report["reasons"].keys() == {"object_gone"}

    place.give("archive", taken)
    second = Chain(place, pipeline(), run_id="manual__2")
    assert second.run()["dispositions"] == {"released": 2}
    assert Chain(place, pipeline(), run_id="manual__3").run()["arrivals"] == 0
    first.stage("audit")
    assert first.report["balanced"]


def test_instance_that_another_run_claimed_in_vain_comes_again(place: Place) -> None:
    place.put({"one.dcm": ct(1, 1, 1)})
    stopped = Chain(place, pipeline(), run_id="manual__1")
    stopped.until("validate")
    place.put({"two.dcm": ct(1, 1, 1)})
    second = Chain(place, pipeline(), run_id="manual__2")
    assert second.run()["reasons"].keys() == {"instance_claimed"}

    with place.ledger() as ledger:
        ledger.release_claims("nightly", run_key("nightly", stopped.run_id))
    third = Chain(place, pipeline(), run_id="manual__3")
    assert third.run()["dispositions"] == {"released": 1, "duplicate": 1}


def test_backfill_that_broke_off_goes_on_at_the_first_undone_day(place: Place) -> None:
    days = {number: Window(*(datetime(2026, 10, number + more, tzinfo=UTC) for more in (0, 1))) for number in (5, 6, 7)}
    for number in days:
        place.put({f"2026/10/{number:02}/a.dcm": ct(number, 1, 1)})
    dated = pipeline(source={"uri": "s3://archive/in/", "window": "key_date"})
    chains = {number: Chain(place, dated, run_id=f"backfill__{number}", window=day) for number, day in days.items()}
    chains[5].run()
    chains[6].until("validate")  # here it breaks off
    begun = place.jobs()

    place.put({"2026/10/05/a.dcm": ct(5, 1, 1, pixel=9)})  # a day that was done changes meanwhile
    for stage in STAGES[4:]:
        chains[6].stage(stage)
    chains[7].run()
    again = Chain(place, dated, run_id="backfill__5_again", window=days[5])

    assert [chain.report["dispositions"] for chain in chains.values()] == [{"released": 1}] * 3
    assert again.run()["reasons"].keys() == {"duplicate_other_content"}
    assert len(begun) == 1
    assert len(place.jobs()) == 3
