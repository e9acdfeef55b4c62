"""Faults that somebody who had not read the doctor's code seeded on the local stack.

They were written down from the documentation alone, as mistakes that people make when they deploy Airlock. Those of a
connection and of TMPDIR are in tests/unit/airlock_cli/test_doctor.py.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from airlock.stages.doctor.findings import Result
from airlock.stages.doctor.world import Dag, Pool
from tests.unit.airlock.stages.doctor.account import (
    ALL_CLOSED,
    DEAD,
    ID,
    IMPORT,
    LAKE,
    QUEUE,
    REGION,
    WORKER,
    Account,
    matching,
    not_passed,
    notify_queue,
    policy_of,
    tls_only,
)

if TYPE_CHECKING:
    from collections.abc import Callable


def write_the_healthlake_id_into_healthimaging(account: Account) -> None:
    account.content["healthimaging"]["datastore_id"] = LAKE
    account.put_role_policy(WORKER, "another", policy_of("worker-policy.json", DATASTORE_ID=LAKE))
    trust = json.dumps(policy_of("import-role-trust.json", DATASTORE_ID=LAKE))
    account.client("iam").update_assume_role_policy(RoleName=IMPORT, PolicyDocument=trust)


def save_cost_in_the_workspace(account: Account) -> None:
    rule = {
        "ID": "cost",
        "Status": "Enabled",
        "Filter": {"And": {"Prefix": "runs/", "ObjectSizeGreaterThan": 1_048_576}},
        "Expiration": {"Days": 30},
    }
    account.client("s3").put_bucket_lifecycle_configuration(
        Bucket="hospital-workspace", LifecycleConfiguration={"Rules": [rule]}
    )


def notify_below_a_leading_slash(account: Account) -> None:
    notify_queue(account.client("s3"), prefix="/deliveries/")


def delete_the_dead_letter_queue(account: Account) -> None:
    del account.content["arrivals"]["dead_letter_queue_url"]
    sqs = account.client("sqs")
    sqs.delete_queue(QueueUrl=sqs.get_queue_url(QueueName=DEAD)["QueueUrl"])


def write_the_source_in_another_case(account: Account) -> None:
    account.content["source"]["uri"] = "s3://hospital-archive/Deliveries/"
    notify_queue(account.client("s3"), prefix="Deliveries/")
    policy = json.loads(json.dumps(policy_of("worker-policy.json")).replace("deliveries/", "Deliveries/"))
    account.put_role_policy(WORKER, "another", policy)


def add_route(account: Account, **destination: dict[str, str]) -> None:
    account.content["routes"].append({"name": "viewer", **destination})
    allow = {"Effect": "Allow", "Action": ["sqs:SendMessage", "sns:Publish", "events:PutEvents"], "Resource": "*"}
    account.put_role_policy(WORKER, "routes", {"Version": "2012-10-17", "Statement": [{"Sid": "Send", **allow}]})


def route_to_a_queue_with_a_typo(account: Account) -> None:
    url = f"https://sqs.{REGION}.amazonaws.com/{ID}/viewre"
    add_route(account, sqs={"queue_url": url, "aws_conn_id": "hospital"})


def route_to_a_topic_with_a_typo(account: Account) -> None:
    add_route(account, sns={"topic_arn": f"arn:aws:sns:{REGION}:{ID}:viewre", "aws_conn_id": "hospital"})


def route_to_a_bus_with_a_typo(account: Account) -> None:
    add_route(account, eventbridge={"bus": "viewre", "aws_conn_id": "hospital"})


def tell_a_queue_of_the_edge_with_a_typo(account: Account) -> None:
    account.content["edge"] = {
        "queue_url": f"https://sqs.{REGION}.amazonaws.com/{ID}/airlock-egde",
        "aws_conn_id": "hospital",
    }
    allow = {"Effect": "Allow", "Action": "sqs:SendMessage", "Resource": "*"}
    account.put_role_policy(WORKER, "edge", {"Version": "2012-10-17", "Statement": [{"Sid": "Tell", **allow}]})


def leave_the_dag_paused(account: Account) -> None:
    account.airflow.dags["hospital"] = Dag(is_paused=True)


def deploy_the_pipeline_file_elsewhere(account: Account) -> None:
    del account.airflow.dags["hospital"]


def close_staging_but_for_the_vpc(account: Account) -> None:
    close_but_for(account, "hospital-staging", {"StringNotEquals": {"aws:SourceVpce": "vpce-0123456789abcdef0"}})


def close_the_output_but_for_the_office(account: Account) -> None:
    close_but_for(account, "hospital-output", {"NotIpAddress": {"aws:SourceIp": ["203.0.113.0/24", "198.51.100.7"]}})


def deny_the_output_to_the_role(account: Account) -> None:
    deny = tls_only("hospital-output") | {"Principal": {"AWS": f"arn:aws:iam::{ID}:role/{IMPORT}"}}
    del deny["Condition"]
    policy = {"Version": "2012-10-17", "Statement": [tls_only("hospital-output"), deny]}
    account.client("s3").put_bucket_policy(Bucket="hospital-output", Policy=json.dumps(policy))


def close_but_for(account: Account, bucket: str, condition: dict[str, dict[str, str | list[str]]]) -> None:
    """Have a bucket refuse everybody who does not meet a condition."""
    deny = tls_only(bucket) | {"Condition": condition}
    policy = {"Version": "2012-10-17", "Statement": [tls_only(bucket), deny]}
    account.client("s3").put_bucket_policy(Bucket=bucket, Policy=json.dumps(policy))


def give_the_output_the_whole_policy_of_iam(account: Account) -> None:
    demand_the_key(account, account.key_name)


def demand_another_key_of_the_output(account: Account) -> None:
    demand_the_key(account, "another-key", but_for=("RefuseWritesThatNameNoKey",))


def demand_the_key(account: Account, key: str, but_for: tuple[str, ...] = ()) -> None:
    """Give the output bucket the policy of iam/ with a key, without some statements."""
    words = {"BUCKET": "hospital-output", "ORGANIZATION_ID": "o-1234567890", "KEY_ID": key}
    policy = policy_of("bucket-policy.json", **words)
    policy["Statement"] = [one for one in policy["Statement"] if one["Sid"] not in but_for]
    account.client("s3").put_bucket_policy(Bucket="hospital-output", Policy=json.dumps(policy))


def let_everybody_read_the_contracts(account: Account) -> None:
    bucket = "hospital-contracts"
    allow = {"Effect": "Allow", "Principal": "*", "Action": "s3:GetObject", "Resource": f"arn:aws:s3:::{bucket}/*"}
    policy = {"Version": "2012-10-17", "Statement": [tls_only(bucket), allow]}
    account.client("s3").put_public_access_block(
        Bucket=bucket, PublicAccessBlockConfiguration=ALL_CLOSED | {"BlockPublicPolicy": False}
    )
    account.client("s3").put_bucket_policy(Bucket=bucket, Policy=json.dumps(policy))
    account.client("s3").put_public_access_block(Bucket=bucket, PublicAccessBlockConfiguration=ALL_CLOSED)


def give_staging_more_slots_than_there_are_workers(account: Account) -> None:
    account.airflow.options[("core", "parallelism")] = "4"
    account.airflow.pools["airlock_staging"] = Pool(128, include_deferred=True)


def mistype_the_ledgers_file(account: Account) -> None:
    account.ledger_url = f"sqlite:///{account.temporary / 'legder.db'}"


@dataclass(frozen=True)
class Fault:
    """A fault, the check that must see it, and words that its finding or its fix must have."""

    seed: Callable[[Account], None]
    check: str
    words: tuple[str, ...]
    result: Result = Result.FAIL


FAULTS = (
    Fault(write_the_healthlake_id_into_healthimaging, "datastore.state healthimaging", (LAKE, REGION, "HealthLake")),
    Fault(save_cost_in_the_workspace, "bucket.lifecycle workspace*", ("30 days",)),
    Fault(notify_below_a_leading_slash, "arrivals.notification*", ("slash",)),
    Fault(delete_the_dead_letter_queue, f"arrivals.dead_letter {QUEUE}", (DEAD,)),
    Fault(write_the_source_in_another_case, "source.objects source.uri", ("upper and lower case",)),
    Fault(route_to_a_queue_with_a_typo, "receiver.exists routes.viewer", ("viewre",)),
    Fault(route_to_a_topic_with_a_typo, "receiver.exists routes.viewer", ("viewre",)),
    Fault(route_to_a_bus_with_a_typo, "receiver.exists routes.viewer", ("viewre",)),
    Fault(tell_a_queue_of_the_edge_with_a_typo, "receiver.exists edge.queue_url", ("airlock-egde",)),
    Fault(leave_the_dag_paused, "airflow.dag hospital", ("airflow dags unpause hospital",), Result.WARN),
    Fault(deploy_the_pipeline_file_elsewhere, "airflow.dag hospital", ("AIRLOCK_PIPELINES",)),
    Fault(
        close_staging_but_for_the_vpc, "bucket.policy hospital-staging*", ("HealthImaging", "VPC", "aws:PrincipalArn")
    ),
    Fault(close_the_output_but_for_the_office, "bucket.policy hospital-output*", ("network", "aws:PrincipalArn")),
    Fault(deny_the_output_to_the_role, "bucket.policy hospital-output*", (f"refuses the role {IMPORT}",)),
    Fault(
        give_the_output_the_whole_policy_of_iam,
        "bucket.policy hospital-output*",
        ("name no KMS key, and the jobs of HealthImaging name none", "default encryption"),
    ),
    Fault(
        demand_another_key_of_the_output,
        "bucket.policy hospital-output*",
        ("the KMS key that the jobs of HealthLake name", "buckets.hospital-output.kms_key_id"),
    ),
    Fault(let_everybody_read_the_contracts, "bucket.policy hospital-contracts*", ("public", "Allow")),
    Fault(
        give_staging_more_slots_than_there_are_workers,
        "pool.exists airlock_staging",
        ("128 slots", "4 tasks", "airflow pools set airlock_staging 2"),
        Result.WARN,
    ),
    Fault(mistype_the_ledgers_file, "ledger.reachable ledger", ("legder.db", "AIRLOCK_LEDGER_URL")),
)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.seed.__name__)
def test_an_outsiders_fault_is_found_by_one_check_that_names_it(fault: Fault, account: Account) -> None:
    fault.seed(account)
    found = account.examine()
    (name,) = matching(found, fault.check)
    finding = found[name]
    assert finding.result is fault.result, finding
    said = f"{finding.found} {finding.fix}"
    assert [word for word in fault.words if word not in said] == [], said
    others = {one for one in not_passed(found) if found[one].result is not Result.NOT_MADE} - {name}
    assert not others, {one: found[one] for one in others}
    assert {path.name for path in account.temporary.iterdir()} == {"ledger.db"}, "the doctor makes no file"


class TestWhatIsNoFault:
    """What resembles a fault above, and is none."""

    def test_an_archive_class_that_is_read_at_once(self, account: Account) -> None:
        rule = {
            "ID": "r",
            "Status": "Enabled",
            "Filter": {"Prefix": ""},
            "Transitions": [{"Days": 1, "StorageClass": "GLACIER_IR"}],
        }
        account.client("s3").put_bucket_lifecycle_configuration(
            Bucket="hospital-archive", LifecycleConfiguration={"Rules": [rule]}
        )
        assert not_passed(account.examine()) == {}

    def test_routes_to_a_queue_a_topic_and_a_bus_that_exist(self, account: Account) -> None:
        topic = account.client("sns").create_topic(Name="viewer")["TopicArn"]
        url = f"https://sqs.{REGION}.amazonaws.com/{ID}/{DEAD}"
        add_route(account, sns={"topic_arn": topic, "aws_conn_id": "hospital"})
        account.content["routes"][-1]["name"] = "topic"
        add_route(account, sqs={"queue_url": url, "aws_conn_id": "hospital"})
        account.content["routes"][-1]["name"] = "queue"
        add_route(account, eventbridge={"bus": "default", "aws_conn_id": "hospital"})
        found = account.examine()
        assert not_passed(found) == {}
        assert len(matching(found, "receiver.exists*")) == 3

    def test_a_closed_bucket_that_excepts_the_roles_of_the_jobs(self, account: Account) -> None:
        outside = {"StringNotEquals": {"aws:SourceVpce": "vpce-0123456789abcdef0"}}
        roles = {"ArnNotLike": {"aws:PrincipalArn": [f"arn:aws:iam::{ID}:role/airlock-*import"]}}
        close_but_for(account, "hospital-staging", outside | roles)
        assert not_passed(account.examine()) == {}

    def test_an_empty_archive_before_the_first_delivery(self, account: Account) -> None:
        account.client("s3").delete_object(Bucket="hospital-archive", Key="deliveries/1.dcm")
        found = account.examine()
        assert not_passed(found) == {"source.objects source.uri": Result.WARN}
        assert "No object is below source.uri" in found["source.objects source.uri"].found
