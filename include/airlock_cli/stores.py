"""Data stores, reached with boto3's credentials and the addresses that the environment names."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from airlock_cli.errors import RequestError, UnreachableError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from boto3 import Session

    from airlock.clinical.fhir_store import FhirStore
    from airlock.storage.requests import RequestMeter


@contextmanager
def translate_errors(advice: str) -> Iterator[None]:
    """Turn the errors of a data store into errors of a command, with what to check."""
    from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415  # slow to import

    from airlock.clinical.fhir_store import FhirStoreError  # noqa: PLC0415
    from airlock.imaging.adopt import ImageSetSearchError  # noqa: PLC0415
    from airlock.storage.aws import error_code  # noqa: PLC0415

    try:
        yield
    except (FhirStoreError, ImageSetSearchError) as error:
        raise UnreachableError(str(error)) from None
    except (ClientError, BotoCoreError) as error:
        raise UnreachableError(f"The data store cannot be read ({error_code(error)}). {advice}") from None


def connect(session: Session, service: str, **options: Any) -> Any:
    """Return a boto3 client that waits out refusals; *options* are those of `boto3.Session.client`."""
    from botocore.config import Config  # noqa: PLC0415

    from airlock.storage.aws import PATIENCE  # noqa: PLC0415

    config = Config(retries=PATIENCE).merge(options.pop("config", Config()))
    return session.client(service, config=config, **options)


def connect_fhir(session: Session, datastore_id: str, meter: RequestMeter, **options: Any) -> FhirStore:
    """Return the FHIR interface of a HealthLake data store; *options* are those of `connect`.

    Raises
    ------
    RequestError
        If boto3 finds no credentials.
    """
    from airlock.clinical.fhir_store import FhirStore  # noqa: PLC0415

    client = connect(session, "healthlake", **options)
    url = client.describe_fhir_datastore(DatastoreId=datastore_id)["DatastoreProperties"]["DatastoreEndpoint"]
    credentials = session.get_credentials()
    if credentials is None:
        raise RequestError("There are no AWS credentials. Set them as for the AWS command line.")
    return FhirStore(f"{url.rstrip('/')}/", credentials, client.meta.region_name, meter)
