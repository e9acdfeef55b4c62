"""An account on moto in which nothing is wrong, with the policies of iam/, and the doctor looking at it.

To seed a fault: take the fixture ``account``, change one thing by its boto3 clients (``account.client("s3")``) or its
attributes, then call ``account.examine()``. It returns the finding of each check by the check's name and subject.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from email.utils import formatdate
from fnmatch import fnmatchcase
from functools import cache
from typing import TYPE_CHECKING, Any

from botocore.awsrequest import AWSResponse
from moto.iam.models import iam_backends
from moto.sts.models import sts_backends

from airlock.pipelines.files import _READER
from airlock.stages.doctor.examination import examine
from airlock.stages.doctor.findings import Result
from airlock.stages.doctor.world import Connection, Dag, Pool, Simulation, World, measure_free_bytes
from airlock_cli.airflow_connections import GivenConnection
from airlock_cli.aws_access import ConnectionAccess
from tests.iam_policies import Policy, Request, allow
from tests.markdown import ROOT
from tests.servers.ledger import new_ledger

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from airlock.pipelines import Pipeline
    from airlock.stages.doctor.findings import Finding

REGION, OTHER_REGION = "us-east-1", "eu-west-1"
ID = "123456789012"  # moto's account
OTHER_ID = "210987654321"
STORE, LAKE = "5a3b1c9d7e2f4a6b8c0d1e2f3a4b5c6d", "7c1e5b0f9a3d4286b1f07d2e6c8a9054"
BUCKETS = ("hospital-archive", "hospital-staging", "hospital-output", "hospital-workspace", "hospital-contracts")
QUEUE, DEAD = "hospital-arrivals", "hospital-arrivals-dead"
WORKER, IMPORT, FHIR_IMPORT = "airlock-worker", "airlock-import", "airlock-fhir-import"
ALL_CLOSED = dict.fromkeys(("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets"), True)
_WORDS = {
    "ARCHIVE_BUCKET": "hospital-archive",
    "STAGING_BUCKET": "hospital-staging",
    "OUTPUT_BUCKET": "hospital-output",
    "WORKSPACE_BUCKET": "hospital-workspace",
    "CONTRACTS_BUCKET": "hospital-contracts",
    "REGION": REGION,
    "ACCOUNT_ID": ID,
    "airlock-arrivals": QUEUE,
}


def policy_of(file: str, **words: str) -> dict[str, Any]:
    """Return a policy of iam/ with its words in capitals replaced."""
    text = (ROOT / "iam" / file).read_text(encoding="utf-8")
    for word, value in (_WORDS | words).items():
        text = text.replace(word, value)
    policy: dict[str, Any] = json.loads(text)
    return policy


def pipeline_of(key: str) -> dict[str, Any]:
    """Return the content of the pipeline file, as a person would write it for this account."""
    url = f"https://sqs.{REGION}.amazonaws.com/{ID}"
    return {
        "schema": "airlock.pipeline/1",
        "name": "hospital",
        "kind": "imaging",
        "source": {"uri": "s3://hospital-archive/deliveries/", "aws_conn_id": "hospital"},
        "arrivals": {
            "queue_url": f"{url}/{QUEUE}",
            "dead_letter_queue_url": f"{url}/{DEAD}",
            "aws_conn_id": "hospital",
        },
        "workspace": "s3://hospital-workspace/runs/",
        "staging": {"uri": "s3://hospital-staging/batches/"},
        "buckets": {"hospital-staging": {"kms_key_id": key}},
        "healthimaging": {
            "datastore_id": STORE,
            "data_access_role_arn": f"arn:aws:iam::{ID}:role/{IMPORT}",
            "output_uri": "s3://hospital-output/imports/",
            "aws_conn_id": "hospital",
        },
        "healthlake": {
            "datastore_id": LAKE,
            "data_access_role_arn": f"arn:aws:iam::{ID}:role/{FHIR_IMPORT}",
            "output_uri": "s3://hospital-output/clinical/",
            "kms_key_id": key,
            "aws_conn_id": "hospital",
        },
        "routes": [
            {"name": "contracts", "uri": "s3://hospital-contracts/studies/", "aws_conn_id": "hospital"},
            {
                "name": "portal",
                "webhook": {"conn_id": "portal", "url": "https://portal.example/airlock"},
            },
        ],
    }


class AccountAccess(ConnectionAccess):
    """AWS by the connection of the account; S3 knows the owner of each bucket, as moto does not."""

    def __init__(self, given: GivenConnection, owners: Mapping[str, str]) -> None:
        super().__init__(given)
        self._owners = owners
        self._watched: set[int] = set()
        self.refused: set[str] = set()  # operations that AWS denies
        self.archive_sends_to_the_bus = False  # moto takes this configuration and does not answer it
        self.store_key: str | None = None  # of the data store of images

    def client(self, service: str, region: str | None = None) -> Any:
        client = super().client(service, region)
        if id(client) not in self._watched:
            self._watched.add(id(client))
            client.meta.events.register(f"before-send.{service}", self._judge)
            client.meta.events.register("before-parse.s3.HeadBucket", _add_date)
            client.meta.events.register("after-call.medical-imaging.GetDatastore", self._add_store_key)
            client.meta.events.register("after-call.s3.GetBucketNotificationConfiguration", self._add_bus)
        return client

    def is_local(self, service: str) -> bool:
        return False

    def clients(self) -> list[Any]:
        """Return the clients that were made so far."""
        return list(self._clients.values())

    def access_key(self) -> str:
        return str(self._open_session().get_credentials().access_key)

    def _add_bus(self, parsed: dict[str, Any], **_: Any) -> None:
        if self.archive_sends_to_the_bus:
            parsed["EventBridgeConfiguration"] = {}

    def _add_store_key(self, parsed: dict[str, Any], **_: Any) -> None:
        if self.store_key is not None and "datastoreProperties" in parsed:
            parsed["datastoreProperties"]["kmsKeyArn"] = self.store_key

    def _judge(self, request: Any, event_name: str, **_: Any) -> AWSResponse | None:
        bucket = request.url.rpartition("/")[2]
        wanted = request.headers.get("x-amz-expected-bucket-owner")
        owned = wanted is None or _text(wanted) == self._owners.get(bucket, ID)
        if owned and event_name.rpartition(".")[2] not in self.refused:
            return None
        response = AWSResponse(request.url, 403, {}, None)
        response._content = b"<Error><Code>AccessDenied</Code></Error>"
        return response


def _add_date(response_dict: dict[str, Any], **_: Any) -> None:
    """Add the header that a server adds, and moto without one does not."""
    response_dict["headers"].setdefault("date", formatdate(usegmt=True))


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


class MotoSimulator:
    """Stands in for SimulatePrincipalPolicy, which moto lacks: judges by the policies that moto has."""

    def simulate(
        self, principal: str, actions: Sequence[str], resource: str, context: Mapping[str, str]
    ) -> list[Simulation]:
        role = iam_backends[ID]["aws"].get_role(principal.rpartition("/")[2])
        policies = [Policy.parse(name, document) for name, document in role.policies.items()]
        return [Simulation(action, allow(policies, Request(action, resource, context))) for action in actions]


@dataclass
class FakeAirflow:
    """A deployment whose answers a test writes down."""

    options: dict[tuple[str, str], str] = field(default_factory=dict)
    pools: dict[str, Pool] = field(default_factory=dict)
    connections: dict[str, Connection] = field(default_factory=dict)
    dags: dict[str, Dag] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    has_settings: bool = True

    def option(self, section: str, name: str) -> str | None:
        return self.options.get((section, name))

    def pool(self, name: str) -> Pool | None:
        return self.pools.get(name)

    def dag(self, name: str) -> Dag | None:
        return self.dags.get(name)

    def connection(self, name: str) -> Connection:
        return self.connections.get(name, Connection(is_defined=False, source="nowhere"))

    def version(self, package: str) -> str | None:
        return self.versions.get(package)


def healthy_airflow() -> FakeAirflow:
    """Return a deployment with a LocalExecutor in which nothing is wrong."""
    return FakeAirflow(
        options={
            ("core", "executor"): "LocalExecutor",
            ("core", "auth_manager"): "airflow.providers.fab.auth_manager.fab_auth_manager.FabAuthManager",
            ("core", "fernet_key"): "k" * 44,
            ("core", "load_examples"): "False",
            ("core", "plugins_folder"): str(ROOT / "plugins"),
            ("api_auth", "jwt_secret"): "s" * 64,
            ("database", "sql_alchemy_conn"): "postgresql+psycopg2://airflow@metadata/airflow",
        },
        pools={
            "airlock_staging": Pool(4, include_deferred=True),
            "healthimaging_import": Pool(20, include_deferred=True),
            "healthlake_import": Pool(1, include_deferred=True),
        },
        connections={
            "hospital": Connection(is_defined=True, source="AIRFLOW_CONN_HOSPITAL", kind="aws"),
            "portal": Connection(is_defined=True, source="AIRFLOW_CONN_PORTAL", kind="http"),
        },
        dags={"hospital": Dag(is_paused=False)},
        versions={
            "apache-airflow": "3.3.2",
            "apache-airflow-providers-amazon": "9.39.0",
            "aiobotocore": "3.10.0",
            "polars": "2.1.0",
            "celery": "5.6.3",
        },
    )


@dataclass
class Account:
    """The world that the doctor looks at; change anything of it before `examine`.

    Attributes
    ----------
    content
        The pipeline file.
    airflow
        The deployment.
    owners
        The account of each bucket that is not of `ID`.
    ledger_url, temporary, now, free_bytes
        Those of `World`.
    seconds
        The longest time for one check.
    """

    access: AccountAccess
    owners: dict[str, str]
    content: dict[str, Any]
    key_id: str
    ledger_url: str | None
    temporary: Path
    airflow: FakeAirflow = field(default_factory=healthy_airflow)
    now: Any = lambda: datetime.now(UTC)
    free_bytes: Any = measure_free_bytes
    seconds: float = 10.0

    @property
    def key_name(self) -> str:
        """The word KEY_ID of policies."""
        return self.key_id.rpartition("/")[2]

    def client(self, service: str, region: str | None = None) -> Any:
        """Return boto3's client of a service of the account."""
        return self.access.client(service, region)

    def pipeline(self) -> Pipeline:
        return _READER.validate_python(self.content)

    def world(self) -> World:
        """Return the world as the command makes it from the environment."""
        made = World(
            self.pipeline(), lambda _: self.access, lambda _: MotoSimulator(), self.airflow,
            self.ledger_url,
        )  # fmt: skip
        return replace(made, temporary=self.temporary, now=self.now, free_bytes=self.free_bytes)

    def examine(self) -> dict[str, Finding]:
        """Return the finding of each check, by its name and subject."""
        return {check.id: finding for check, finding in examine(self.world(), self.seconds)}

    def put_role_policy(self, role: str, name: str, document: Mapping[str, Any]) -> None:
        """Give a role an inline policy, or replace it."""
        text = json.dumps(document)
        self.client("iam").put_role_policy(RoleName=role, PolicyName=name, PolicyDocument=text)


def not_passed(found: Mapping[str, Finding]) -> dict[str, Result]:
    """Return the results other than a pass, by the check's id."""
    return {name: finding.result for name, finding in found.items() if finding.result is not Result.PASS}


def matching(found: Mapping[str, Finding], pattern: str) -> list[str]:
    """Return the ids of the checks that a pattern names, such as ``bucket.exists *hospital-output*``."""
    return [name for name in found if fnmatchcase(name, pattern.replace("[", "[[]"))]


def make_bucket(s3: Any, name: str, region: str = REGION) -> None:
    """Make a bucket as AWS does today: encrypted, closed to the public, and with a policy that requires TLS."""
    place = {} if region == REGION else {"CreateBucketConfiguration": {"LocationConstraint": region}}
    s3.create_bucket(Bucket=name, **place)
    s3.put_public_access_block(Bucket=name, PublicAccessBlockConfiguration=ALL_CLOSED)
    statement = tls_only(name)
    s3.put_bucket_policy(Bucket=name, Policy=json.dumps({"Version": "2012-10-17", "Statement": [statement]}))


def tls_only(bucket: str) -> dict[str, Any]:
    """Return the statement of a bucket's policy that refuses requests without TLS."""
    return {
        "Effect": "Deny",
        "Principal": "*",
        "Action": "s3:*",
        "Resource": [f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{bucket}/*"],
        "Condition": {"Bool": {"aws:SecureTransport": "false"}},
    }


def queue_policy(bucket: str = "hospital-archive") -> str:
    """Return the policy of docs/arrivals.md for the queue of a bucket."""
    statement = {
        "Effect": "Allow",
        "Principal": {"Service": "s3.amazonaws.com"},
        "Action": "sqs:SendMessage",
        "Resource": f"arn:aws:sqs:{REGION}:{ID}:{QUEUE}",
        "Condition": {
            "StringEquals": {"aws:SourceAccount": ID},
            "ArnLike": {"aws:SourceArn": f"arn:aws:s3:::{bucket}"},
        },
    }
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})


def notify_queue(s3: Any, prefix: str = "deliveries/", events: Sequence[str] = ("s3:ObjectCreated:*",)) -> None:
    """Have the archive notify the queue."""
    one = {
        "QueueArn": f"arn:aws:sqs:{REGION}:{ID}:{QUEUE}",
        "Events": list(events),
        "Filter": {"Key": {"FilterRules": [{"Name": "prefix", "Value": prefix}]}},
    }
    s3.put_bucket_notification_configuration(
        Bucket="hospital-archive", NotificationConfiguration={"QueueConfigurations": [one]}
    )


def expire(s3: Any, bucket: str, prefix: str, days: int) -> None:
    """Have the lifecycle of a bucket delete what is below a prefix after some days."""
    rule = {"ID": "r", "Status": "Enabled", "Filter": {"Prefix": prefix}, "Expiration": {"Days": days}}
    s3.put_bucket_lifecycle_configuration(Bucket=bucket, LifecycleConfiguration={"Rules": [rule]})


@cache
def connection_of(s3: str, health: str) -> GivenConnection:
    """Return the connection of the workers, whose role it assumes."""
    extra = {
        "region_name": REGION,
        "endpoint_url": s3,
        "config_kwargs": {"inject_host_prefix": False},
        "service_config": {
            "medical-imaging": {"endpoint_url": health},
            "healthlake": {"endpoint_url": health},
            "sts": {"endpoint_url": s3},
        },
        "role_arn": f"arn:aws:iam::{ID}:role/{WORKER}",
    }
    return GivenConnection("aws", "testing", "testing", extra=extra)


def make_key(kms: Any) -> str:
    """Make a KMS key whose policy leaves it to IAM, and return its ARN."""
    return str(kms.create_key()["KeyMetadata"]["Arn"])


def make_roles(iam: Any, key: str) -> None:
    """Make the roles of iam/."""
    own = {"Effect": "Allow", "Principal": {"AWS": f"arn:aws:iam::{ID}:root"}, "Action": "sts:AssumeRole"}
    trusts = {
        WORKER: {"Version": "2012-10-17", "Statement": [own]},
        IMPORT: policy_of("import-role-trust.json", DATASTORE_ID=STORE),
        FHIR_IMPORT: policy_of("fhir-import-role-trust.json", DATASTORE_ID=LAKE),
    }
    words = {"KEY_ID": key.rpartition("/")[2]}
    policies = {
        (WORKER, "worker"): worker_policy(**words),
        (WORKER, "fhir"): policy_of("fhir-worker-policy.json", DATASTORE_ID=LAKE, **words),
        (WORKER, "arrivals"): policy_of("arrivals-policy.json"),
        (IMPORT, "import"): policy_of("import-role-policy.json", **words),
        (FHIR_IMPORT, "import"): fhir_role_policy(**words),
    }
    for role, trust in trusts.items():
        iam.create_role(RoleName=role, AssumeRolePolicyDocument=json.dumps(trust))
    for (role, name), document in policies.items():
        iam.put_role_policy(RoleName=role, PolicyName=name, PolicyDocument=json.dumps(document))


def worker_policy(**words: str) -> dict[str, Any]:
    """Return the policy of the workers, with the prefix of HealthLake's output as well."""
    document = policy_of("worker-policy.json", DATASTORE_ID=STORE, **words)
    named = {one["Sid"]: one for one in document["Statement"]}
    named["ReadManifests"]["Resource"] = [f"arn:aws:s3:::hospital-output/{one}/*" for one in ("imports", "clinical")]
    named["ListTheManifests"]["Condition"]["StringLike"]["s3:prefix"] = ["imports/*", "clinical/*"]
    return document


def fhir_role_policy(**words: str) -> dict[str, Any]:
    """Return the policy of HealthLake's role with the prefix of this pipeline's staging."""
    document = policy_of("fhir-import-role-policy.json", **words)
    (reads,) = (one for one in document["Statement"] if one["Sid"] == "ReadBatches")
    reads["Resource"] = "arn:aws:s3:::hospital-staging/batches/*"
    return document


def make_queues(sqs: Any) -> None:
    """Make the queue, which S3 may send to, and its dead-letter queue."""
    sqs.create_queue(QueueName=DEAD)
    redrive = json.dumps({"deadLetterTargetArn": f"arn:aws:sqs:{REGION}:{ID}:{DEAD}", "maxReceiveCount": "5"})
    sqs.create_queue(QueueName=QUEUE, Attributes={"Policy": queue_policy(), "RedrivePolicy": redrive})


def assume_again(access: AccountAccess) -> None:
    """Let moto know the credentials of the workers' role, which the kept clients have from before its reset."""
    sts = sts_backends[ID]["aws"]
    sts.assume_role(REGION, "workers", f"arn:aws:iam::{ID}:role/{WORKER}", "", 3600, "")
    sts.assumed_roles[-1].access_key_id = access.access_key()


def set_up(access: AccountAccess, owners: dict[str, str], folder: Path) -> Account:
    """Make everything that the pipeline needs in an empty account."""
    access.refused.clear()
    access.archive_sends_to_the_bus = False
    access.store_key = None
    owners.clear()
    s3 = access.client("s3")
    for name in BUCKETS:
        make_bucket(s3, name)
    s3.put_bucket_versioning(Bucket="hospital-workspace", VersioningConfiguration={"Status": "Enabled"})
    expire(s3, "hospital-staging", "batches/", 30)
    make_queues(access.client("sqs"))
    s3.put_object(Bucket="hospital-archive", Key="deliveries/1.dcm", Body=b"DICM")
    notify_queue(s3)
    key = make_key(access.client("kms"))
    make_roles(access.client("iam"), key)
    assume_again(access)
    (folder / "ledger.db").touch(mode=0o600)
    url = new_ledger(folder / "ledger.db")
    return Account(access, owners, pipeline_of(key), key, url, folder)
