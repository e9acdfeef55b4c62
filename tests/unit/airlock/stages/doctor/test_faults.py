"""Each seeded fault fails the check that is about it, and no other check.

A check that needs the failed one may be left out (``not made``), but never passes in its place.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import create_engine, text

from airlock.stages.doctor.findings import Result
from airlock.stages.doctor.world import Connection, Pool
from tests.unit.airlock.stages.doctor.account import (
    ALL_CLOSED,
    FHIR_IMPORT,
    ID,
    IMPORT,
    OTHER_ID,
    OTHER_REGION,
    QUEUE,
    WORKER,
    Account,
    expire,
    make_bucket,
    make_key,
    matching,
    not_passed,
    notify_queue,
    policy_of,
    queue_policy,
    tls_only,
    worker_policy,
)

if TYPE_CHECKING:
    from collections.abc import Callable


def remove_the_output_bucket(account: Account) -> None:
    account.client("s3").delete_bucket_policy(Bucket="hospital-output")
    account.client("s3").delete_bucket(Bucket="hospital-output")


def move_the_output_bucket(account: Account) -> None:
    remove_the_output_bucket(account)
    make_bucket(account.client("s3", OTHER_REGION), "hospital-output", OTHER_REGION)


def give_staging_to_another_account(account: Account) -> None:
    account.content["buckets"]["hospital-staging"]["expected_bucket_owner"] = ID
    account.owners["hospital-staging"] = OTHER_ID


def expect_another_owner_of_the_archive(account: Account) -> None:
    account.content["buckets"]["hospital-archive"] = {"expected_bucket_owner": OTHER_ID}


def expire_the_workspace(account: Account) -> None:
    expire(account.client("s3"), "hospital-workspace", "runs/", 30)


def expire_staging_too_early(account: Account) -> None:
    expire(account.client("s3"), "hospital-staging", "", 1)


def archive_the_source_at_once(account: Account) -> None:
    rule = {
        "ID": "r",
        "Status": "Enabled",
        "Filter": {"Prefix": "deliveries/"},
        "Transitions": [{"Days": 1, "StorageClass": "DEEP_ARCHIVE"}],
    }
    account.client("s3").put_bucket_lifecycle_configuration(
        Bucket="hospital-archive", LifecycleConfiguration={"Rules": [rule]}
    )


def open_the_output_to_the_public(account: Account) -> None:
    options = ALL_CLOSED | {"RestrictPublicBuckets": False}
    account.client("s3").put_public_access_block(Bucket="hospital-output", PublicAccessBlockConfiguration=options)


def refuse_writes_without_a_key(account: Account) -> None:
    demands = {
        "Effect": "Deny",
        "Principal": "*",
        "Action": "s3:PutObject",
        "Resource": "arn:aws:s3:::hospital-workspace/*",
        "Condition": {"StringNotEquals": {"s3:x-amz-server-side-encryption": "aws:kms"}},
    }
    policy = {"Version": "2012-10-17", "Statement": [tls_only("hospital-workspace"), demands]}
    account.client("s3").put_bucket_policy(Bucket="hospital-workspace", Policy=json.dumps(policy))


def encrypt_contracts_with_a_lost_key(account: Account) -> None:
    kms = account.client("kms")
    key = kms.create_key()["KeyMetadata"]["KeyId"]
    rule = {"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "aws:kms", "KMSMasterKeyID": key}}
    account.client("s3").put_bucket_encryption(
        Bucket="hospital-contracts", ServerSideEncryptionConfiguration={"Rules": [rule]}
    )
    kms.schedule_key_deletion(KeyId=key, PendingWindowInDays=7)


def encrypt_the_output_with_a_key_of_others(account: Account) -> None:
    kms = account.client("kms")
    key = kms.create_key()["KeyMetadata"]["KeyId"]
    rule = {"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "aws:kms", "KMSMasterKeyID": key}}
    account.client("s3").put_bucket_encryption(
        Bucket="hospital-output", ServerSideEncryptionConfiguration={"Rules": [rule]}
    )


def remove_the_queue(account: Account) -> None:
    sqs = account.client("sqs")
    sqs.delete_queue(QueueUrl=sqs.get_queue_url(QueueName=QUEUE)["QueueUrl"])


def notify_of_another_prefix(account: Account) -> None:
    notify_queue(account.client("s3"), prefix="other/")


def notify_of_deletions_only(account: Account) -> None:
    notify_queue(account.client("s3"), events=["s3:ObjectRemoved:*"])


def let_another_bucket_send(account: Account) -> None:
    sqs = account.client("sqs")
    url = sqs.get_queue_url(QueueName=QUEUE)["QueueUrl"]
    sqs.set_queue_attributes(QueueUrl=url, Attributes={"Policy": queue_policy("another-bucket")})


def remove_the_import_role(account: Account) -> None:
    iam = account.client("iam")
    for name in iam.list_role_policies(RoleName=IMPORT)["PolicyNames"]:
        iam.delete_role_policy(RoleName=IMPORT, PolicyName=name)
    iam.delete_role(RoleName=IMPORT)


def trust_another_account(account: Account) -> None:
    policy = json.dumps(policy_of("import-role-trust.json", ACCOUNT_ID=OTHER_ID))
    account.client("iam").update_assume_role_policy(RoleName=IMPORT, PolicyDocument=policy)


def trust_another_data_store(account: Account) -> None:
    policy = json.dumps(policy_of("fhir-import-role-trust.json", DATASTORE_ID="0" * 32))
    account.client("iam").update_assume_role_policy(RoleName=FHIR_IMPORT, PolicyDocument=policy)


def _without(document: dict[str, Any], sid: str) -> dict[str, Any]:
    kept = [one for one in document["Statement"] if one["Sid"] != sid]
    assert len(kept) < len(document["Statement"])
    return document | {"Statement": kept}


def take_the_roles_right_to_write(account: Account) -> None:
    document = policy_of("import-role-policy.json", KEY_ID=account.key_name)
    account.put_role_policy(IMPORT, "import", _without(document, "WriteManifests"))


def take_the_workers_right_to_pass_the_role(account: Account) -> None:
    document = worker_policy(KEY_ID=account.key_name)
    account.put_role_policy(WORKER, "worker", _without(document, "HandTheImportRoleToHealthImagingOnly"))


def take_the_workers_rights_on_the_queue(account: Account) -> None:
    account.client("iam").delete_role_policy(RoleName=WORKER, PolicyName="arrivals")


def disable_the_key(account: Account) -> None:
    account.client("kms").disable_key(KeyId=account.key_id)


def name_nobody_in_the_keys_policy(account: Account) -> None:
    own = {"Effect": "Allow", "Principal": {"AWS": f"arn:aws:iam::{ID}:role/admin"}, "Action": "kms:*", "Resource": "*"}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [own]})
    account.client("kms").put_key_policy(KeyId=account.key_id, PolicyName="default", Policy=policy)


def encrypt_the_data_store_with_a_key_of_others(account: Account) -> None:
    account.access.store_key = make_key(account.client("kms"))


def name_another_data_store(account: Account) -> None:
    account.content["healthimaging"]["datastore_id"] = "f" * 32
    account.put_role_policy(WORKER, "another", policy_of("worker-policy.json", DATASTORE_ID="f" * 32))
    trust = json.dumps(policy_of("import-role-trust.json", DATASTORE_ID="f" * 32))
    account.client("iam").update_assume_role_policy(RoleName=IMPORT, PolicyDocument=trust)


def remove_the_import_pool(account: Account) -> None:
    del account.airflow.pools["healthlake_import"]


def empty_the_staging_pool(account: Account) -> None:
    account.airflow.pools["airlock_staging"] = Pool(0, include_deferred=True)


def undefine_the_webhooks_connection(account: Account) -> None:
    account.airflow.connections["portal"] = Connection(is_defined=False, source="Airflow's database")


def use_celery(account: Account) -> None:
    account.airflow.options |= {
        ("core", "executor"): "CeleryExecutor",
        ("celery", "extra_celery_config"): '{"imports": ["airlock_tasks.preload"]}',
    }


def use_celery_without_a_shared_secret(account: Account) -> None:
    account.airflow.options[("core", "executor")] = "edge:airflow.providers.edge3.executors.EdgeExecutor"
    del account.airflow.options[("api_auth", "jwt_secret")]
    account.ledger_url = None


def age_the_ledger(account: Account) -> None:
    assert account.ledger_url is not None
    engine = create_engine(account.ledger_url)
    with engine.begin() as connection:
        connection.execute(text("UPDATE airlock_ledger_version SET version_num = '0011'"))
    engine.dispose()


def lose_the_ledger(account: Account) -> None:
    (account.temporary / "ledger.db").unlink()


def let_others_read_the_ledger(account: Account) -> None:
    (account.temporary / "ledger.db").chmod(0o644)


def put_the_clock_forward(account: Account) -> None:
    account.now = lambda: datetime.now(UTC) + timedelta(minutes=10)


def fill_the_disk(account: Account) -> None:
    account.free_bytes = lambda _: 10_000_000


def name_no_temporary_folder(account: Account) -> None:
    account.temporary /= "missing"


def map_too_few_tasks(account: Account) -> None:
    account.airflow.options[("core", "max_map_length")] = "500"


def stop_the_schedule(account: Account) -> None:
    account.airflow.options[("scheduler", "use_job_schedule")] = "False"


def install_an_old_provider(account: Account) -> None:
    account.airflow.versions["apache-airflow-providers-amazon"] = "9.34.0"


def deploy_half_of_the_plugins(account: Account) -> None:
    folder = account.temporary / "plugins"
    for name in ("airlock_tasks", "healthaws"):
        (folder / name).mkdir(parents=True)
    (folder / ".airflowignore").write_text("healthaws/\n")
    account.airflow.options[("core", "plugins_folder")] = str(folder)


def let_everybody_be_admin(account: Account) -> None:
    account.airflow.options |= {
        ("core", "auth_manager"): "airflow.api_fastapi.auth.managers.simple.SimpleAuthManager",
        ("core", "simple_auth_manager_all_admins"): "True",
    }


@dataclass(frozen=True)
class Fault:
    """A fault and the check that must fail; ``*`` stands for the rest of the check's subject."""

    seed: Callable[[Account], None]
    fails: str
    may_warn: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.seed.__name__


FAULTS = (
    Fault(remove_the_output_bucket, "bucket.exists hospital-output*"),
    Fault(move_the_output_bucket, "bucket.region hospital-output*"),
    Fault(give_staging_to_another_account, "bucket.owner hospital-staging*"),
    Fault(expect_another_owner_of_the_archive, "bucket.owner hospital-archive*"),
    Fault(expire_the_workspace, "bucket.lifecycle workspace*"),
    Fault(expire_staging_too_early, "bucket.lifecycle staging.uri*"),
    Fault(archive_the_source_at_once, "bucket.lifecycle source.uri*"),
    Fault(open_the_output_to_the_public, "bucket.public_access hospital-output*"),
    Fault(refuse_writes_without_a_key, "bucket.policy hospital-workspace*"),
    Fault(encrypt_contracts_with_a_lost_key, "bucket.encryption hospital-contracts*"),
    Fault(encrypt_the_output_with_a_key_of_others, "bucket.key hospital-output*"),
    Fault(remove_the_queue, f"arrivals.queue {QUEUE}"),
    Fault(notify_of_another_prefix, "arrivals.notification*"),
    Fault(notify_of_deletions_only, "arrivals.notification*"),
    Fault(let_another_bucket_send, "arrivals.notification*"),
    Fault(remove_the_import_role, f"role.exists {IMPORT}*"),
    Fault(trust_another_account, f"role.trust {IMPORT}*"),
    Fault(trust_another_data_store, f"role.trust {FHIR_IMPORT}*"),
    Fault(take_the_roles_right_to_write, f"rights.role {IMPORT}*"),
    Fault(take_the_workers_right_to_pass_the_role, "rights.workers hospital"),
    Fault(take_the_workers_rights_on_the_queue, "rights.workers hospital"),
    Fault(encrypt_the_data_store_with_a_key_of_others, "datastore.key healthimaging"),
    Fault(name_another_data_store, "datastore.state healthimaging"),
    Fault(remove_the_import_pool, "pool.exists healthlake_import"),
    Fault(empty_the_staging_pool, "pool.exists airlock_staging"),
    Fault(undefine_the_webhooks_connection, "connection.defined portal"),
    Fault(use_celery, "ledger.place ledger"),
    Fault(use_celery_without_a_shared_secret, "airflow.secrets Airflow", may_warn=("ledger.reachable ledger",)),
    Fault(age_the_ledger, "ledger.schema ledger"),
    Fault(lose_the_ledger, "ledger.reachable ledger"),
    Fault(let_others_read_the_ledger, "ledger.place ledger"),
    Fault(put_the_clock_forward, "machine.clock*"),
    Fault(fill_the_disk, "machine.temporary_space*"),
    Fault(name_no_temporary_folder, "machine.temporary_space*"),
    Fault(map_too_few_tasks, "airflow.mapping Airflow"),
    Fault(stop_the_schedule, "airflow.scheduling Airflow"),
    Fault(install_an_old_provider, "airflow.versions Airflow"),
    Fault(deploy_half_of_the_plugins, "airflow.plugins Airflow"),
    Fault(let_everybody_be_admin, "airflow.users Airflow"),
)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_fault_fails_its_check_and_no_other(fault: Fault, account: Account) -> None:
    fault.seed(account)
    found = account.examine()
    (failed,) = matching(found, fault.fails)
    finding = found[failed]
    assert finding.result is Result.FAIL, finding
    assert finding.found.endswith(".")
    assert finding.fix
    others = {name: one for name, one in found.items() if name in not_passed(found) and name != failed}
    unexpected = {
        name: one for name, one in others.items() if one.result is not Result.NOT_MADE and name not in fault.may_warn
    }
    assert not unexpected
    assert {one.found for one in others.values() if one.result is Result.NOT_MADE} <= {f"First cure: {failed}."}
