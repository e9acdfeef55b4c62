"""Each data store: that it exists in the Region, is ready, and that its key can be used."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final

from botocore.exceptions import ClientError

from airlock.pipelines import CcdaPipeline
from airlock.stages.doctor.findings import Check, failed, passed, warned
from airlock.stages.doctor.identity import caller_id
from airlock.stages.doctor.uses import list_stores
from airlock.storage.aws import error_code

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airlock.stages.doctor.findings import Finding
    from airlock.stages.doctor.uses import StoreUse
    from airlock.stages.doctor.world import World

STATE: Final = "datastore.state"
_MISSING: Final = frozenset({"ResourceNotFoundException", "404"})
_CHANGING: Final = frozenset({"CREATING", "UPDATING"})
_OTHERS: Final = {"medical-imaging": "HealthLake", "healthlake": "HealthImaging"}
RIGHTS: Final = {"medical-imaging": "medical-imaging:GetDatastore", "healthlake": "healthlake:DescribeFHIRDatastore"}


def list_checks(world: World) -> Iterator[Check]:
    """Yield the checks of each data store, and of the profile of a ``ccda`` pipeline."""
    for store in list_stores(world.pipeline):
        needs = (caller_id(store.connection),)
        yield Check(STATE, store.section, partial(_check_state, world, store), needs, RIGHTS[store.service])
    if isinstance(world.pipeline, CcdaPipeline):
        look = partial(_check_profile, world, world.pipeline)
        needs = (caller_id(world.pipeline.healthlake.aws_conn_id),)
        right = "healthlake:GetDataTransformationProfile"
        yield Check("datastore.profile", "transformation", look, needs, right)


def state_id(store: StoreUse) -> str:
    """Return the id of the check that a data store is ready."""
    return f"{STATE} {store.section}"


def read_store(world: World, store: StoreUse) -> dict[str, Any] | None:
    """Return a data store's properties, with the names of HealthLake; None if it does not exist."""
    client = world.connect(store.connection).client(store.service, store.settings.region_name)
    try:
        if store.service == "healthlake":
            found: dict[str, Any] = client.describe_fhir_datastore(DatastoreId=store.settings.datastore_id)
            return dict(found["DatastoreProperties"])
        answer = client.get_datastore(datastoreId=store.settings.datastore_id)["datastoreProperties"]
    except ClientError as error:
        if error_code(error) not in _MISSING:
            raise
        return None
    return {
        "DatastoreStatus": answer["datastoreStatus"],
        "DatastoreArn": answer.get("datastoreArn", ""),
        "KmsKeyId": answer.get("kmsKeyArn"),
    }


def find_key(properties: dict[str, Any]) -> str | None:
    """Return the customer-managed key of a data store; None if AWS manages its key."""
    config = properties.get("SseConfiguration", {}).get("KmsEncryptionConfig", {})
    if config.get("CmkType") == "AWS_OWNED_KMS_KEY":
        return None
    key = config.get("KmsKeyId") or properties.get("KmsKeyId")
    return str(key) if key and key != "AWS_OWNED_KMS_KEY" else None


def _check_state(world: World, store: StoreUse) -> Finding:
    found = read_store(world, store)
    if found is None:
        return _judge_missing(world, store)
    status = found["DatastoreStatus"]
    if status in {"DELETED", "DELETING", "CREATE_FAILED"}:
        return failed(
            f"It is {status}.", f"Correct {store.section}.datastore_id or its region_name, or create the data store."
        )
    if status in _CHANGING:
        return warned(f"It is {status}.", "Wait until it is ACTIVE; runs wait in receive until then.")
    if status == "UPDATE_FAILED":
        return warned("It is UPDATE_FAILED; runs use it as it was.", "Repeat the update, or ask AWS's support.")
    if status != "ACTIVE":
        return failed(f"It is {status}.", "Find out in the AWS console what it waits for.")
    return passed("It is ACTIVE.")


def _judge_missing(world: World, store: StoreUse) -> Finding:
    region = store.settings.region_name or world.connect(store.connection).region
    return failed(
        f"This account has no data store {store.settings.datastore_id} of this service in {region}.",
        f"Correct {store.section}.datastore_id or its region_name, or create the data store. The ids of data stores of "
        f"{_OTHERS[store.service]} look the same.",
    )


def _check_profile(world: World, pipeline: CcdaPipeline) -> Finding:
    wanted, store = pipeline.transformation, pipeline.healthlake
    client = world.connect(store.aws_conn_id).client("healthlake", store.region_name)
    try:
        found = client.get_data_transformation_profile(
            ProfileId=wanted.profile_id, ProfileVersion=wanted.profile_version
        )
    except ClientError as error:
        if error_code(error) not in _MISSING:
            raise
        return failed(
            f"There is no version {wanted.profile_version} of the profile.",
            "Publish it, or correct transformation.profile_id and profile_version.",
        )
    return passed(f"Version {found['Version']} is there.")
