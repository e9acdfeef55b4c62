"""Resources of stacks that moto's CloudFormation does not know, or makes in part: the services' own APIs make them.

The ledger's database is made by moto's RDS. Moto has neither data store: the emulator makes them. Their properties are
checked against CloudFormation's schemas of the resources, which cfn-lint ships. The function that switches EventBridge
on runs in this process, since moto would run it in a container.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any
from unittest import mock

import boto3
from botocore.config import Config
from cfnlint.jsonschema import StandardValidator
from cfnlint.schema.manager import PROVIDER_SCHEMA_MANAGER
from deploy.cloudformation.add_event_bridge import handler

from tests.servers.webhook import webhook_endpoint

if TYPE_CHECKING:
    from collections.abc import Callable

REGION = "us-east-1"
IMAGES, RECORDS = "AWS::HealthImaging::Datastore", "AWS::HealthLake::FHIRDatastore"
_TYPED: dict[str, Callable[[Any], Any]] = {"integer": int, "boolean": lambda value: str(value).lower() == "true"}


@dataclass
class Made:
    """A resource, as moto's CloudFormation asks about it.

    Parameters
    ----------
    physical_resource_id
        Its name or id, to which a Ref resolves.
    attributes
        What Fn::GetAtt resolves to, by name.
    """

    physical_resource_id: str
    attributes: dict[str, Any]

    def get_cfn_attribute(self, name: str) -> Any:
        return self.attributes[name]

    def is_created(self) -> bool:
        return True


@dataclass(frozen=True)
class Model:
    """Stands in for a class of moto's resources: makes one of its properties."""

    make: Callable[[dict[str, Any]], Made]

    def has_cfn_attr(self, name: str) -> bool:
        return True

    def create_from_cloudformation_json(self, name: str, template: dict[str, Any], *_: Any, **__: Any) -> Made:
        return self.make(template["Properties"])


def models(endpoint: str, emulator: str | None) -> dict[str, Any]:
    """Return the models by type.

    Parameters
    ----------
    endpoint, emulator
        The addresses of moto, and of the emulator of the data stores, if there is one.
    """
    made = {"AWS::RDS::DBInstance": Model(lambda given: _make_database(client("rds", endpoint), given))}
    if emulator is not None:
        images, records = client("medical-imaging", emulator), client("healthlake", emulator)
        made[IMAGES] = Model(lambda given: _make_image_store(images, given))
        made[RECORDS] = Model(lambda given: _make_record_store(records, given))
    return made


def custom_model(endpoint: str) -> Any:
    """Return the model of Custom::AddEventBridge; what its function answers decides whether the stack is made."""
    return Model(lambda given: _add_event_bridge(endpoint, given))


def ask_function(endpoint: str, kind: str, given: dict[str, Any]) -> dict[str, Any]:
    """Ask the function as CloudFormation asks it, and return its answer.

    Parameters
    ----------
    endpoint
        The address of moto.
    kind
        ``Create``, ``Update`` or ``Delete``.
    given
        The properties of the resource.
    """
    names = {"StackId": "stack", "RequestId": "request", "LogicalResourceId": "ArchiveEvents"}
    with webhook_endpoint() as answered, mock.patch.object(boto3, "client", lambda service: client(service, endpoint)):
        handler({"RequestType": kind, "ResponseURL": answered.url, "ResourceProperties": given} | names, None)
        ((_, body),) = answered.requests
    answer = dict(json.loads(body))
    assert answer.items() >= names.items()  # CloudFormation would not know what the answer is to
    return answer


@cache
def client(service: str, endpoint: str) -> Any:
    """Return boto3's client of a server; making one takes longer than most requests."""
    session = boto3.session.Session("testing", "testing", region_name=REGION)
    return session.client(service, endpoint_url=endpoint, config=Config(inject_host_prefix=False))


def require_schema(kind: str, properties: dict[str, Any]) -> None:
    """Raise ValueError if CloudFormation's schema of a type refuses properties."""
    schema = PROVIDER_SCHEMA_MANAGER.get_resource_schema(REGION, kind).schema
    wrong = [error.message for error in StandardValidator(schema).iter_errors(properties)]
    if wrong:
        raise ValueError(f"{kind}: {wrong}")


def _add_event_bridge(endpoint: str, given: dict[str, Any]) -> Made:
    answer = ask_function(endpoint, "Create", given)
    if answer["Status"] != "SUCCESS":
        raise ValueError(answer["Reason"])
    return Made(answer["PhysicalResourceId"], {})


def _make_image_store(images: Any, given: dict[str, Any]) -> Made:
    require_schema(IMAGES, given)
    made = images.create_datastore(**{name[0].lower() + name[1:]: value for name, value in given.items()})
    return Made(made["datastoreId"], {"DatastoreId": made["datastoreId"]})


def _make_record_store(records: Any, given: dict[str, Any]) -> Made:
    require_schema(RECORDS, given)
    made = records.create_fhir_datastore(**given)
    return Made(made["DatastoreId"], {"DatastoreId": made["DatastoreId"]})


def _make_database(rds: Any, given: dict[str, Any]) -> Made:
    """Make the database with all that the template says of it; moto's CloudFormation leaves much of that out."""
    asked = {name: getattr(value, "name", value) for name, value in given.items()}
    asked["VpcSecurityGroupIds"] = asked.pop("VPCSecurityGroups")
    asked["MasterUserSecretKmsKeyId"] = asked.pop("MasterUserSecret")["KmsKeyId"]
    shapes = rds.meta.service_model.operation_model("CreateDBInstance").input_shape.members
    typed = {name: _TYPED.get(shapes[name].type_name, lambda same: same)(value) for name, value in asked.items()}
    made = rds.create_db_instance(DBInstanceIdentifier="ledger", **typed)["DBInstance"]
    endpoint = {f"Endpoint.{name}": str(made["Endpoint"][name]) for name in ("Address", "Port")}
    return Made("ledger", endpoint | {"MasterUserSecret.SecretArn": made["MasterUserSecret"]["SecretArn"]})
