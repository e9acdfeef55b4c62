"""stores.yaml and ledger.yaml: what they make, and who may use their keys.

The emulator makes the data stores, since moto has none: CloudFormation's schemas, as cfn-lint ships them, judge their
properties. Moto makes the database of the ledger, and no PostgreSQL.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from airlock_local.settings import ROOT
from localaws.server import serve
from tests.iam_policies import Policy, Request, allow
from tests.servers.guarded_keys import Key
from tests.servers.moto import moto_server
from tests.servers.policies import told
from tests.servers.stack import ACCOUNT, client, deploy, key_policy, role_policies
from tests.servers.stack_models import IMAGES, RECORDS, REGION, require_schema

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:Tried to parse:UserWarning")]

FOLDER = ROOT / "deploy/cloudformation"
TOPIC = f"arn:aws:sns:{REGION}:{ACCOUNT}:alarms"
ADMINISTRATOR = f"arn:aws:iam::{ACCOUNT}:role/administrator"


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with moto_server() as running:
        yield running


def through(service: str) -> dict[str, str]:
    """Return the condition keys of a request to KMS that a service makes for its caller."""
    return {"kms:ViaService": f"{service}.{REGION}.amazonaws.com", "kms:CallerAccount": ACCOUNT}


@pytest.fixture(scope="module")
def emulator(endpoint: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serve(s3_endpoint=endpoint, state=tmp_path_factory.mktemp("emulator") / "state.db") as running:
        yield running


@pytest.fixture(scope="module")
def new_stores(endpoint: str, emulator: str) -> Callable[..., dict[str, str]]:
    """Return what deploys stores.yaml under a name with parameters, and returns its outputs."""
    return lambda name, **given: deploy(endpoint, FOLDER / "stores.yaml", name, given, emulator)


@pytest.fixture(scope="module")
def stores(new_stores: Callable[..., dict[str, str]]) -> dict[str, str]:
    return new_stores("stores", HealthLake="yes")


class TestStores:
    def test_both_data_stores_are_under_the_key_of_the_stack(self, emulator: str, stores: dict[str, str]) -> None:
        images = client("medical-imaging", emulator).get_datastore(datastoreId=stores["HealthImagingDatastoreId"])
        records = client("healthlake", emulator).describe_fhir_datastore(DatastoreId=stores["HealthLakeDatastoreId"])
        assert images["datastoreProperties"]["kmsKeyArn"] == stores["StoreKeyArn"]
        assert records["DatastoreProperties"]["SseConfiguration"]["KmsEncryptionConfig"] == {
            "CmkType": "CUSTOMER_MANAGED_KMS_KEY",
            "KmsKeyId": stores["StoreKeyArn"],
        }
        assert records["DatastoreProperties"]["DatastoreTypeVersion"] == "R4"

    def test_by_itself_it_makes_one_for_images_only(self, new_stores: Any) -> None:
        assert new_stores("images").keys() == {"StoreKeyArn", "HealthImagingDatastoreId"}

    def test_a_key_that_exists_is_used(self, endpoint: str, emulator: str, new_stores: Any) -> None:
        kms = client("kms", endpoint)
        key = kms.create_key()["KeyMetadata"]["Arn"]
        known = len(kms.list_keys()["Keys"])
        made = new_stores("existing-key", StoreKeyArn=key)
        found = client("medical-imaging", emulator).get_datastore(datastoreId=made["HealthImagingDatastoreId"])
        assert found["datastoreProperties"]["kmsKeyArn"] == made["StoreKeyArn"] == key
        assert len(kms.list_keys()["Keys"]) == known

    @pytest.mark.parametrize(
        ("kind", "properties"),
        [
            (IMAGES, {"DatastoreName": "images", "KmsKeyId": "x"}),
            (IMAGES, {"DatastoreName": "two words"}),
            (RECORDS, {"DatastoreName": "records"}),
            (RECORDS, {"DatastoreTypeVersion": "R5"}),
            (RECORDS, {"DatastoreTypeVersion": "R4", "SseConfiguration": {"KmsKeyId": "x"}}),
        ],
    )
    def test_properties_that_cloudformation_does_not_know_are_found(self, kind: str, properties: Any) -> None:
        with pytest.raises(ValueError, match=kind):
            require_schema(kind, properties)

    @pytest.mark.parametrize("action", ["kms:CreateGrant", "kms:Decrypt", "kms:GenerateDataKey"])
    def test_the_account_uses_the_key_through_the_two_services_only(self, stores: dict[str, str], action: str) -> None:
        policy = told(key_policy(stores["StoreKeyArn"]), ADMINISTRATOR)
        services = ("medical-imaging", "healthlake", "s3", "lambda")
        may = [service for service in services if allow([policy], Request(action, "*", through(service)))]
        assert may == ["medical-imaging", "healthlake"]
        other_account = through("healthlake") | {"kms:CallerAccount": "999999999999"}
        assert not allow([policy], Request(action, "*", other_account))

    def test_the_workers_of_airlock_yaml_use_it_and_nobody_whom_iam_does_not_allow(
        self, endpoint: str, stores: dict[str, str]
    ) -> None:
        """The outputs are parameters, as docs/cloudformation.md deploys the stacks."""
        given = stores | {"BucketPrefix": "st-elsewhere", "ArchiveBucket": "st-elsewhere-archive"}
        given["WorkerPrincipalArn"] = f"arn:aws:iam::{ACCOUNT}:user/airflow"
        made = deploy(endpoint, FOLDER / "airlock.yaml", "airlock", given)
        key, worker = Key(stores["StoreKeyArn"], key_policy(stores["StoreKeyArn"])), made["WorkerRoleArn"]
        policies: dict[str, list[Policy]] = {worker: role_policies(worker), ADMINISTRATOR: []}
        may = [
            (who, service)
            for who, identity in policies.items()
            for service in ("medical-imaging", "healthlake", "s3")
            if key.lets(who, identity, "kms:Decrypt", through(service))
        ]
        assert may == [(worker, "medical-imaging"), (worker, "healthlake")]


@pytest.fixture(scope="module")
def network(endpoint: str) -> dict[str, str]:
    """Return parameters: a network, and the security group of Airflow."""
    ec2 = client("ec2", endpoint)
    vpc = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
    zones = ("10.0.1.0/24", f"{REGION}a"), ("10.0.2.0/24", f"{REGION}b")
    subnets = [
        ec2.create_subnet(VpcId=vpc, CidrBlock=block, AvailabilityZone=zone)["Subnet"]["SubnetId"]
        for block, zone in zones
    ]
    airflow = ec2.create_security_group(GroupName="airflow", Description="Airflow", VpcId=vpc)["GroupId"]
    return {"VpcId": vpc, "SubnetIds": ",".join(subnets), "ClientsSecurityGroupId": airflow}


@pytest.fixture(scope="module")
def ledger(endpoint: str, network: dict[str, str]) -> dict[str, str]:
    return deploy(endpoint, FOLDER / "ledger.yaml", "ledger", network | {"AlarmTopicArn": TOPIC})


@pytest.fixture(scope="module")
def database(endpoint: str, ledger: dict[str, str]) -> dict[str, Any]:
    (found,) = client("rds", endpoint).describe_db_instances()["DBInstances"]
    assert (found["Endpoint"]["Address"], str(found["Endpoint"]["Port"])) == (ledger["Host"], ledger["Port"])
    return dict(found)


class TestLedger:
    def test_it_is_encrypted_private_and_survives(self, endpoint: str, database: dict[str, Any]) -> None:
        (alias,) = [
            one for one in client("kms", endpoint).list_aliases()["Aliases"] if one["AliasName"] == "alias/ledger"
        ]
        assert database["StorageEncrypted"]
        assert database["KmsKeyId"].endswith(alias["TargetKeyId"])
        assert not database["PubliclyAccessible"]
        assert database["MultiAZ"]
        assert database["DeletionProtection"]
        assert database["BackupRetentionPeriod"] == 35

    def test_it_refuses_connections_without_tls_and_logs_no_values(
        self, endpoint: str, database: dict[str, Any]
    ) -> None:
        (group,) = database["DBParameterGroups"]
        found = client("rds", endpoint).describe_db_parameters(DBParameterGroupName=group["DBParameterGroupName"])
        set_to = {one["ParameterName"]: one["ParameterValue"] for one in found["Parameters"]}
        assert set_to == {
            "rds.force_ssl": "1",
            "log_error_verbosity": "terse",
            "log_min_error_statement": "panic",
        }

    def test_only_airflow_reaches_it(
        self, endpoint: str, network: dict[str, str], ledger: dict[str, str], database: dict[str, Any]
    ) -> None:
        assert [one["VpcSecurityGroupId"] for one in database["VpcSecurityGroups"]] == [ledger["LedgerSecurityGroupId"]]
        found = client("ec2", endpoint).describe_security_groups(GroupIds=[ledger["LedgerSecurityGroupId"]])
        (rule,) = found["SecurityGroups"][0]["IpPermissions"]
        assert (rule["IpProtocol"], rule["FromPort"], rule["ToPort"], rule["IpRanges"]) == ("tcp", 5432, 5432, [])
        assert [pair["GroupId"] for pair in rule["UserIdGroupPairs"]] == [network["ClientsSecurityGroupId"]]
        assert {one["SubnetIdentifier"] for one in database["DBSubnetGroup"]["Subnets"]} == set(
            network["SubnetIds"].split(",")
        )

    def test_its_password_is_in_secrets_manager_under_its_key(
        self, endpoint: str, ledger: dict[str, str], database: dict[str, Any]
    ) -> None:
        secret = client("secretsmanager", endpoint).describe_secret(SecretId=ledger["OwnerSecretArn"])
        assert secret["ARN"] == database["MasterUserSecret"]["SecretArn"]
        assert secret["KmsKeyId"] == database["KmsKeyId"]

    def test_the_account_uses_its_key_through_the_two_services_only(self, database: dict[str, Any]) -> None:
        policy = told(key_policy(database["KmsKeyId"]), ADMINISTRATOR)
        services = ("rds", "secretsmanager", "s3")
        may = [name for name in services if allow([policy], Request("kms:Decrypt", "*", through(name)))]
        assert may == ["rds", "secretsmanager"]

    def test_alarms_watch_it_and_tell_the_topic(self, endpoint: str, database: dict[str, Any]) -> None:
        found = client("cloudwatch", endpoint).describe_alarms()["MetricAlarms"]
        assert {alarm["AlarmName"]: alarm["MetricName"] for alarm in found} == {
            "StorageIsLow": "FreeStorageSpace",
            "CpuIsBusy": "CPUUtilization",
        }
        for alarm in found:
            assert alarm["Dimensions"] == [{"Name": "DBInstanceIdentifier", "Value": database["DBInstanceIdentifier"]}]
            assert alarm["AlarmActions"] == alarm["OKActions"] == [TOPIC]
