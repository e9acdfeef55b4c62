"""Redrive end to end: what was held, quarantined or failed goes through again as a new generation."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from airflow.sdk.exceptions import AirflowFailException
from botocore.config import Config

from airlock.imaging import promotion
from airlock.records import study_key
from airlock.run import run_key
from tests.chain import DATASTORE, Chain, adopt_images, pipeline
from tests.dicom_files import ct, delivery, sop_uid, study_uid
from tests.ledger_rows import count_arrivals, count_instances
from tests.waiting import until

if TYPE_CHECKING:
    from airlock.pipelines import ImagingPipeline
    from tests.chain import Place

pytestmark = pytest.mark.slow

STUDY = study_key(study_uid(1))
CHANGES = ("UpdateImageSetMetadata", "CopyImageSet", "DeleteImageSet")
QUICK = {
    "datastore_id": DATASTORE,
    "data_access_role_arn": "arn:aws:iam::123456789012:role/import",
    "output_uri": "s3://output/imports/",
    "region_name": "us-east-1",
    "poll_seconds": 1,
    "backoff_seconds": 0.1,
    "job_timeout_minutes": 1,
}


def settings(**changes: Any) -> ImagingPipeline:
    return pipeline(healthimaging=QUICK, **changes)


def again(place: Place, number: int = 1, wanted: ImagingPipeline | None = None, **params: Any) -> Chain:
    """Return a redrive's run."""
    asked = {"redrive_why": "the cause is cured", "redrive_by": "an operator"} | params
    return Chain(place, wanted or settings(), run_id=f"manual__redrive_{number}", params=asked)


def first_run(place: Place, files: dict[str, bytes], wanted: ImagingPipeline | None = None) -> Chain:
    place.put(files)
    chain = Chain(place, wanted or settings(), run_id="manual__first")
    chain.run()
    return chain


def instances(place: Place) -> dict[str, list[str]]:
    """Return which SOP instances each living image set has, by whether it is primary."""
    found: dict[str, list[str]] = {"primary": [], "non_primary": []}
    for kind, uid, _ in frames(place):
        found[kind].append(uid)
    return found


def frames(place: Place) -> list[tuple[str, str, str]]:
    """Return kind of image set, SOP Instance UID and frame id of all that lies in the data store, in order."""
    imaging, found = healthimaging(place), []
    for item in imaging.search_image_sets(datastoreId=DATASTORE, searchCriteria={})["imageSetsMetadataSummaries"]:
        names = {"datastoreId": DATASTORE, "imageSetId": item["imageSetId"]}
        body = imaging.get_image_set_metadata(**names)["imageSetMetadataBlob"].read()
        kind = "primary" if imaging.get_image_set(**names)["isPrimary"] else "non_primary"
        for series in json.loads(gzip.decompress(body))["Study"]["Series"].values():
            found += [(kind, uid, one["ImageFrames"][0]["ID"]) for uid, one in series["Instances"].items()]
    return sorted(found)


def healthimaging(place: Place) -> Any:
    config = Config(inject_host_prefix=False)
    return boto3.client("medical-imaging", endpoint_url=place.imaging_endpoint, region_name="us-east-1", config=config)


def newest(place: Place) -> dict[str, Any]:
    return max(place.contracts(), key=lambda contract: contract["revision"])


def sops(contract: dict[str, Any]) -> list[str]:
    return [one["SOPInstanceUID"] for series in contract["series"] for one in series["instances"]]


def test_a_fixed_file_under_the_same_key_completes_its_study(place: Place) -> None:
    files = delivery(studies=1, instances=3)
    first = first_run(place, files | {"study-1/003.dcm": files["study-1/003.dcm"][:-50]})
    assert first.report["dispositions"] == {"held": 2, "quarantined": 1}

    place.put({"study-1/003.dcm": files["study-1/003.dcm"]})
    redrive = again(place, redrive_run="manual__first", redrive_reasons=["truncated"])
    report = redrive.run()

    assert report["dispositions"] == {"released": 3}
    assert report["redrive"]["asked_by"] == "an operator"
    assert report["redrive"]["why"] == "the cause is cured"
    assert report["redrive"]["counts"] == {"chosen": 3, "taken": 1, "carried": 2, "in_already": 0}
    assert sops(newest(place)) == [sop_uid(1, 1, number) for number in (1, 2, 3)]
    assert instances(place) == {"primary": sorted(sops(newest(place))), "non_primary": []}
    with place.ledger() as ledger:  # each generation has its one disposition, each instance its one owner
        assert count_arrivals(ledger, "nightly") == {"held": 2, "quarantined": 1, "released": 3}
        assert count_instances(ledger, DATASTORE) == {"imported": 3}
    once = redrive.report, place.contracts()

    redrive.onward()
    assert (redrive.report, place.contracts()) == once
    assert Chain(place, settings(), run_id="manual__nightly").run()["arrivals"] == 0
    assert len(place.jobs()) == 2
    with pytest.raises(AirflowFailException, match="meets the request"):
        again(place, 2, redrive_run="manual__first").until("buffer")


def test_a_held_file_that_was_replaced_comes_in_the_place_of_its_instance(place: Place) -> None:
    first_run(place, {"1.dcm": ct(1, 1, 1), "2.dcm": ct(1, 1, 2)[:-50]})
    better = ct(1, 1, 1, pixel=9)
    place.put({"1.dcm": better})
    nightly = Chain(place, settings(), run_id="manual__nightly")
    assert nightly.run()["reasons"]["duplicate_other_content"]["arrivals"] == 1
    place.put({"2.dcm": ct(1, 1, 2)})

    redrive = again(place, redrive_study=STUDY)
    assert redrive.run()["dispositions"] == {"released": 2}

    assert instances(place) == {"primary": [sop_uid(1, 1, 1), sop_uid(1, 1, 2)], "non_primary": []}
    (one, _) = newest(place)["series"][0]["instances"]
    assert one["etag"] == hashlib.md5(better, usedforsecurity=False).hexdigest()
    with place.ledger() as ledger:
        assert count_instances(ledger, DATASTORE) == {"imported": 2}


@pytest.mark.parametrize("pixel", [9, None], ids=["better", "as it was"])
def test_a_replacement_that_did_not_come_in_is_replaced_once_more(place: Place, pixel: int | None) -> None:
    """Also by the object that was there at first and has lain in the data store all the time: it is carried on."""
    at_first = ct(1, 1, 1)
    first_run(place, {"1.dcm": at_first, "2.dcm": ct(1, 1, 2)[:-50]})
    place.put({"1.dcm": ct(1, 1, 1, pixel=8)[:-50]})
    assert again(place, redrive_study=STUDY).run()["dispositions"] == {"quarantined": 2}

    wanted = at_first if pixel is None else ct(1, 1, 1, pixel=pixel)
    place.put({"1.dcm": wanted, "2.dcm": ct(1, 1, 2)})
    report = again(place, 2, redrive_study=STUDY).run()
    assert report["dispositions"] == {"released": 2}
    assert report["redrive"]["counts"]["carried"] == (pixel is None)

    assert instances(place) == {"primary": [sop_uid(1, 1, 1), sop_uid(1, 1, 2)], "non_primary": []}
    (one, _) = newest(place)["series"][0]["instances"]
    assert one["etag"] == hashlib.md5(wanted, usedforsecurity=False).hexdigest()
    with place.ledger() as ledger:
        assert count_instances(ledger, DATASTORE) == {"imported": 2}


def test_an_object_that_was_replaced_and_put_back_comes_in_as_it_is(place: Place) -> None:
    at_first = ct(1, 1, 1)
    first_run(place, {"1.dcm": at_first, "2.dcm": ct(1, 1, 2)[:-50]})
    place.put({"1.dcm": ct(1, 1, 1, pixel=8)})
    assert again(place, redrive_study=STUDY).run()["dispositions"] == {"held": 1, "quarantined": 1}

    place.put({"1.dcm": at_first, "2.dcm": ct(1, 1, 2)})
    assert again(place, 2, redrive_study=STUDY).run()["dispositions"] == {"released": 2}

    assert instances(place) == {"primary": [sop_uid(1, 1, 1), sop_uid(1, 1, 2)], "non_primary": []}
    (one, _) = newest(place)["series"][0]["instances"]
    assert one["etag"] == hashlib.md5(at_first, usedforsecurity=False).hexdigest()
    with place.ledger() as ledger:
        assert count_instances(ledger, DATASTORE) == {"imported": 2}


def test_what_was_written_over_by_another_instance_is_carried_on_again_and_again(place: Place) -> None:
    first_run(place, {"1.dcm": ct(1, 1, 1), "2.dcm": ct(1, 1, 2)[:-50]})
    place.put({"1.dcm": ct(1, 1, 3)})
    assert Chain(place, settings(), run_id="manual__nightly").run()["dispositions"] == {"held": 1}
    assert again(place, redrive_study=STUDY).run()["dispositions"] == {"held": 2, "quarantined": 1}

    place.put({"2.dcm": ct(1, 1, 2)})
    report = again(place, 2, redrive_study=STUDY).run()

    assert report["dispositions"] == {"released": 3}
    assert report["redrive"]["counts"] == {"chosen": 3, "taken": 1, "carried": 2, "in_already": 0}
    assert sops(newest(place)) == [sop_uid(1, 1, number) for number in (1, 2, 3)]


def test_an_object_put_back_in_the_place_of_a_failed_replacement_is_found_to_have_come_in(place: Place) -> None:
    at_first = ct(1, 1, 1)
    first_run(place, {"1.dcm": at_first, "2.dcm": ct(1, 1, 2)[:-50]})
    place.put({"1.dcm": b""})
    again(place, redrive_study=STUDY).run()
    place.put({"1.dcm": at_first})
    report = again(place, 2, redrive_run="manual__redrive_1", redrive_reasons=["empty_object"]).run()
    # The empty file counted to the study of the file before it, so what is held for that study came along.
    assert report["redrive"]["counts"] == {"chosen": 2, "taken": 0, "carried": 1, "in_already": 1}
    assert report["dispositions"] == {"held": 1}

    place.put({"2.dcm": ct(1, 1, 2)})
    report = again(place, 3, redrive_study=STUDY).run()
    assert report["dispositions"] == {"released": 2}
    assert report["redrive"]["counts"] == {"chosen": 2, "taken": 1, "carried": 1, "in_already": 0}
    with place.ledger() as ledger:
        assert count_instances(ledger, DATASTORE) == {"imported": 2}


def test_an_edited_list_as_a_spreadsheet_saves_it(place: Place) -> None:
    files = delivery(studies=2, instances=2)
    first = first_run(place, files | {"study-1/002.dcm": b"", "study-2/002.dcm": b""})
    kept = [row for row in first.lines if row["key"] == "in/study-1/002.dcm"]
    place.put({"study-1/002.dcm": files["study-1/002.dcm"], "study-2/002.dcm": files["study-2/002.dcm"]})
    place.s3().put_object(Bucket="workspace", Key="edited.csv", Body=spreadsheet(kept))

    report = again(place, redrive_csv="s3://workspace/edited.csv").run()

    # The empty file beside the study's other file held that one, which came along.
    assert report["redrive"]["counts"] == {"chosen": 2, "taken": 1, "carried": 1, "in_already": 0}
    assert report["dispositions"] == {"released": 2}
    assert sops(newest(place)) == [sop_uid(1, 1, 1), sop_uid(1, 1, 2)]


def spreadsheet(rows: list[dict[str, str]]) -> bytes:
    """Write a table as a spreadsheet in a country of decimal commas does: BOM, semicolons, CR LF."""
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, rows[0], delimiter=";")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue().encode("utf-8-sig")


def conflict(place: Place, wait: bool = True) -> Chain:
    """Let the store put a file into a non-primary image set."""
    files = {"1.dcm": ct(1, 1, 1), "2.dcm": ct(1, 1, 2), "3.dcm": ct(1, 1, 3, AccessionNumber="ANOTHER", StudyID="77")}
    chain = first_run(place, files, settings(validation={"grouping_conflict": "accept"}))
    assert chain.report["dispositions"] == {"held": 3}
    assert not wait or instances(place)["non_primary"] == [sop_uid(1, 1, 3)]
    return chain


def test_a_non_primary_conflict_is_promoted_once_though_every_answer_is_lost(place: Place) -> None:
    conflict(place)
    lost = [{"kind": "lost_response", "times": 1, "answer": "drop", "operation": name} for name in CHANGES]
    place.faults(*lost, {"kind": "throttle_storm", "operation": "GetImageSet", "times": 3})
    redrive = again(place, redrive_study=STUDY, redrive_non_primary="promote")
    report = redrive.run()

    assert report["dispositions"] == {"released": 3}
    assert report["jobs"] == []
    (resolved,) = report["redrive"]["resolutions"]
    assert (resolved["resolution"], resolved["state"]) == ("promote", "done")
    (contract,) = place.contracts()
    assert sops(contract) == [sop_uid(1, 1, number) for number in (1, 2, 3)]
    assert contract["series"][0]["image_set_ids"] == [resolved["promoted_id"]]
    assert (contract["AccessionNumber"], contract["StudyID"]) == ("ACC-1", "1")
    assert instances(place) == {"primary": sops(contract), "non_primary": []}
    assert place.calls("CopyImageSet") == 1


def test_a_non_primary_conflict_is_deleted_and_the_corrected_file_comes_in(place: Place) -> None:
    conflict(place)
    report = again(place, redrive_study=STUDY, redrive_non_primary="delete").run()

    assert report["dispositions"] == {"released": 2, "ignored": 1}
    assert report["reasons"]["image_set_deleted"]["arrivals"] == 1
    assert instances(place) == {"primary": [sop_uid(1, 1, 1), sop_uid(1, 1, 2)], "non_primary": []}
    assert sops(newest(place)) == [sop_uid(1, 1, 1), sop_uid(1, 1, 2)]

    place.put({"3.dcm": ct(1, 1, 3)})
    assert Chain(place, settings(), run_id="manual__third").run()["dispositions"] == {"released": 1}
    assert sops(newest(place)) == [sop_uid(1, 1, number) for number in (1, 2, 3)]


@pytest.mark.parametrize("place", [{"image_set_search_lag": 2}], indirect=True)
def test_a_promotion_outlasts_a_search_that_lags_and_changes_that_fail_after_they_were_accepted(place: Place) -> None:
    conflict(place, wait=False)
    place.faults({"kind": "update_failed", "times": 1}, {"kind": "copy_failed", "times": 1})
    redrive = again(place, redrive_study=STUDY, redrive_non_primary="promote")
    assert redrive.run()["dispositions"] == {"released": 3}
    assert [str(error).partition(",")[0].partition(":")[0].split(" ", 3)[3] for error in redrive.errors] == [
        "was not changed",
        "was not copied",
    ]
    assert place.calls("CopyImageSet") == 2
    assert len(place.contracts()) == 1


@pytest.mark.parametrize("place", [{"choices": {"overlapping_copy": "merge"}}], indirect=True)
def test_a_promotion_over_an_image_that_others_imported_is_refused_and_loses_neither(place: Place) -> None:
    imported_by_others(place, ct(1, 1, 3, pixel=1))
    files = {"1.dcm": ct(1, 1, 3, pixel=2, AccessionNumber="ANOTHER")}
    chain = first_run(place, files, settings(validation={"grouping_conflict": "accept"}))
    assert chain.report["dispositions"] == {"held": 1}
    before = frames(place)
    assert len(before) == 2

    stuck = again(place, redrive_study=STUDY, redrive_non_primary="promote")
    with pytest.raises(promotion.ResolutionError, match="share 1 SOP Instance UIDs"):
        stuck.until("validate")

    assert frames(place) == before
    assert not place.calls("UpdateImageSetMetadata")
    with place.ledger() as ledger:
        ledger.release_claims("nightly", run_key("nightly", "manual__redrive_1"))
    report = again(place, 2, redrive_study=STUDY, redrive_non_primary="delete").run()
    assert report["dispositions"] == {"ignored": 1}
    assert frames(place) == [kept for kept in before if kept[0] == "primary"]


def imported_by_others(place: Place, body: bytes) -> None:
    """Import a file that the ledger knows nothing of."""
    place.s3().put_object(Bucket="staging", Key="others/1.dcm", Body=body)
    job = {
        "jobName": "others",
        "dataAccessRoleArn": QUICK["data_access_role_arn"],
        "inputS3Uri": "s3://staging/others/",
    }
    imaging = healthimaging(place)
    job_id = imaging.start_dicom_import_job(datastoreId=DATASTORE, outputS3Uri="s3://output/others/", **job)["jobId"]

    def is_through() -> bool:
        job = imaging.get_dicom_import_job(datastoreId=DATASTORE, jobId=job_id)["jobProperties"]
        return bool(job["jobStatus"] == "COMPLETED")

    until("the import by others is COMPLETED", is_through, 20)
    adopt_images(place)


def test_what_is_too_large_to_promote_is_given_back_and_deleted(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    conflict(place)
    monkeypatch.setattr(promotion, "FRAMES_PER_COPY", 0)
    stuck = again(place, redrive_study=STUDY, redrive_non_primary="promote")
    with pytest.raises(
        promotion.ResolutionError, match=r"CopyImageSet takes 0: give the run back .* redrive with delete"
    ):
        stuck.until("validate")
    with place.ledger() as ledger:
        ledger.release_claims("nightly", run_key("nightly", "manual__redrive_1"))
    report = again(place, 2, redrive_study=STUDY, redrive_non_primary="delete").run()
    assert report["dispositions"] == {"released": 2, "ignored": 1}
    assert not place.calls("CopyImageSet")


def test_what_cannot_be_redriven_is_refused_as_a_whole(place: Place) -> None:
    # With two studies below its folder, the empty file counts to none and holds none.
    first = first_run(place, {**delivery(studies=2, instances=1), "bad.dcm": b""})
    rows = {row["key"]: row for row in first.lines}
    bad, good = rows["in/bad.dcm"], rows["in/study-1/001.dcm"]
    lists = {
        "released": ([bad, good], "line 3: it is released, and only held"),
        "unknown": ([bad | {"arrival_id": "0" * 32}], "line 2: not an arrival of this pipeline"),
        "exchanged": ([bad | {"key": good["key"]}], "line 2: its key is not that of the arrival"),
    }
    for name, (kept, _) in lists.items():
        place.s3().put_object(Bucket="workspace", Key=f"{name}.csv", Body=spreadsheet(kept))
    refused: list[tuple[dict[str, Any], str]] = [
        *(({"redrive_csv": f"s3://workspace/{name}.csv"}, fault) for name, (_, fault) in lists.items()),
        ({"redrive_csv": "s3://workspace/none.csv"}, "redrive_csv: the object does not exist"),
        ({"redrive_run": "manual__no_such"}, "redrive_run is not a run of pipeline 'nightly'"),
        ({"redrive_run": "manual__redrive_1"}, "cyclic redrive"),
        ({"redrive_run": "manual__first", "redrive_reasons": ["rejected"]}, "meets the request"),
        ({"redrive_study": "0" * 16}, "meets the request"),
        ({"redrive_run": "manual__first", "redrive_non_primary": "delete"}, "none of the selected arrivals"),
        ({"redrive_run": "manual__first", "redrive_why": None}, "redrive_why is missing"),
    ]
    for params, fault in refused:
        with pytest.raises(AirflowFailException, match=fault):
            again(place, **params).until("buffer")
    audit = again(place, redrive_study="0" * 16)
    with pytest.raises(AirflowFailException, match="buffer has not claimed the arrivals of the redrive"):
        audit.stage("audit")
    with place.ledger() as ledger:
        assert count_arrivals(ledger, "nightly") == {"released": 2, "quarantined": 1}


def test_a_redrive_that_has_not_ended_cannot_be_redriven(place: Place) -> None:
    first_run(place, {"bad.dcm": b""})
    underway = again(place, redrive_run="manual__first")
    underway.until("buffer")
    for params in ({"redrive_run": "manual__redrive_1"}, {"redrive_reasons": ["empty_object"]}):
        with pytest.raises(AirflowFailException, match=r"1 arrivals are undecided|a cyclic redrive"):
            again(place, 2, **params).until("buffer")
    underway.onward("parse")
    assert again(place, 2, redrive_reasons=["empty_object"]).run()["dispositions"] == {"quarantined": 1}


def test_a_non_primary_conflict_needs_a_word(place: Place) -> None:
    conflict(place)
    with pytest.raises(AirflowFailException, match="promote or delete"):
        again(place, redrive_study=STUDY).until("buffer")
    assert not any(place.calls(operation) for operation in CHANGES)
