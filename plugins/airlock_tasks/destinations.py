"""Make the destinations of a pipeline's routes from Airflow connections."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseHook
from airflow.sdk.exceptions import AirflowFailException, AirflowNotFoundException

from airlock.pipelines import (
    AssetDestination,
    EventBridgeDestination,
    S3Destination,
    SnsDestination,
    SqsDestination,
    StowDestination,
    WebhookDestination,
)
from airlock_tasks.run import client_of, connect_s3
from healthaws.hooks.aws import AwsHook

if TYPE_CHECKING:
    from airflow.sdk import Connection

    from airlock.destinations import Destination
    from airlock.destinations.sqs import SqsQueue
    from airlock.pipelines import Edge, Pipeline, Route
    from airlock.run import Run

DEFAULT_AWS = "aws_default"  # may be missing: the amazon provider then uses boto3's own credentials


def connect(run: Run[Pipeline]) -> dict[str, Destination]:
    """Return the destination of each route, by the route's name, without sending anything.

    Routes to assets have none: the task ``announce`` emits their events.

    Raises
    ------
    AirflowFailException
        If a route's connection is missing or incomplete; the text names the route, the connection and the fix.
    """
    for route in run.pipeline.routes:
        for conn_id in sorted(route.destination.connections() - {DEFAULT_AWS}):
            _get_connection(route, conn_id)
    return {route.name: _make_destination(run, route) for route in run.pipeline.routes if route.asset is None}


def _get_connection(route: Route, conn_id: str) -> Connection:
    try:
        return BaseHook.get_connection(conn_id)
    except AirflowNotFoundException:
        raise AirflowFailException(
            f"Route {route.name!r}: there is no Airflow connection {conn_id!r}. Define it under Admin > Connections or "
            f"as AIRFLOW_CONN_{conn_id.upper()}, or correct the route in the pipeline file, and clear this task."
        ) from None


def _make_destination(run: Run[Pipeline], route: Route) -> Destination:
    settings = route.destination
    if isinstance(settings, S3Destination):
        from airlock.destinations.s3 import S3Folder
        from airlock.storage.s3uri import S3Uri

        folder = S3Uri.parse(route.address(run.pipeline.datastore_id))
        return S3Folder(run.s3, connect_s3(settings.aws_conn_id, run.pipeline.bucket_settings()), folder)
    if isinstance(settings, WebhookDestination):
        return _make_webhook(route, settings)
    if isinstance(settings, StowDestination):
        return _make_stow(run, route, settings)
    if isinstance(settings, AssetDestination):
        raise TypeError("Routes to assets have no destination; see AnnounceOperator.")
    return _make_aws_destination(settings)


def _make_aws_destination(settings: SqsDestination | SnsDestination | EventBridgeDestination) -> Destination:
    from airlock.destinations.eventbridge import EventBus
    from airlock.destinations.sns import SnsTopic
    from airlock.destinations.sqs import SqsQueue

    if isinstance(settings, SqsDestination):
        return SqsQueue(_make_client(settings, "sqs"), settings.queue_url)
    if isinstance(settings, SnsDestination):
        return SnsTopic(_make_client(settings, "sns"), settings.topic_arn)
    return EventBus(_make_client(settings, "events"), settings.bus, settings.source, settings.detail_type)


def connect_edge(settings: Edge) -> SqsQueue:
    """Return the queue of a pipeline's edge."""
    from airlock.destinations.sqs import SqsQueue

    return SqsQueue(_make_client(settings, "sqs"), settings.queue_url)


def _make_client(settings: SqsDestination | SnsDestination | EventBridgeDestination | Edge, service: str) -> Any:
    return client_of(AwsHook(aws_conn_id=settings.aws_conn_id, region_name=settings.region_name, client_type=service))


def _make_webhook(route: Route, settings: WebhookDestination) -> Destination:
    from airlock.destinations.webhook import Webhook, client_for

    connection = _get_connection(route, settings.conn_id)
    if not connection.password:
        raise AirflowFailException(
            f"Route {route.name!r}: the Airflow connection {settings.conn_id!r} has no password, which is the secret "
            f"that signs requests. Set it to the secret that the endpoint knows, and clear this task."
        )
    return Webhook(
        client_for(settings.timeout_seconds), _read_endpoint(route, settings, connection), connection.password
    )


def _make_stow(run: Run[Pipeline], route: Route, settings: StowDestination) -> Destination:
    from airlock.destinations.dicomweb import DicomWeb, credentials
    from airlock.destinations.stow import Stow

    connection = _get_connection(route, settings.conn_id)
    web = DicomWeb(
        _read_endpoint(route, settings, connection),
        credentials(connection.login, connection.password),
        verify=_read_verify(route, settings, connection),
        timeout_seconds=settings.timeout_seconds,
    )
    return Stow(web, run.s3, run.ledger, route.address(run.pipeline.datastore_id), settings)


def _read_verify(route: Route, settings: StowDestination, connection: Connection) -> ssl.SSLContext | bool:
    """Return how to check the server's certificate: the connection's extra ``verify``, a boolean or a CA bundle."""
    verify = connection.extra_dejson.get("verify", True)
    if isinstance(verify, bool):
        return verify
    try:
        return ssl.create_default_context(cafile=str(verify))
    except OSError:
        raise AirflowFailException(
            f"Route {route.name!r}: verify in the extra of the Airflow connection {settings.conn_id!r} is not the path "
            f"of a readable CA bundle. Correct the path, and clear this task."
        ) from None


def _read_endpoint(route: Route, settings: WebhookDestination | StowDestination, connection: Connection) -> str:
    """Return the endpoint: of the setting, else of the connection, read as Airflow's HTTP hook reads it."""
    from airlock.pipelines.routes import check_url

    if settings.url is not None:
        return settings.url
    host = connection.host or ""
    port = f":{connection.port}" if connection.port else ""
    url = host if "://" in host else f"{connection.schema or 'https'}://{host}{port}"
    try:
        return check_url(url)
    except ValueError as error:
        raise AirflowFailException(
            f"Route {route.name!r}: the host of the Airflow connection {settings.conn_id!r} is not an endpoint: {error}"
        ) from None
