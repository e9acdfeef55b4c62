"""Jobs from their start to their output folder, step by step, with S3."""

from __future__ import annotations

import gzip
import json
from typing import TYPE_CHECKING, Any

import pytest

from airlock_local.sample.ccda.documents import allergies, ccd, entity_bomb, external_entity, unmapped_section
from localaws.errors import AwsError
from localaws.healthlake.transformation.convert import convert
from localaws.schedule import InterruptedStepError

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.unit.localaws.healthlake.transformation.desk import Desk

ENDS = {"COMPLETED", "COMPLETED_WITH_ERRORS", "FAILED"}


def read(body: bytes) -> Any:
    return json.loads(body)


def ids(ndjson: bytes) -> list[str]:
    return [f"{line['resourceType']}/{line['id']}" for line in map(json.loads, ndjson.splitlines())]


def test_each_document_becomes_a_file_of_resources(desk: Desk) -> None:
    job = desk.convert({"a.xml": ccd(1), "sub/b.XML": ccd(2, problems=3), "c": ccd(3)}, JobName="nightly")
    output = desk.output(job)
    assert sorted(output) == ["Manifest.json", "converted/a.ndjson", "converted/c.ndjson", "converted/sub/b.ndjson"]
    resources = [name for path in output if path.startswith("converted/") for name in ids(output[path])]
    assert len(set(resources)) == len(resources) == job["JobProgressReport"]["TotalResourcesGenerated"]
    assert (job["JobStatus"], job["ProfileVersion"], job["JobName"]) == ("COMPLETED", 1, "nightly")
    assert job["SubmitTime"] <= job["EndTime"]


def test_bad_inputs_are_skipped_and_named(desk: Desk) -> None:
    bad = {
        "bomb.xml": entity_bomb(),
        "cut.xml": ccd()[:1500],
        "empty.xml": b"",
        "outside.xml": external_entity("file:///etc/hostname"),
        "packed.xml": gzip.compress(ccd()),
        "sheet.csv": b"a,b\n",
    }
    job = desk.convert({"good.xml": ccd(), **bad})
    output = desk.output(job)
    assert job["JobStatus"] == "COMPLETED_WITH_ERRORS"
    errors = {path: read(body) for path, body in output.items() if path.startswith("ERROR/")}
    assert sorted(errors) == sorted(f"ERROR/{name.removesuffix('.xml')}.json" for name in bad)
    assert all(set(error) == {"inputFile", "errorMessage"} for error in errors.values())
    assert errors["ERROR/bomb.json"]["inputFile"].endswith("/bomb.xml")
    report = {"TotalFilesScanned": 7, "TotalFilesConverted": 1, "TotalFilesFailed": 6, "TotalResourcesGenerated": 6}
    assert job["JobProgressReport"] == report


def test_an_object_that_s3_refuses_is_an_error_of_its_own(desk: Desk) -> None:
    uri = desk.upload({"a.xml": ccd()})
    key = f"{uri.removeprefix('s3://documents/')}b.xml"
    desk.s3.put_object(Bucket="documents", Key=key, Body=ccd(), StorageClass="GLACIER")
    job = desk.run(desk.start(desk.profile(), uri))
    message = "The object could not be read: InvalidObjectState at GetObject"
    assert read(desk.output(job)["ERROR/b.json"])["errorMessage"] == message
    assert job["JobProgressReport"]["TotalFilesConverted"] == 1


def test_a_defect_costs_one_file_and_is_not_hidden(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    def break_on_the_second(body: bytes, *arguments: Any) -> Any:
        if b"Invented2" in body:
            raise KeyError("Invented2")
        return convert(body, *arguments)

    monkeypatch.setattr("localaws.healthlake.transformation.transformer.convert", break_on_the_second)
    job = desk.convert({"a.xml": ccd(1), "b.xml": ccd(2)})
    assert read(desk.output(job)["ERROR/b.json"])["errorMessage"] == "Internal error: KeyError"
    assert job["JobStatus"] == "COMPLETED_WITH_ERRORS"


def test_an_output_that_cannot_be_written_fails_the_job(desk: Desk) -> None:
    output = {"S3Configuration": {"S3Uri": "s3://nowhere-to-be-found/out/", "KmsKeyId": "alias/x"}}
    job = desk.convert({"a.xml": ccd()}, OutputDataConfig=output)
    assert (job["JobStatus"], job["Message"]) == ("FAILED", "Amazon S3 could not be used - NoSuchBucket at PutObject")


def test_the_manifest_says_what_became_of_each_file_and_that_aws_did_not_do_it(desk: Desk) -> None:
    job = desk.convert({"a.xml": ccd(sections=[unmapped_section()]), "b.xml": b"no XML"})
    manifest = read(desk.output(job)["Manifest.json"])
    assert "not by AWS" in manifest["conversion"]
    assert (manifest["jobId"], manifest["profileId"], manifest["profileVersion"]) == (job["JobId"], job["ProfileId"], 1)
    assert (manifest["totalFilesConverted"], manifest["totalFilesFailed"]) == (1, 1)
    good, bad = manifest["files"]
    assert (good["outputFile"], good["numberOfResources"], good["numberOfUnmappedEntries"]) == (
        "converted/a.ndjson",
        6,
        1,
    )
    assert (bad["errorFile"], bad["inputFile"][-6:]) == ("ERROR/b.json", "/b.xml")


def test_the_same_documents_give_the_same_resources_in_another_job(desk: Desk) -> None:
    jobs = [desk.convert({"a.xml": ccd()}, token=token, ProvenanceEnabled=False) for token in ("one", "two")]
    first, second = (desk.output(job)["converted/a.ndjson"] for job in jobs)
    assert first == second


def test_a_document_that_comes_twice_in_one_job_gives_resources_of_its_own(desk: Desk) -> None:
    output = desk.output(desk.convert({"a.xml": ccd(), "b.xml": ccd()}))
    first, second = ids(output["converted/a.ndjson"]), ids(output["converted/b.ndjson"])
    assert len(first) == len(second)
    assert not set(first) & set(second)


def test_provenance_is_there_unless_it_is_refused(desk: Desk) -> None:
    with_it = desk.convert({"a.xml": ccd()}, token="with")
    without = desk.convert({"a.xml": ccd()}, token="without", ProvenanceEnabled=False)
    kinds = [[name.split("/")[0] for name in ids(desk.output(job)["converted/a.ndjson"])] for job in (with_it, without)]
    assert kinds[0] == [*kinds[1], "Provenance"]
    assert (with_it["ProvenanceEnabled"], without["ProvenanceEnabled"]) == (True, False)


def test_drift_is_reported_per_file_and_for_the_job(desk: Desk) -> None:
    files = {"a.xml": ccd(1, sections=[unmapped_section("1.2.3")]), "b.xml": ccd(2), "c.xml": b""}
    files["d.xml"] = ccd(4, sections=[allergies(recorded="20260102")])
    output = desk.output(desk.convert(files, DriftDetectionEnabled=True))
    assert "driftDetectionPerFileResults/c_driftMetrics.json" not in output
    metrics = {name: read(output[f"driftDetectionPerFileResults/{name}_driftMetrics.json"]) for name in "abd"}
    assert [metrics[name]["overallCoverageRate"] for name in "abd"] == [0.5, 1.0, 1.0]
    assert metrics["a"]["unknownSections"] == [{"templateId": "1.2.3.1", "count": 1}]
    assert [issue["path"] for issue in metrics["d"]["validationIssues"]] == ["Provenance.recorded"]
    drift = read(output["jobLevelDriftResult.json"])
    assert (round(drift["avgOverallCoverageRate"], 3), drift["unknownSections"]) == (0.833, ["1.2.3.1"])
    assert 0.9 < drift["avgResourceAccuracy"] < 1
    assert len(drift["perFileDrift"]) == 3


def test_without_drift_detection_there_is_no_report(desk: Desk) -> None:
    assert not [path for path in desk.output(desk.convert({"a.xml": ccd()})) if "rift" in path]


def test_no_input_completes_with_nothing(desk: Desk) -> None:
    job = desk.convert({})
    assert job["JobStatus"] == "COMPLETED"
    assert read(desk.output(job)["Manifest.json"])["totalFilesScanned"] == 0


def test_one_job_works_and_the_others_wait_in_their_order(desk: Desk) -> None:
    profile_id, uri = desk.profile(), desk.upload({"a.xml": ccd()})
    jobs = [desk.start(profile_id, uri, token=name) for name in ("one", "two", "three")]
    assert [desk.schedule.step(job) is None for job in jobs] == [False] * 3
    assert [desk.job(job)["JobStatus"] for job in jobs] == ["IN_PROGRESS", "QUEUED", "QUEUED"]
    desk.run(jobs[0])
    desk.schedule.step(jobs[2])
    assert desk.job(jobs[2])["JobStatus"] == "QUEUED"
    assert [desk.run(job)["JobStatus"] for job in jobs] == ["COMPLETED"] * 3


def test_the_version_is_the_latest_when_the_job_begins(desk: Desk) -> None:
    profile_id = desk.profile()
    job_id = desk.start(profile_id, desk.upload({"a.xml": ccd()}))
    assert "ProfileVersion" not in desk.job(job_id)
    desk.publish(profile_id)
    assert desk.run(job_id)["ProfileVersion"] == 2


def test_a_profile_deleted_before_the_job_begins_fails_it(desk: Desk) -> None:
    profile_id = desk.profile()
    job_id = desk.start(profile_id, desk.upload({"a.xml": ccd()}))
    desk.call("DeleteDataTransformationProfile", ProfileId=profile_id)
    job = desk.run(job_id)
    assert (job["JobStatus"], profile_id in job["Message"]) == ("FAILED", True)


def test_csv_fails_with_a_message(desk: Desk) -> None:
    source = {"ProfileMapping": {"ProfileMapping": {"a.vtl": ""}}}
    profile_id = desk.profile(SourceFormat="CSV", Source=source)
    job = desk.run(desk.start(profile_id, desk.upload({"a.csv": b"a,b\n"})))
    assert (job["JobStatus"], "CSV" in job["Message"]) == ("FAILED", True)


def test_a_bucket_that_is_not_there_fails_the_job(desk: Desk) -> None:
    job = desk.run(desk.start(desk.profile(), "s3://nowhere-to-be-found/in/"))
    message = "Amazon S3 could not be used - NoSuchBucket at ListObjectsV2"
    assert (job["JobStatus"], job["Message"]) == ("FAILED", message)


def test_the_limits_hold(desks: Callable[..., Desk]) -> None:
    document = ccd()
    small = desks(max_ccda_document_bytes=len(document) - 1)
    assert small.convert({"a.xml": document})["JobProgressReport"]["TotalFilesFailed"] == 1
    tight = desks(max_ccda_bytes_per_job=2 * len(document) - 1)
    profile_id = tight.profile(ProfileName="tight")
    job = tight.run(tight.start(profile_id, tight.upload({"a.xml": document, "b.xml": document}), token="tight"))
    assert (job["JobStatus"], "bytes" in job["Message"]) == ("FAILED", True)


def test_an_interrupted_job_goes_on_after_a_restart_and_writes_the_same(desks: Callable[..., Desk]) -> None:
    first = desks()
    files = {f"{number}.xml": ccd(number) for number in range(4)}
    profile_id, uri = first.profile(), first.upload(files)
    job_id = first.start(profile_id, uri)
    first.schedule.step(job_id)
    first.schedule.files_until_stop = 2
    with pytest.raises(InterruptedStepError):
        first.schedule.step(job_id)
    assert sorted(first.output(first.job(job_id))) == ["converted/0.ndjson", "converted/1.ndjson"]
    second = desks()
    job = second.run(job_id)
    whole = second.run(second.start(profile_id, uri, token="again", ProvenanceEnabled=False))
    assert job["JobProgressReport"]["TotalFilesConverted"] == 4
    again = [ids(body) for path, body in second.output(whole).items() if path.startswith("converted/")]
    assert [ids(body)[:-1] for path, body in second.output(job).items() if path.startswith("converted/")] == again


def test_a_repeated_token_answers_the_first_job_whatever_else_it_says(desk: Desk) -> None:
    profile_id, uri = desk.profile(), desk.upload({"a.xml": ccd()})
    job_id = desk.start(profile_id, uri, token="once")
    assert desk.start(profile_id, uri, token="once", JobName="other") == job_id
    desk.run(job_id)
    assert desk.start(profile_id, uri, token="once") == job_id
    assert len(desk.call("ListDataTransformationJobs")["Items"]) == 1


def test_jobs_are_listed_newest_first_by_what_is_asked(desk: Desk) -> None:
    profile_id, uri = desk.profile(), desk.upload({"a.xml": ccd()})
    first, second = (desk.start(profile_id, uri, token=name, JobName=name) for name in ("one", "two"))
    middle = desk.run(first)["SubmitTime"]

    def listed(**params: Any) -> list[str]:
        return [item["JobId"] for item in desk.call("ListDataTransformationJobs", **params)["Items"]]

    assert listed() == [second, first]
    assert listed(JobStatus="COMPLETED") == listed(JobName="one") == [first]
    assert listed(SubmittedAfter=middle) == [second]
    assert listed(SubmittedBefore=desk.job(second)["SubmitTime"]) == [first]
    page = desk.call("ListDataTransformationJobs", MaxResults=1)
    assert [item["JobId"] for item in page["Items"]] == [second]
    assert listed(NextToken=page["NextToken"]) == [first]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"ProfileId": "0" * 32}, "ResourceNotFoundException"),
        ({"InputDataConfig": {"S3Uri": "s3://documents"}}, "ValidationException"),
        ({"InputDataConfig": {"S3Uri": "s3://documents/in/", "SourceFormat": "CSV"}}, "ValidationException"),
    ],
)
def test_a_start_that_cannot_be_is_refused(desk: Desk, change: dict[str, Any], expected: str) -> None:
    with pytest.raises(AwsError) as caught:
        desk.start(**{"profile_id": desk.profile(), "uri": "s3://documents/in/", **change})
    assert caught.value.code == expected


def test_a_profile_without_published_version_starts_no_job(desk: Desk) -> None:
    profile_id = desk.profile(versions=0)
    with pytest.raises(AwsError) as caught:
        desk.start(profile_id, "s3://documents/in/")
    assert (caught.value.code, "publish it first" in caught.value.message) == ("ValidationException", True)


def test_an_unknown_job_is_not_found(desk: Desk) -> None:
    with pytest.raises(AwsError) as caught:
        desk.job("0" * 32)
    assert caught.value.code == "ResourceNotFoundException"


def test_what_was_started_and_what_a_call_is_about_can_be_told(desk: Desk) -> None:
    profile_id, uri = desk.profile(), desk.upload({"a.xml": ccd()})
    job_id = desk.start(profile_id, uri, JobName="nightly")
    (started,) = desk.jobs.started()
    assert (started["jobId"], started["jobName"], started["clientToken"]) == (job_id, "nightly", "token")
    assert desk.jobs.subject({"JobId": job_id}) == ("nightly", uri)
    assert desk.jobs.subject({"JobId": "0" * 32}) == desk.jobs.subject({"ProfileId": profile_id}) == ("", "")


def faulty(desk: Desk, *faults: dict[str, Any], files: dict[str, bytes] | None = None) -> dict[str, Any]:
    desk.faults.replace(list(faults))
    return desk.convert(files or {"a.xml": ccd(1), "b.xml": ccd(2)}, DriftDetectionEnabled=True)


@pytest.mark.parametrize("kind", ["all_files_rejected", "server_error_on_files"])
def test_fault_files_are_refused(desk: Desk, kind: str) -> None:
    job = faulty(desk, {"kind": kind, "key": "*/b.xml"})
    assert job["JobStatus"] == "COMPLETED_WITH_ERRORS"
    assert {path for path in desk.output(job) if "/b" in path} == {"ERROR/b.json"}


def test_fault_a_file_is_left_out_without_a_word(desk: Desk) -> None:
    job = faulty(desk, {"kind": "manifest_partial", "key": "*/b.xml"})
    output = desk.output(job)
    assert (job["JobStatus"], job["JobProgressReport"]["TotalFilesConverted"]) == ("COMPLETED", 2)
    assert not [path for path in output if "/b" in path]
    assert [file["outputFile"] for file in read(output["Manifest.json"])["files"]] == ["converted/a.ndjson"]


def test_fault_the_manifest_is_missing_with_or_without_the_rest(desk: Desk) -> None:
    assert desk.output(faulty(desk, {"kind": "manifest_missing"})) == {}


def test_fault_the_manifest_alone_is_missing(desk: Desk) -> None:
    output = desk.output(faulty(desk, {"kind": "manifest_missing", "keep_results": True}))
    assert "Manifest.json" not in output
    assert {"converted/a.ndjson", "converted/b.ndjson", "jobLevelDriftResult.json"} <= set(output)


def test_fault_the_manifest_comes_after_the_end(desk: Desk) -> None:
    desk.faults.replace([{"kind": "manifest_late", "seconds": 5}])
    job_id = desk.start(desk.profile(), desk.upload({"a.xml": ccd()}))
    seconds = [desk.schedule.step(job_id) for _ in range(3)]
    job = desk.job(job_id)
    assert (job["JobStatus"], seconds[-1]) == ("COMPLETED", 5)
    assert sorted(desk.output(job)) == ["converted/a.ndjson"]
    assert "Manifest.json" in desk.output(desk.run(job_id))


@pytest.mark.parametrize(("kind", "files"), [("job_failed_with_output", 6), ("job_failed_without_output", 0)])
def test_fault_the_job_fails(desk: Desk, kind: str, files: int) -> None:
    job = faulty(desk, {"kind": kind})
    assert (job["JobStatus"], len(desk.output(job))) == ("FAILED", files)
    assert job["Message"]


def test_fault_a_job_is_stuck_until_the_fault_is_taken_away(desk: Desk) -> None:
    desk.faults.replace([{"kind": "stuck_in_progress"}])
    job_id = desk.start(desk.profile(), desk.upload({"a.xml": ccd()}))
    assert all(desk.schedule.step(job_id) is not None for _ in range(5))
    assert desk.job(job_id)["JobStatus"] == "IN_PROGRESS"
    desk.faults.replace([])
    assert desk.run(job_id)["JobStatus"] == "COMPLETED"


def test_fault_a_job_is_queued_for_long(desk: Desk) -> None:
    desk.faults.replace([{"kind": "queued_long"}])
    job_id = desk.start(desk.profile(), desk.upload({"a.xml": ccd()}))
    assert all(desk.schedule.step(job_id) is not None for _ in range(5))
    assert desk.job(job_id)["JobStatus"] == "QUEUED"
    desk.faults.replace([])
    assert desk.run(job_id)["JobStatus"] == "COMPLETED"


def test_fault_a_job_claims_errors_though_all_is_converted(desk: Desk) -> None:
    job = faulty(desk, {"kind": "completed_with_errors"})
    assert (job["JobStatus"], job["JobProgressReport"]["TotalFilesFailed"]) == ("COMPLETED_WITH_ERRORS", 0)
