"""Things that work but should not stay so are warnings, and so is what AWS does not let the doctor see."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from airlock.stages.doctor.findings import Result
from airlock.stages.doctor.world import Connection, Pool
from tests.unit.airlock.stages.doctor.account import (
    BUCKETS,
    ID,
    IMPORT,
    OTHER_ID,
    QUEUE,
    REGION,
    STORE,
    Account,
    expire,
    make_key,
    matching,
    not_passed,
    policy_of,
    queue_policy,
    tls_only,
)

if TYPE_CHECKING:
    from collections.abc import Callable


def stop_versioning_the_workspace(account: Account) -> None:
    account.client("s3").put_bucket_versioning(
        Bucket="hospital-workspace", VersioningConfiguration={"Status": "Suspended"}
    )


def version_staging(account: Account) -> None:
    account.client("s3").put_bucket_versioning(Bucket="hospital-staging", VersioningConfiguration={"Status": "Enabled"})


def keep_staging_for_ever(account: Account) -> None:
    account.client("s3").delete_bucket_lifecycle(Bucket="hospital-staging")


def delete_a_part_of_staging(account: Account) -> None:
    expire(account.client("s3"), "hospital-staging", "batches/old/", 30)


def delete_tagged_objects_of_staging(account: Account) -> None:
    put_staging_rule(account, Filter={"And": {"Prefix": "batches/", "Tags": [{"Key": "keep", "Value": "no"}]}})


def archive_staging_for_ever(account: Account) -> None:
    transition = {"Days": 30, "StorageClass": "GLACIER"}
    put_staging_rule(account, Filter={"Prefix": "batches/"}, Transitions=[transition], Expiration=None)


def version_staging_and_delete_old_versions_of_a_part(account: Account) -> None:
    version_staging(account)
    whole = {"ID": "a", "Status": "Enabled", "Filter": {"Prefix": "batches/"}, "Expiration": {"Days": 30}}
    part = {"ID": "b", "Status": "Enabled", "Filter": {"Prefix": "batches/old/"}}
    part["NoncurrentVersionExpiration"] = {"NoncurrentDays": 1}
    account.client("s3").put_bucket_lifecycle_configuration(
        Bucket="hospital-staging", LifecycleConfiguration={"Rules": [whole, part]}
    )


def put_staging_rule(account: Account, **rule: Any) -> None:
    given = {"ID": "r", "Status": "Enabled", "Expiration": {"Days": 30}} | rule
    whole = {name: value for name, value in given.items() if value is not None}
    account.client("s3").put_bucket_lifecycle_configuration(
        Bucket="hospital-staging", LifecycleConfiguration={"Rules": [whole]}
    )


def expire_the_workspace_after_years(account: Account) -> None:
    expire(account.client("s3"), "hospital-workspace", "runs/hospital/", 3650)


def require_no_tls_of_the_workspace(account: Account) -> None:
    account.client("s3").delete_bucket_policy(Bucket="hospital-workspace")


def require_tls_of_reads_alone(account: Account) -> None:
    require_tls(account, "hospital-workspace", Action="s3:GetObject")


def require_tls_below_one_prefix_alone(account: Account) -> None:
    require_tls(account, "hospital-output", Resource="arn:aws:s3:::hospital-output/imports/*")


def require_tls(account: Account, bucket: str, **changes: str) -> None:
    policy = {"Version": "2012-10-17", "Statement": [tls_only(bucket) | changes]}
    account.client("s3").put_bucket_policy(Bucket=bucket, Policy=json.dumps(policy))


def use_a_workspace_of_another_account(account: Account) -> None:
    account.owners["hospital-workspace"] = OTHER_ID


def encrypt_the_archive_alone(account: Account) -> None:
    del account.content["buckets"]
    account.content["validation"] = {"dedupe": "hash"}
    rule = {"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "aws:kms"}}
    account.client("s3").put_bucket_encryption(
        Bucket="hospital-archive", ServerSideEncryptionConfiguration={"Rules": [rule]}
    )


def encrypt_the_archive_and_compare_etags(account: Account) -> None:
    encrypt_the_archive_alone(account)
    account.content["buckets"] = {"hospital-staging": {"kms_key_id": account.key_id}}
    del account.content["validation"]


def encrypt_contracts_by_default_with_another_key(account: Account) -> None:
    account.content["buckets"]["hospital-contracts"] = {"kms_key_id": account.key_id}
    rule = {"SSEAlgorithm": "aws:kms", "KMSMasterKeyID": make_key(account.client("kms"))}
    account.client("s3").put_bucket_encryption(
        Bucket="hospital-contracts",
        ServerSideEncryptionConfiguration={"Rules": [{"ApplyServerSideEncryptionByDefault": rule}]},
    )


def trust_without_a_condition(account: Account) -> None:
    trust = policy_of("import-role-trust.json")
    del trust["Statement"][0]["Condition"]
    account.client("iam").update_assume_role_policy(RoleName=IMPORT, PolicyDocument=json.dumps(trust))


def trust_under_an_unknown_condition(account: Account) -> None:
    trust = policy_of("import-role-trust.json", DATASTORE_ID=STORE)
    trust["Statement"][0]["Condition"]["StringEquals"]["aws:PrincipalTag/team"] = "x"
    account.client("iam").update_assume_role_policy(RoleName=IMPORT, PolicyDocument=json.dumps(trust))


def forget_the_redrive_policy(account: Account) -> None:
    sqs = account.client("sqs")
    sqs.delete_queue(QueueUrl=sqs.get_queue_url(QueueName=QUEUE)["QueueUrl"])
    sqs.create_queue(QueueName=QUEUE, Attributes={"Policy": queue_policy()})


def give_no_schedule(account: Account) -> None:
    account.content["schedule"] = {"cron": None}


def leave_the_workers_connection_to_the_machine(account: Account) -> None:
    account.airflow.connections["hospital"] = Connection(is_defined=False, source="Airflow's database")


def let_nobody_know_the_webhooks_connection(account: Account) -> None:
    account.airflow.connections["portal"] = Connection(None, "nobody can be asked")


def leave_deferred_tasks_out_of_the_pool(account: Account) -> None:
    account.airflow.pools["healthimaging_import"] = Pool(20, include_deferred=False)


def fill_most_of_the_disk(account: Account) -> None:
    account.free_bytes = lambda _: 900_000_000


def know_nothing_of_airflow(account: Account) -> None:
    account.airflow.has_settings = False
    account.airflow.versions.clear()
    account.ledger_url = None


def shorten_the_secret(account: Account) -> None:
    account.airflow.options[("api_auth", "jwt_secret")] = "short"


def load_the_examples(account: Account) -> None:
    del account.airflow.options[("core", "load_examples")]


WARNINGS: tuple[tuple[Callable[[Account], None], str], ...] = (
    (stop_versioning_the_workspace, "bucket.versioning hospital-workspace*"),
    (version_staging, "bucket.versioning hospital-staging*"),
    (keep_staging_for_ever, "bucket.lifecycle staging.uri*"),
    (delete_a_part_of_staging, "bucket.lifecycle staging.uri*"),
    (delete_tagged_objects_of_staging, "bucket.lifecycle staging.uri*"),
    (archive_staging_for_ever, "bucket.lifecycle staging.uri*"),
    (version_staging_and_delete_old_versions_of_a_part, "bucket.versioning hospital-staging*"),
    (expire_the_workspace_after_years, "bucket.lifecycle workspace*"),
    (require_no_tls_of_the_workspace, "bucket.policy hospital-workspace*"),
    (require_tls_of_reads_alone, "bucket.policy hospital-workspace*"),
    (require_tls_below_one_prefix_alone, "bucket.policy hospital-output*"),
    (use_a_workspace_of_another_account, "bucket.owner hospital-workspace*"),
    (encrypt_the_archive_alone, "bucket.encryption hospital-staging*"),
    (encrypt_the_archive_and_compare_etags, "bucket.encryption hospital-archive*"),
    (encrypt_contracts_by_default_with_another_key, "bucket.encryption hospital-contracts*"),
    (trust_without_a_condition, f"role.trust {IMPORT}*"),
    (trust_under_an_unknown_condition, f"role.trust {IMPORT}*"),
    (forget_the_redrive_policy, f"arrivals.dead_letter {QUEUE}"),
    (give_no_schedule, "arrivals.schedule hospital"),
    (leave_the_workers_connection_to_the_machine, "connection.defined hospital"),
    (let_nobody_know_the_webhooks_connection, "connection.defined portal"),
    (leave_deferred_tasks_out_of_the_pool, "pool.exists healthimaging_import"),
    (fill_most_of_the_disk, "machine.temporary_space*"),
    (shorten_the_secret, "airflow.secrets Airflow"),
    (load_the_examples, "airflow.parsing Airflow"),
)


@pytest.mark.parametrize(("seed", "warns"), WARNINGS, ids=[seed.__name__ for seed, _ in WARNINGS])
def test_a_doubtful_thing_is_a_warning_and_the_only_one(
    seed: Callable[[Account], None], warns: str, account: Account
) -> None:
    seed(account)
    found = account.examine()
    (warned,) = matching(found, warns)
    assert not_passed(found) == {warned: Result.WARN}, found[warned]
    assert found[warned].fix


def test_without_airflow_its_settings_and_the_ledger_are_not_checked(account: Account) -> None:
    know_nothing_of_airflow(account)
    assert not_passed(account.examine()) == {
        "ledger.reachable ledger": Result.WARN,
        "airflow.settings Airflow": Result.WARN,
        "airflow.versions Airflow": Result.NOT_MADE,
    }


# The checks that an operation belongs to, and the action that allows it.
LOOKS = (
    ("GetBucketEncryption", "bucket.encryption*", "s3:GetEncryptionConfiguration"),
    ("GetBucketEncryption", "bucket.key*", "s3:GetEncryptionConfiguration"),
    ("GetBucketVersioning", "bucket.versioning*", "s3:GetBucketVersioning"),
    ("GetBucketLifecycleConfiguration", "bucket.lifecycle*", "s3:GetLifecycleConfiguration"),
    ("GetPublicAccessBlock", "bucket.public_access*", "s3:GetBucketPublicAccessBlock"),
    ("GetBucketPolicy", "bucket.policy*", "s3:GetBucketPolicy"),
    ("GetBucketNotificationConfiguration", "arrivals.notification*", "s3:GetBucketNotification"),
)


def test_what_aws_does_not_let_the_doctor_see_is_a_warning_with_the_right_that_it_lacks(account: Account) -> None:
    account.access.refused |= {operation for operation, _, _ in LOOKS}
    found = account.examine()
    told = not_passed(found)
    assert set(told.values()) == {Result.WARN}
    assert set(told) == {name for _, pattern, _ in LOOKS for name in matching(found, pattern)}
    for _, pattern, right in LOOKS:
        assert all(right in found[name].fix for name in matching(found, pattern)), right
    assert len(matching(found, "bucket.policy*")) == len(BUCKETS)


def queue_arn() -> str:
    return f"arn:aws:sqs:{REGION}:{ID}:{QUEUE}"


def let_send(account: Account, service: str, source: str) -> None:
    allow = {"Effect": "Allow", "Principal": {"Service": service}, "Action": "sqs:SendMessage", "Resource": queue_arn()}
    allow["Condition"] = {"ArnEquals": {"aws:SourceArn": source}}
    sqs = account.client("sqs")
    url = sqs.get_queue_url(QueueName=QUEUE)["QueueUrl"]
    sqs.set_queue_attributes(QueueUrl=url, Attributes={"Policy": json.dumps({"Statement": [allow]})})


def notify(account: Account, **configuration: Any) -> None:
    account.client("s3").put_bucket_notification_configuration(
        Bucket="hospital-archive", NotificationConfiguration=configuration
    )


def notification_of(account: Account) -> tuple[Result, str]:
    found = account.examine()
    (name,) = matching(found, "arrivals.notification*")
    return found[name].result, found[name].found


def test_a_notification_may_go_by_a_topic(account: Account) -> None:
    sns = account.client("sns")
    topic = sns.create_topic(Name="uploads")["TopicArn"]
    sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=queue_arn())
    let_send(account, "sns.amazonaws.com", topic)
    notify(account, TopicConfigurations=[{"TopicArn": topic, "Events": ["s3:ObjectCreated:*"]}])
    assert notification_of(account)[0] is Result.PASS


def send_by_the_bus(
    account: Account, state: str = "ENABLED", bucket: Any = "hospital-archive", key: Any = None, **more: Any
) -> None:
    events = account.client("events")
    keys = [key or {"prefix": "deliveries/"}]
    pattern = {
        "source": ["aws.s3"],
        "detail-type": ["Object Created"],
        "detail": {"bucket": {"name": [bucket]}, "object": {"key": keys}, **more},
    }
    rule = events.put_rule(Name="uploads", EventPattern=json.dumps(pattern), State=state)["RuleArn"]
    events.put_targets(Rule="uploads", Targets=[{"Id": "1", "Arn": queue_arn()}])
    let_send(account, "events.amazonaws.com", rule)
    notify(account)
    account.access.archive_sends_to_the_bus = True


def test_a_notification_may_go_by_the_bus(account: Account) -> None:
    send_by_the_bus(account)
    assert notification_of(account)[0] is Result.PASS


def test_a_disabled_rule_of_the_bus_wakes_no_run(account: Account) -> None:
    send_by_the_bus(account, state="DISABLED")
    result, told = notification_of(account)
    assert result is Result.FAIL
    assert "disabled" in told


@pytest.mark.parametrize(
    "pattern",
    [
        {"bucket": {"prefix": "hospital-"}},
        {"bucket": {"anything-but": "office-archive"}},
        {"key": {"wildcard": "deliveries/*"}},
        {"key": {"anything-but": {"prefix": "office/"}}},
        {"key": {"prefix": {"equals-ignore-case": "Deliveries/"}}},
    ],
    ids=str,
)
def test_a_pattern_of_the_bus_may_take_the_objects_by_any_operator(account: Account, pattern: dict[str, Any]) -> None:
    send_by_the_bus(account, **pattern)
    assert notification_of(account)[0] is Result.PASS


@pytest.mark.parametrize(
    "pattern",
    [
        {"bucket": {"exists": True}},
        {"key": {"suffix": ".dcm"}},
        {"key": {"wildcard": "deliveries/*.dcm"}},
        {"reason": ["PutObject"]},
    ],
    ids=str,
)
def test_a_pattern_of_the_bus_that_the_doctor_cannot_judge_is_a_warning(
    account: Account, pattern: dict[str, Any]
) -> None:
    send_by_the_bus(account, **pattern)
    result, told = notification_of(account)
    assert result is Result.WARN
    assert "not known to the doctor" in told


def test_a_pattern_for_another_bucket_leads_nowhere(account: Account) -> None:
    send_by_the_bus(account, bucket={"prefix": "office-"})
    result, told = notification_of(account)
    assert result is Result.FAIL
    assert "No notification" in told


def test_all_rules_of_the_queue_are_looked_at(account: Account) -> None:
    events = account.client("events")
    events.put_rule(Name="others", EventPattern='{"source": ["aws.s3"], "detail": {"bucket": {"name": ["office"]}}}')
    events.put_targets(Rule="others", Targets=[{"Id": "1", "Arn": queue_arn()}])
    send_by_the_bus(account)
    of_one = ("before-parameter-build.events.ListRuleNamesByTarget", _limit_pages_to_one)
    events.meta.events.register(*of_one)
    try:
        assert notification_of(account)[0] is Result.PASS
    finally:
        events.meta.events.unregister(*of_one)


def _limit_pages_to_one(params: dict[str, Any], **_: Any) -> None:
    params["Limit"] = 1
