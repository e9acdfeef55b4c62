"""An account in which nothing is wrong raises no alarm."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from airlock.stages.doctor.findings import Result
from airlock.stages.doctor.world import Pool
from tests.unit.airlock.stages.doctor.account import BUCKETS, ID, STORE, matching, not_passed, policy_of

if TYPE_CHECKING:
    from tests.unit.airlock.stages.doctor.account import Account


def test_every_check_passes(account: Account) -> None:
    found = account.examine()
    assert not_passed(found) == {}, {name: one for name, one in found.items() if name in not_passed(found)}
    assert len(found) > 70


def test_every_check_passes_with_the_policies_of_iam_for_buckets_and_keys(account: Account) -> None:
    del account.content["healthlake"]["kms_key_id"]
    account.content["buckets"] = {"others": {"kms_key_id": account.key_id, "expected_bucket_owner": ID}}
    account.content["validation"] = {"dedupe": "hash"}
    for bucket in BUCKETS:
        close_as_iam_says(account, bucket)
    policy = json.dumps(policy_of("kms-key-policy.json", KEY_ID=account.key_name, DATASTORE_ID=STORE))
    account.client("kms").put_key_policy(KeyId=account.key_id, PolicyName="default", Policy=policy)
    found = account.examine()
    assert not_passed(found) == {}, {name: one for name, one in found.items() if name in not_passed(found)}


def test_a_policy_sees_the_key_of_an_alias_and_not_its_arn(account: Account) -> None:
    account.client("kms").create_alias(AliasName="alias/buckets", TargetKeyId=account.key_id)
    alias = account.key_id.replace(f"key/{account.key_name}", "alias/buckets")
    account.content["buckets"]["hospital-staging"]["kms_key_id"] = alias
    close_as_iam_says(account, "hospital-staging")
    found = account.examine()
    (policy,) = matching(found, "bucket.policy hospital-staging*")
    assert found[policy].result is Result.PASS, found[policy]


def close_as_iam_says(account: Account, bucket: str) -> None:
    """Give a bucket the key and its policy, as iam/README.md says: a job of HealthImaging names no key."""
    s3 = account.client("s3")
    policy = policy_of("bucket-policy.json", BUCKET=bucket, ORGANIZATION_ID="o-1234567890", KEY_ID=account.key_name)
    if bucket == "hospital-output":
        policy["Statement"] = [one for one in policy["Statement"] if one["Sid"] != "RefuseWritesThatNameNoKey"]
    s3.put_bucket_policy(Bucket=bucket, Policy=json.dumps(policy))
    rule = {"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "aws:kms", "KMSMasterKeyID": account.key_id}}
    s3.put_bucket_encryption(Bucket=bucket, ServerSideEncryptionConfiguration={"Rules": [rule]})


def test_a_pool_with_one_slot_has_a_slot(account: Account) -> None:
    account.airflow.pools["airlock_staging"] = Pool(1, include_deferred=True)
    assert account.examine()["pool.exists airlock_staging"].found == "It has 1 slot."
