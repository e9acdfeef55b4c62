"""A stack on moto: who may do what with its buckets, key and queue."""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ClientError

from airlock_local.settings import ROOT
from tests.iam_policies import Policy, Request, allow
from tests.servers.guarded_keys import NOBODY, Key
from tests.servers.guarded_s3 import Call, guarded_s3
from tests.servers.moto import moto_server, reset_moto
from tests.servers.policies import told
from tests.servers.stack import (
    ACCOUNT,
    REGION,
    client,
    deploy,
    guard_of,
    key_policy,
    role_policies,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.servers.guarded_keys import KeyGuard

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:Tried to parse:UserWarning")]

FOLDER = ROOT / "deploy/cloudformation"
IMAGES, RECORDS, PROFILE = "d" * 32, "f" * 32, "c" * 32
STORE_KEY = f"arn:aws:kms:{REGION}:{ACCOUNT}:key/of-the-stores"
BUCKETS = ("archive", "staging", "output", "workspace", "contracts")
PARAMETERS = {
    "BucketPrefix": "st-elsewhere",
    "ArchiveBucket": "st-elsewhere-archive",
    "MakeArchive": "yes",
    "KeyUserArns": f"arn:aws:iam::{ACCOUNT}:role/pacs-gateway",
    "OrganizationId": "o-stelsewhere",
    "RequireKeyInRequests": "yes",
    "AllowResolve": "yes",
    "HealthImagingDatastoreId": IMAGES,
    "HealthLakeDatastoreId": RECORDS,
    "StoreKeyArn": STORE_KEY,
    "TransformationProfileId": PROFILE,
    "WorkerPrincipalArn": f"arn:aws:iam::{ACCOUNT}:user/airflow",
}


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with moto_server() as running:
        yield running


@pytest.fixture(scope="module")
def outputs(endpoint: str) -> dict[str, str]:
    reset_moto(endpoint)
    made = deploy(endpoint, FOLDER / "airlock.yaml", "airlock", PARAMETERS)
    given = {name: made[name] for name in ("BucketKeyArn", "WorkerRoleName")}
    given["ArchiveBucket"] = PARAMETERS["ArchiveBucket"]
    return made | deploy(endpoint, FOLDER / "arrivals.yaml", "arrivals", given)


@pytest.fixture
def judge(outputs: dict[str, str]) -> Callable[..., str | None]:
    """Return who refuses a request of a role of the stack: the Sid of a statement; None if nobody does."""

    def ask(role: str, method: str, path: str, headers: dict[str, str] | None = None, **context: str) -> str | None:
        guard = guard_of(outputs[role], "airlock")
        guard.context |= {"aws:PrincipalOrgID": "o-stelsewhere"} | {
            f"aws:{name}": value for name, value in context.items()
        }
        bucket, _, key = path.partition("/")
        query = {} if key else {"list-type": ["2"], "prefix": ["deliveries/"]}
        refusal = guard.judge(Call(method, f"st-elsewhere-{bucket}", key, query, headers or {}, b""))
        return refusal and refusal.by

    return ask


def role_of(path: str) -> str:
    """Return the output with the role that a policy of iam/ is for."""
    kinds = {
        "import": "ImportRoleArn",
        "fhir-import": "FhirImportRoleArn",
        "ccda-transformation": "TransformationRoleArn",
    }
    return kinds.get(path.removeprefix("iam/").partition("-role-")[0], "WorkerRoleArn")


def read_policy(path: str, outputs: dict[str, str]) -> list[Any]:
    """Return the statements of a policy of iam/, with this stack's words as iam/README.md says."""
    text = (ROOT / path).read_text(encoding="utf-8")
    words = {
        "arn:aws:iam::ACCOUNT_ID:role/airlock-import": outputs["ImportRoleArn"],
        "arn:aws:iam::ACCOUNT_ID:role/airlock-fhir-import": outputs["FhirImportRoleArn"],
        "arn:aws:iam::ACCOUNT_ID:role/airlock-transformation": outputs["TransformationRoleArn"],
        "arn:aws:kms:REGION:ACCOUNT_ID:key/DATASTORE_KEY_ID": STORE_KEY,
        "arn:aws:kms:REGION:ACCOUNT_ID:key/KEY_ID": outputs["BucketKeyArn"],
        "arn:aws:sqs:REGION:ACCOUNT_ID:airlock-arrivals-dead": queue_arn(outputs["ArrivalsDeadLettersUrl"]),
        "arn:aws:sqs:REGION:ACCOUNT_ID:airlock-arrivals": queue_arn(outputs["ArrivalsQueueUrl"]),
        "fhir/DATASTORE_ID": f"fhir/{RECORDS}",
        "DATASTORE_ID": IMAGES,
        "PROFILE_ID": PROFILE,
        "REGION": REGION,
        "ACCOUNT_ID": ACCOUNT,
        "STAGING_BUCKET/clinical/": "st-elsewhere-staging/batches/",
        "OUTPUT_BUCKET/clinical/": "st-elsewhere-output/imports/",
    }
    words |= {f"{name.upper()}_BUCKET": f"st-elsewhere-{name}" for name in BUCKETS}
    for word, value in words.items():
        text = text.replace(word, value)
    return json.loads(text)["Statement"]


def encrypted(key: str) -> dict[str, str]:
    """Return the headers of a write that names a key."""
    return {"x-amz-server-side-encryption": "aws:kms", "x-amz-server-side-encryption-aws-kms-key-id": key}


@contextmanager
def reading(endpoint: str, role: str, path: str) -> Iterator[tuple[Callable[[], bytes], KeyGuard, str]]:
    """Give what reads an object with the rights of a role, the guard that judges it, and the bucket."""
    name, _, key = path.partition("/")
    bucket, guard = f"st-elsewhere-{name}", guard_of(role, "airlock")
    guard.context["aws:PrincipalOrgID"] = PARAMETERS["OrganizationId"]
    client("s3", endpoint).put_object(Bucket=bucket, Key=key, Body=b"x")
    with guarded_s3(guard) as guarded:
        s3 = client("s3", guarded)

        def read() -> bytes:
            return bytes(s3.get_object(Bucket=bucket, Key=key)["Body"].read())

        yield read, guard, bucket


def without_keys(policy: Policy) -> Policy:
    """Return a policy without its statements about keys."""
    return Policy(policy.name, tuple(one for one in policy.statements if "kms:" not in str(one["Action"])))


def queue_arn(url: str) -> str:
    return f"arn:aws:sqs:{REGION}:{ACCOUNT}:{url.rsplit('/', 1)[-1]}"


@pytest.mark.parametrize(
    "path",
    [
        "iam/worker-policy.json",
        "iam/arrivals-policy.json",
        "iam/fhir-worker-policy.json",
        "iam/ccda-worker-policy.json",
        "iam/resolve-worker-policy.json",
        "iam/import-role-policy.json",
        "iam/fhir-import-role-policy.json",
        "iam/ccda-transformation-role-policy.json",
    ],
)
def test_a_role_has_the_policy_of_iam(outputs: dict[str, str], path: str) -> None:
    attached = [list(policy.statements) for policy in role_policies(outputs[role_of(path)])]
    assert read_policy(path, outputs) in attached


def test_the_services_assume_their_roles_for_this_account_only(endpoint: str, outputs: dict[str, str]) -> None:
    iam = client("iam", endpoint)
    for path in sorted(f"iam/{found.name}" for found in (ROOT / "iam").glob("*-trust.json")):
        role = iam.get_role(RoleName=outputs[role_of(path)].rsplit("/", 1)[-1])["Role"]
        assert role["AssumeRolePolicyDocument"]["Statement"] == read_policy(path, outputs)


class TestBuckets:
    def test_no_bucket_is_public_and_each_has_a_lifecycle(self, endpoint: str, outputs: dict[str, str]) -> None:
        s3 = client("s3", endpoint)
        names = {bucket["Name"] for bucket in s3.list_buckets()["Buckets"]}
        assert names == {f"st-elsewhere-{name}" for name in BUCKETS}
        for name in names:
            blocked = s3.get_public_access_block(Bucket=name)["PublicAccessBlockConfiguration"]
            assert len(blocked) == 4
            assert all(blocked.values())
            rule = s3.get_bucket_encryption(Bucket=name)["ServerSideEncryptionConfiguration"]["Rules"][0]
            assert rule["ApplyServerSideEncryptionByDefault"] == {
                "SSEAlgorithm": "aws:kms",
                "KMSMasterKeyID": outputs["BucketKeyArn"],
            }
            rules = s3.get_bucket_lifecycle_configuration(Bucket=name)["Rules"]
            assert "unfinished-uploads" in {one["ID"] for one in rules}

    def test_only_staged_batches_and_manifests_expire(self, endpoint: str, outputs: dict[str, str]) -> None:
        s3 = client("s3", endpoint)
        expiring = {
            (bucket["Name"], rule["Filter"]["Prefix"], rule["Expiration"]["Days"])
            for bucket in s3.list_buckets()["Buckets"]
            for rule in s3.get_bucket_lifecycle_configuration(Bucket=bucket["Name"])["Rules"]
            if "Days" in rule.get("Expiration", {})
        }
        assert expiring == {
            ("st-elsewhere-staging", "batches/", 30),
            ("st-elsewhere-output", "imports/", 90),
            ("st-elsewhere-output", "converted/", 90),
        }

    @pytest.mark.parametrize(
        ("role", "path", "named"),
        [
            ("WorkerRoleArn", "workspace/runs/a/b", True),
            ("WorkerRoleArn", "staging/batches/a/b", True),
            ("WorkerRoleArn", "contracts/studies/a", True),
            ("ImportRoleArn", "output/imports/a", False),  # AWS does not say what the service names
            ("FhirImportRoleArn", "output/imports/a", True),
            ("TransformationRoleArn", "output/converted/a", False),
        ],
    )
    def test_who_may_write(self, judge: Any, outputs: dict[str, str], role: str, path: str, named: bool) -> None:
        assert judge(role, "PUT", path, encrypted(outputs["BucketKeyArn"]) if named else {}) is None

    @pytest.mark.parametrize(
        ("role", "path"),
        [
            ("WorkerRoleArn", "archive/deliveries/a"),
            ("WorkerRoleArn", "workspace/elsewhere/a"),
            ("ImportRoleArn", "staging/batches/a"),
            ("ImportRoleArn", "workspace/runs/a"),
            ("FhirImportRoleArn", "contracts/studies/a"),
        ],
    )
    def test_who_may_not_write(self, judge: Any, outputs: dict[str, str], role: str, path: str) -> None:
        assert judge(role, "PUT", path, encrypted(outputs["BucketKeyArn"])) == "no policy allows it"

    @pytest.mark.parametrize("path", ["staging/batches/a", "workspace/runs/a", "contracts/studies/a"])
    def test_other_encryption_is_refused(self, judge: Any, outputs: dict[str, str], path: str) -> None:
        key = outputs["BucketKeyArn"]
        assert judge("WorkerRoleArn", "PUT", path) == "RefuseWritesThatNameNoKey"
        assert judge("WorkerRoleArn", "PUT", path, encrypted(f"{key}0")) == "RefuseOtherKeys"
        other = encrypted(key) | {"x-amz-server-side-encryption": "AES256"}
        assert judge("WorkerRoleArn", "PUT", path, other) == "RefuseOtherEncryption"

    @pytest.mark.parametrize(
        "path", ["archive/deliveries/a", "staging/batches/a", "output/imports/a", "workspace/runs/a"]
    )
    def test_nobody_reads_without_tls_or_from_elsewhere(self, judge: Any, path: str) -> None:
        assert judge("WorkerRoleArn", "GET", path) is None
        assert judge("WorkerRoleArn", "GET", path, SecureTransport="false") == "RefuseRequestsWithoutTls"
        assert judge("WorkerRoleArn", "GET", path, PrincipalOrgID="o-other") == "RefuseOtherOrganizations"

    def test_nobody_writes_contracts_without_tls(self, judge: Any, outputs: dict[str, str]) -> None:
        asked = "WorkerRoleArn", "PUT", "contracts/studies/a", encrypted(outputs["BucketKeyArn"])
        assert judge(*asked) is None
        assert judge(*asked, SecureTransport="false") == "RefuseRequestsWithoutTls"


class TestKey:
    def test_who_uses_it_through_s3(self, outputs: dict[str, str]) -> None:
        others = PARAMETERS["KeyUserArns"], f"arn:aws:iam::{ACCOUNT}:role/somebody"
        users = [outputs[f"{name}RoleArn"] for name in ("Worker", "Import", "FhirImport", "Transformation")]
        may = {who: self.lets(outputs, who, "kms:Decrypt", "s3") for who in (*users, *others)}
        assert may == dict.fromkeys((*users, others[0]), True) | {others[1]: False}

    def test_workers_do_not_use_it_but_through_s3_and_sqs(self, outputs: dict[str, str]) -> None:
        worker = outputs["WorkerRoleArn"]
        may = {service: self.lets(outputs, worker, "kms:Decrypt", service) for service in ("s3", "sqs", "lambda")}
        assert may == {"s3": True, "sqs": True, "lambda": False}

    @pytest.mark.parametrize(("action", "may"), [("kms:PutKeyPolicy", True), ("kms:Decrypt", False)])
    def test_an_administrator_cannot_decrypt(self, outputs: dict[str, str], action: str, may: bool) -> None:
        assert self.lets(outputs, f"arn:aws:iam::{ACCOUNT}:role/administrator", action, "s3") is may

    @pytest.mark.parametrize(
        ("role", "path"),
        [
            ("WorkerRoleArn", "archive/deliveries/a"),
            ("WorkerRoleArn", "workspace/runs/a"),
            ("ImportRoleArn", "staging/batches/a"),
            ("FhirImportRoleArn", "staging/batches/a"),
            ("TransformationRoleArn", "staging/batches/a"),
        ],
    )
    def test_a_role_that_the_key_s_policy_does_not_name_reads_nothing(
        self, endpoint: str, outputs: dict[str, str], role: str, path: str
    ) -> None:
        with reading(endpoint, outputs[role], path) as (read, guard, bucket):
            assert read() == b"x"
            policy = guard.keys[bucket].policy
            kept = [item for item in policy["Statement"] if outputs[role] not in str(item["Principal"])]
            guard.keys[bucket] = Key(outputs["BucketKeyArn"], policy | {"Statement": kept})
            with pytest.raises(ClientError, match="AccessDenied"):
                read()
        assert [(one.action, one.by) for one in guard.refused] == [("kms:Decrypt", NOBODY)]

    @pytest.mark.parametrize(
        ("role", "path"), [("WorkerRoleArn", "archive/deliveries/a"), ("ImportRoleArn", "staging/batches/a")]
    )
    def test_under_a_key_that_leaves_it_to_iam_a_role_needs_its_statement(
        self, endpoint: str, outputs: dict[str, str], role: str, path: str
    ) -> None:
        """As of a key that exists: KMS gives a key this policy if it is given none."""
        root = {"Effect": "Allow", "Principal": {"AWS": f"arn:aws:iam::{ACCOUNT}:root"}, "Action": "kms:*"}
        with reading(endpoint, outputs[role], path) as (read, guard, bucket):
            statement = root | {"Sid": "LeaveItToIam", "Resource": "*"}
            guard.keys[bucket] = Key(outputs["BucketKeyArn"], {"Statement": [statement]})
            assert read() == b"x"
            guard.identity = [without_keys(policy) for policy in guard.identity or []]
            with pytest.raises(ClientError, match="AccessDenied"):
                read()
        assert [(one.action, one.by) for one in guard.refused] == [("kms:Decrypt", NOBODY)]

    @pytest.mark.parametrize(
        ("operation", "of_source", "of_target"),
        [("copy", "kms:Decrypt", "kms:GenerateDataKey"), ("part", "kms:Decrypt", "kms:Decrypt")],
    )
    def test_a_copy_uses_both_keys(
        self, outputs: dict[str, str], operation: str, of_source: str, of_target: str
    ) -> None:
        worker = outputs["WorkerRoleArn"]
        headers = encrypted(outputs["BucketKeyArn"]) | {"x-amz-copy-source": "/st-elsewhere-archive/deliveries/a"}
        query = {"uploadId": ["1"], "partNumber": ["1"]} if operation == "part" else {}
        call = Call("PUT", "st-elsewhere-staging", "batches/a", query, headers, b"")
        for bucket, action in (("st-elsewhere-archive", of_source), ("st-elsewhere-staging", of_target)):
            guard = guard_of(worker, "airlock")
            guard.context["aws:PrincipalOrgID"] = PARAMETERS["OrganizationId"]
            guard.begun["1"] = call.context({})
            guard.keys = {bucket: Key("arn:aws:kms:us-east-1:123456789012:key/of-others", {"Statement": []})}
            refusal = guard.judge(call)
            assert refusal is not None
            assert (refusal.action, refusal.by) == (action, NOBODY)

    @staticmethod
    def lets(outputs: dict[str, str], who: str, action: str, service: str) -> bool:
        context = {"kms:ViaService": f"{service}.{REGION}.amazonaws.com", "kms:CallerAccount": ACCOUNT}
        return allow([told(key_policy(outputs["BucketKeyArn"]), who)], Request(action, "*", context))


class TestQueue:
    def test_the_rule_may_send_and_nobody_else(self, endpoint: str, outputs: dict[str, str]) -> None:
        for output in ("ArrivalsQueueUrl", "ArrivalsDeadLettersUrl"):
            found = client("sqs", endpoint).get_queue_attributes(QueueUrl=outputs[output], AttributeNames=["All"])
            policy = json.loads(found["Attributes"]["Policy"])
            rule = client("events", endpoint).list_rules()["Rules"][0]["Arn"]
            for source, may in ((rule, True), (rule + "-other", False)):
                asked = Request("sqs:SendMessage", "*", {"aws:SourceArn": source})
                assert allow([told(policy, "events.amazonaws.com")], asked) is may
            plain = Request("sqs:ReceiveMessage", "*", {"aws:SecureTransport": "false"})
            assert told(policy, outputs["WorkerRoleArn"]).find("Deny", plain)
            assert found["Attributes"]["KmsMasterKeyId"] in outputs["BucketKeyArn"]

    def test_its_key_lets_events_in(self, outputs: dict[str, str]) -> None:
        policy = key_policy(outputs["BucketKeyArn"])
        for account, may in ((ACCOUNT, True), ("999999999999", False)):
            asked = Request("kms:GenerateDataKey", "*", {"aws:SourceAccount": account})
            assert allow([told(policy, "events.amazonaws.com")], asked) is may

    def test_alarms_watch_the_queues_and_the_rule(self, endpoint: str, outputs: dict[str, str]) -> None:
        found = client("cloudwatch", endpoint).describe_alarms()["MetricAlarms"]
        watched = {alarm["AlarmName"]: alarm["Dimensions"][0]["Value"] for alarm in found}
        queue, dead = (outputs[name].rsplit("/", 1)[-1] for name in ("ArrivalsQueueUrl", "ArrivalsDeadLettersUrl"))
        assert (watched["ArrivalsAreNotRead"], watched["ArrivalsAreSetAside"]) == (queue, dead)
        assert watched["EventsAreNotDelivered"] == client("events", endpoint).list_rules()["Rules"][0]["Name"]
