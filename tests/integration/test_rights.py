"""Whole pipelines with no more rights than those of iam/: S3 judges each request by the policies that are shipped.

The emulator of the data stores judges no policies, but names the operations that it answers: those are compared.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from airlock.storage.s3 import S3Error
from airlock.storage.s3uri import S3Uri
from airlock_local.sample.ccda.documents import ccd
from airlock_tasks.run import connect_s3
from tests.chain import BUCKETS, HEALTHLAKE, PLACES, Chain, Place, ccda_pipeline, clinical_pipeline, pipeline, release
from tests.clinical_files import delivery as records
from tests.dicom_files import ct, delivery
from tests.iam_policies import IAM, Policy, fill, shipped
from tests.integration.reconciling import Reconciler
from tests.integration.test_redrive import STUDY, again, conflict
from tests.servers.guarded_s3 import Guard, guarded_s3

if TYPE_CHECKING:
    from collections.abc import Iterator

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


@pytest.mark.proof
class TestBucketsThatRefuseUnencryptedWrites:
    """All buckets have iam/bucket-policy.json: today only staging names its key, so that only staging may have it."""

    STAGING = PLACES["staging"] | {"kms_key_id": KEY}

    def protect(self, guard: Guard, *buckets: str) -> None:
        for bucket in buckets:
            names = ACCOUNT | {"BUCKET": bucket, "ORGANIZATION_ID": "o-hospital"}
            guard.buckets[bucket] = shipped("bucket-policy.json", names)
        guard.context["aws:PrincipalOrgID"] = "o-hospital"

    def run(self, place: Place, kind: str) -> dict[str, Any]:
        if kind == "imaging":
            place.put(delivery(studies=2, instances=2))
            return Chain(place, pipeline(healthlake=HEALTHLAKE, staging=self.STAGING)).run()
        place.put(records(patients=2, observations=1))
        return Chain(place, clinical_pipeline(staging=self.STAGING)).run()

    @pytest.mark.parametrize("kind", ["imaging", "clinical"])
    def test_staging_may_have_the_policy(self, place: Place, guard: Guard, kind: str) -> None:
        self.protect(guard, "staging", "archive", "output")
        assert self.run(place, kind)["dispositions"] == {"released": 4}
        assert guard.refused == []
        staged = [place.s3().head_object(Bucket="staging", Key=key) for key in place.keys("staging", "batches/")]
        assert staged
        assert {head["SSEKMSKeyId"] for head in staged} == {KEY}
