"""Whole pipelines with no more rights than those of iam/: S3 judges each request by the policies that are shipped.

The emulator of the data stores judges no policies, but names the operations that it answers: those are compared.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from airlock.storage import protection
from airlock.storage.s3 import S3Error
from airlock.storage.s3uri import S3Uri
from airlock_local.sample.ccda.documents import ccd
from airlock_tasks.run import connect_s3
from tests.chain import BUCKETS, HEALTHLAKE, Chain, Place, ccda_pipeline, clinical_pipeline, pipeline, release
from tests.clinical_files import delivery as records
from tests.dicom_files import ct, delivery
from tests.iam_policies import IAM, Policy, fill, shipped
from tests.integration.reconciling import Reconciler
from tests.integration.test_redrive import STUDY, again, conflict
from tests.servers.guarded_s3 import Guard, guarded_s3

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from airlock.pipelines import Pipeline

pytestmark = pytest.mark.slow

NAMES = {f"{name.upper()}_BUCKET": name for name in BUCKETS}
ARCHIVE = {"deliveries/": "in/"}
RECORDS = ARCHIVE | {"imports/": "fhir/", "studies/": "patients/"}  # of clinical pipelines, as iam/README.md has it
KEY = "arn:aws:kms:us-east-1:123456789012:key/11111111-2222-3333-4444-555555555555"
ACCOUNT = {"REGION": "us-east-1", "ACCOUNT_ID": "123456789012", "KEY_ID": KEY.rpartition("/")[2]}
REGION_OF_BUCKET = {"s3:HeadBucket"}  # refused under a condition on the prefix, which names the Region all the same


def policy(name: str, prefixes: dict[str, str]) -> Policy:
    """Return a policy of iam/ as its README tells people to fill it in: the buckets, and the pipeline's prefixes."""
    text = (IAM / name).read_text(encoding="utf-8")
    for shown, ours in prefixes.items():
        text = text.replace(shown, ours)
    return Policy.parse(name, fill(text, NAMES))


@pytest.fixture
def guard(place: Place, monkeypatch: pytest.MonkeyPatch) -> Iterator[Guard]:
    """Have the tasks reach S3 through a guard; the emulator and the test itself go past it."""
    made = Guard()
    connection = json.loads(os.environ["AIRFLOW_CONN_AWS_DEFAULT"])
    with guarded_s3(made) as connection["extra"]["endpoint_url"]:
        monkeypatch.setenv("AIRFLOW_CONN_AWS_DEFAULT", json.dumps(connection))
        yield made


def require_enough(place: Place, guard: Guard) -> None:
    """Require that S3 has refused nothing, and that the data stores were asked for nothing that is not allowed."""
    assert guard.identity is not None
    assert [one for one in guard.refused if one.operation not in REGION_OF_BUCKET] == []
    allowed = {action.partition(":")[2] for one in guard.identity for action in one.actions}
    answered = httpx.get(f"{place.imaging_endpoint}/_localaws/calls").json()["operations"]
    assert answered
    assert answered.keys() - allowed == set()


def test_images_are_imported_and_published_with_the_rights_of_the_workers(place: Place, guard: Guard) -> None:
    guard.identity = [policy(name, ARCHIVE) for name in ("worker-policy.json", "fhir-worker-policy.json")]
    guard.identity.append(policy("worker-policy.json", RECORDS))  # its S3 statements, for the manifests of HealthLake
    place.put(delivery(studies=2, instances=2) | {"held/1.dcm": ct(3, 1, 1), "held/2.dcm": ct(3, 1, 2)[:-100]})
    report = Chain(place, pipeline(healthlake=HEALTHLAKE)).run()
    require_enough(place, guard)
    assert report["studies"] == {"released": 2, "held": 1, "stopped": 0}
    assert len(place.contracts()) == 2


def test_records_are_imported_with_the_rights_of_the_workers(place: Place, guard: Guard) -> None:
    guard.identity = [policy(name, RECORDS) for name in ("worker-policy.json", "fhir-worker-policy.json")]
    place.put(records(patients=2, observations=1))
    report = Chain(place, clinical_pipeline()).run()
    require_enough(place, guard)
    assert report["dispositions"] == {"released": 4}


@pytest.mark.proof
def test_documents_are_converted_with_the_rights_of_the_workers(place: Place, guard: Guard) -> None:
    names = ("worker-policy.json", "fhir-worker-policy.json", "ccda-worker-policy.json")
    guard.identity = [policy(name, RECORDS) for name in names]
    place.put({"1.xml": ccd(1)})
    chain = Chain(place, ccda_pipeline())
    chain.run()
    release(chain, "compared with the documents")
    require_enough(place, guard)
    assert chain.report["dispositions"].keys() == {"released"}


@pytest.mark.proof
def test_a_conflict_is_promoted_with_the_rights_of_a_redrive_in_addition(place: Place, guard: Guard) -> None:
    guard.identity = [policy("worker-policy.json", ARCHIVE)]
    conflict(place)
    guard.identity.append(policy("resolve-worker-policy.json", ARCHIVE))
    report = again(place, redrive_study=STUDY, redrive_non_primary="promote").run()
    require_enough(place, guard)
    assert place.calls("CopyImageSet")
    assert report["dispositions"] == {"released": 3}


def test_a_person_reconciles_with_the_rights_for_it(place: Place, guard: Guard) -> None:
    place.put(delivery(studies=2, instances=1))
    Chain(place, pipeline()).run()
    httpx.delete(f"{place.imaging_endpoint}/_localaws/calls").raise_for_status()
    guard.identity = [policy("reconcile-policy.json", ARCHIVE)]
    (key,) = place.keys("archive", "in/study-1/")
    place.s3().delete_object(Bucket="archive", Key=key)
    endpoint = json.loads(os.environ["AIRFLOW_CONN_AWS_DEFAULT"])["extra"]["endpoint_url"]
    person = Reconciler(Place(endpoint, place.imaging_endpoint, place.ledger_url))
    report = person.report(content=True, pixels=True)
    require_enough(place, guard)
    assert report["counts"]["pixels"] == 1  # the file that is gone was told from one that may not be read


def test_without_the_right_to_list_a_missing_object_is_a_forbidden_one(place: Place, guard: Guard) -> None:
    """Why a policy allows s3:ListBucket where nothing is listed: a run asks whether its datasets are there."""
    whole = policy("worker-policy.json", ARCHIVE)
    s3, missing = connect_s3("aws_default"), S3Uri("workspace", "runs/nightly/none/index.json")
    guard.identity = [whole]
    assert not s3.exists(missing)
    guard.identity = [Policy("unlisted", tuple(one for one in whole.statements if one["Sid"] != "ListTheRuns"))]
    with pytest.raises(S3Error, match="403"):
        s3.exists(missing)


LAKE = {name: value for name, value in HEALTHLAKE.items() if name != "kms_key_id"}  # the bucket names it
OURS = {"others": {"kms_key_id": KEY, "expected_bucket_owner": ACCOUNT["ACCOUNT_ID"]}}
DELIVER: dict[str, Callable[[Place], None]] = {
    "imaging": lambda place: place.put(delivery(studies=2, instances=2)),
    "clinical": lambda place: place.put(records(patients=2, observations=1)),
    "ccda": lambda place: place.put({"1.xml": ccd(1)}),
}
MAKE: dict[str, Callable[..., Pipeline]] = {
    "imaging": pipeline,
    "clinical": clinical_pipeline,
    "ccda": ccda_pipeline,
}


def proven(*values: str) -> list[Any]:
    """Return parameters of tests that take too long for every change."""
    return [pytest.param(value, marks=pytest.mark.proof) for value in values]


every_kind = pytest.mark.parametrize("kind", ["imaging", *proven("clinical", "ccda")])


class TestBucketsThatRefuseUnencryptedWrites:
    """Every bucket has iam/bucket-policy.json: it refuses each write that does not name the key, and other keys."""

    @pytest.fixture(autouse=True)
    def _protect(self, guard: Guard) -> None:
        for bucket in BUCKETS:
            names = ACCOUNT | {"BUCKET": bucket, "ORGANIZATION_ID": "o-hospital"}
            guard.buckets[bucket] = shipped("bucket-policy.json", names)
        guard.context["aws:PrincipalOrgID"] = "o-hospital"

    def run(self, place: Place, kind: str, buckets: dict[str, Any] = OURS) -> Chain:
        DELIVER[kind](place)
        chain = Chain(place, MAKE[kind](healthlake=LAKE, buckets=buckets), tries=1)
        chain.run()
        if kind == "ccda":
            release(chain, "compared with the documents")
        return chain

    def fail(self, place: Place, caplog: pytest.LogCaptureFixture, buckets: dict[str, Any] = OURS) -> str:
        """Run a pipeline that cannot succeed, and return what its tasks say, and their logs."""
        DELIVER["imaging"](place)
        chain = Chain(place, pipeline(healthlake=LAKE, buckets=buckets), tries=1)
        with pytest.raises(Exception):  # noqa: B017, PT011
            chain.run()
        return " ".join([*map(str, chain.errors), caplog.text])

    @every_kind
    def test_a_run_names_the_key_in_each_write_and_the_owner_in_each_request(
        self, place: Place, guard: Guard, kind: str
    ) -> None:
        chain = self.run(place, kind)
        assert chain.report["dispositions"].keys() == {"released"}
        assert guard.refused == []
        assert guard.unowned == set()
        assert {"s3:PutObject", "s3:GetObject", "s3:ListObjectsV2"} <= guard.asked.keys()
        heads = [place.s3().head_object(Bucket="contracts", Key=key) for key in place.keys("contracts")]
        assert {(head["ServerSideEncryption"], head["SSEKMSKeyId"]) for head in heads} == {("aws:kms", KEY)}

    @pytest.mark.parametrize("bucket", ["workspace", *proven("staging", "contracts")])
    def test_a_bucket_that_was_forgotten_is_refused(
        self, place: Place, guard: Guard, bucket: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        assert "AccessDenied" in self.fail(place, caplog, OURS | {bucket: {"kms_key_id": None}})
        assert {refusal.by for refusal in guard.refused} == {"RefuseWritesThatNameNoKey"}
        assert {refusal.resource.split(":::")[1].partition("/")[0] for refusal in guard.refused} == {bucket}

    @pytest.mark.parametrize("operation", ["PutObject", *proven("CopyObject")])
    def test_a_write_that_forgets_the_key_is_refused(
        self,
        place: Place,
        guard: Guard,
        operation: str,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        """Shows that a run cannot pass if one kind of request forgets it."""
        left = {"PutObject", "CopyObject", "CreateMultipartUpload"} - {operation}
        monkeypatch.setattr(protection, "_BEGINNINGS", left)
        assert "AccessDenied" in self.fail(place, caplog)
        assert {refusal.operation for refusal in guard.refused} == {f"s3:{operation}"}

    @pytest.mark.parametrize("bucket", ["archive", "workspace", *proven("staging", "output", "contracts")])
    def test_a_bucket_of_another_account_fails_the_run_with_its_name_and_the_setting(
        self, place: Place, guard: Guard, bucket: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        told = self.fail(place, caplog, OURS | {bucket: {"expected_bucket_owner": "210987654321"}})
        assert f"bucket '{bucket}' to belong to account 210987654321" in told
        assert "buckets, expected_bucket_owner" in told
        assert {refusal.by for refusal in guard.refused} == {"another account owns the bucket"}
