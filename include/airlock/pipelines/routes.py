"""Routes: which released contracts go where, and how patiently."""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING, Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from airlock.pipelines.rules import Rule, check
from airlock.pipelines.settings import NAME, Prefix, Settings
from airlock.storage.s3uri import S3Uri

if TYPE_CHECKING:
    from collections.abc import Sequence

_AWS = Field("aws_default", description="Airflow connection with the right to send there")
_REGION = Field(None, description="AWS region; without it that of the connection")
_OF_STUDIES = "airlock.study/1"
_LOOPBACK_NAMES = frozenset({"localhost"})


def is_loopback(host: str) -> bool:
    """Say whether a host is this machine, which alone is spoken to without TLS."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() in _LOOPBACK_NAMES


def check_url(text: str) -> str:
    """Return the address of a webhook, or refuse it; secrets in it are not shown.

    Raises
    ------
    ValueError
        If it is no https address (http on loopback), or holds a user, a password, a query or a fragment.
    """
    try:
        url = urlsplit(text)
        port = url.port  # raises where it is none
    except ValueError:
        raise ValueError("the url is no web address: write https://host/path") from None
    if url.scheme not in {"https", "http"} or not url.hostname or port == 0 or re.search(r"[\s\x00-\x1f]", text):
        raise ValueError("the url is no web address: write https://host/path")
    if url.scheme == "http" and not is_loopback(url.hostname):
        raise ValueError("the url is http, which anyone on the way can read and change: use https")
    if url.username or url.password or url.query or url.fragment:
        raise ValueError("the url holds a user, a query or a fragment: put secrets into the Airflow connection")
    return text


def _not_of_aws(source: str) -> str:
    if source.startswith("aws."):
        raise ValueError("a source that begins with aws. is AWS's own: write another one, as airlock")
    return source


class SqsDestination(Settings):
    """An SQS queue, standard or FIFO."""

    queue_url: str = Field(
        pattern=r"^https?://[^/\s]+/([0-9]{12}/)?[A-Za-z0-9_-]{1,80}(\.fifo)?$",
        description="as SQS shows it; a queue whose name ends in .fifo gets each subject's messages in order",
    )
    aws_conn_id: str = _AWS
    region_name: str | None = _REGION

    @property
    def address(self) -> str:
        """What the outbox knows the destination by."""
        return f"sqs:{self.queue_url}"

    def connections(self) -> set[str]:
        """Return the Airflow connections that are named."""
        return {self.aws_conn_id}


class SnsDestination(Settings):
    """An SNS topic, standard or FIFO."""

    topic_arn: str = Field(
        pattern=r"^arn:aws(-[^:]+)?:sns:[a-z0-9-]+:[0-9]{12}:[A-Za-z0-9_-]{1,256}(\.fifo)?$",
        description="a topic whose name ends in .fifo gets each subject's messages in order",
    )
    aws_conn_id: str = _AWS
    region_name: str | None = _REGION

    @property
    def address(self) -> str:
        """What the outbox knows the destination by."""
        return f"sns:{self.topic_arn}"

    def connections(self) -> set[str]:
        """Return the Airflow connections that are named."""
        return {self.aws_conn_id}


class EventBridgeDestination(Settings):
    """An EventBridge event bus."""

    bus: str = Field("default", pattern=r"^[/.A-Za-z0-9_:-]{1,1600}$", description="its name or ARN")
    source: Annotated[str, AfterValidator(_not_of_aws)] = Field(
        "airlock", pattern=r"^[A-Za-z0-9._/-]{1,256}$", description="of the events; AWS keeps aws.* for itself"
    )
    detail_type: str = Field("Contract Released", min_length=1, max_length=128, description="of the events")
    aws_conn_id: str = _AWS
    region_name: str | None = _REGION

    @property
    def address(self) -> str:
        """What the outbox knows the destination by."""
        return f"eventbridge:{self.bus}|{self.source}|{self.detail_type}"

    def connections(self) -> set[str]:
        """Return the Airflow connections that are named."""
        return {self.aws_conn_id}


class WebhookDestination(Settings):
    """An HTTPS endpoint that is posted to, each request signed with HMAC-SHA256."""

    conn_id: str = Field(
        min_length=1,
        description="Airflow connection (HTTP): its password is the secret that signs, its host the address where url "
        "is not given",
    )
    url: Annotated[str, AfterValidator(check_url)] | None = Field(
        None, description="https address, without anything secret; http on loopback only"
    )
    timeout_seconds: float = Field(10, gt=0, le=300, description="to connect, and between two signs of life")

    @property
    def address(self) -> str:
        """What the outbox knows the destination by."""
        return f"webhook:{self.url or self.conn_id}"

    def connections(self) -> set[str]:
        """Return the Airflow connections that are named."""
        return {self.conn_id}


class StowDestination(Settings):
    """A DICOMweb server that is sent the instances themselves (STOW-RS); of imaging pipelines."""

    conn_id: str = Field(
        min_length=1,
        description="Airflow connection (HTTP): login and password, or a password alone as bearer token; its host is "
        "the address where url is not given",
    )
    url: Annotated[str, AfterValidator(check_url)] | None = Field(
        None, description="https address to which /studies is added; http on loopback only"
    )
    instances_per_request: int = Field(20, ge=1, le=1_000, description="at most")
    mib_per_request: int = Field(256, ge=1, le=4_096, description="at most, unless a single instance is larger")
    requests_in_flight: int = Field(4, ge=1, le=32, description="at most; a piece of each, 1 MiB, is in memory")
    timeout_seconds: float = Field(120, gt=0, le=3_600, description="without a byte sent or received")
    look_up: bool = Field(
        True,
        description="ask the server (QIDO-RS) for an instance that its answer leaves open, before sending it again",
    )

    @property
    def address(self) -> str:
        """What the outbox knows the destination by."""
        return f"stow:{self.url or self.conn_id}"

    def connections(self) -> set[str]:
        """Return the Airflow connections that are named."""
        return {self.conn_id}


class AssetDestination(Settings):
    """An Airflow asset that gets an event per contract, with the subject's key as partition."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$", description="of the asset")

    @property
    def address(self) -> str:
        """What the outbox knows the destination by."""
        return f"asset:{self.name}"

    def connections(self) -> set[str]:
        """Return the Airflow connections that are named: none."""
        return set()


class S3Destination(Settings):
    """An S3 folder that gets the contracts themselves; in a pipeline file its fields stand in the route."""

    uri: Prefix
    aws_conn_id: str = "aws_default"

    @property
    def address(self) -> str:
        """What the outbox knows the destination by."""
        return self.uri

    def connections(self) -> set[str]:
        """Return the Airflow connections that are named."""
        return {self.aws_conn_id}


class Delivery(Settings):
    """How patiently messages that a destination does not take are sent again."""

    backoff_seconds: float = Field(
        30,
        ge=0,
        le=86_400,
        description="before a second attempt; it doubles, and up to half of it is left to chance",
    )
    max_backoff_seconds: float = Field(900, ge=0, le=86_400, description="longest pause between two attempts")
    max_attempts: int = Field(20, ge=1, description="at a message that then counts as failed, until it is requeued")
    give_up_hours: float = Field(
        168, gt=0, description="after which a message that was not taken counts as failed, until it is requeued"
    )
    in_flight: int = Field(16, ge=1, le=64, description="messages on their way at a time")


AnyDestination = (
    S3Destination
    | SqsDestination
    | SnsDestination
    | EventBridgeDestination
    | WebhookDestination
    | StowDestination
    | AssetDestination
)
KINDS = ("sqs", "sns", "eventbridge", "webhook", "stow", "asset")  # fields of a route, each a destination


class Route(Settings):
    """One destination of released contracts: an S3 folder (`uri`), or one of the sections below."""

    name: str = Field(pattern=rf"^{NAME}$", description="shown in logs")
    match: Rule | None = Field(
        None, description="which contracts it takes, see docs/routing.md; without it all of them"
    )
    uri: Prefix | None = Field(
        None, description="s3://bucket/prefix/ that receives a JSON contract per study or patient, and revision"
    )
    aws_conn_id: str = Field("aws_default", description="Airflow connection for this bucket")
    sqs: SqsDestination | None = Field(None, description="a queue that receives a message per contract")
    sns: SnsDestination | None = Field(None, description="a topic that receives a message per contract")
    eventbridge: EventBridgeDestination | None = Field(None, description="a bus that receives an event per contract")
    webhook: WebhookDestination | None = Field(None, description="an endpoint that receives a request per contract")
    stow: StowDestination | None = Field(None, description="a DICOMweb server that is sent the instances themselves")
    asset: AssetDestination | None = Field(None, description="an Airflow asset that gets an event per contract")
    delivery: Delivery = Field(Delivery(), description="how patiently messages are sent again")

    @model_validator(mode="after")
    def _has_one_destination(self) -> Route:
        given = [name for name in ("uri", *KINDS) if getattr(self, name) is not None]
        if not given:
            raise ValueError(f"route {self.name!r} has no destination: add one of uri, {', '.join(KINDS)}")
        if len(given) > 1:
            raise ValueError(
                f"route {self.name!r} has {len(given)} destinations ({', '.join(given)}): make a route of each"
            )
        if self.match is None and "match" in self.model_fields_set:
            raise ValueError(
                f"route {self.name!r}: match stands there without a rule, and the route would take everything: write "
                f"one, or remove match"
            )
        if self.uri is None and "aws_conn_id" in self.model_fields_set:
            raise ValueError(f"route {self.name!r}: aws_conn_id goes with uri; write it into the section {given[0]}")
        return self

    @property
    def destination(self) -> AnyDestination:
        """The settings of the one destination."""
        if self.uri is not None:
            return S3Destination(uri=self.uri, aws_conn_id=self.aws_conn_id)
        found: AnyDestination = next(given for name in KINDS if (given := getattr(self, name)) is not None)
        return found

    def address(self, datastore_id: str) -> str:
        """Return what the outbox knows the destination by, for the contracts of a data store."""
        if self.uri is not None:
            return str(S3Uri.parse(self.uri).join(datastore_id, ""))
        return f"{self.destination.address}|{datastore_id}"


Routing = Literal["all", "first"]


def check_routes(routes: Sequence[Route], routing: Routing, default_route: str | None, schema: str) -> None:
    """Refuse routes that contradict each other, or whose rules ask for what contracts do not have.

    Parameters
    ----------
    routes, routing, default_route
        Of a pipeline.
    schema
        Of its contracts.

    Raises
    ------
    ValueError
        Naming the route and the fix.
    """
    _check_names(routes)
    for route in routes:
        if route.stow is not None and schema != _OF_STUDIES:
            raise ValueError(
                f"route {route.name!r}: stow sends instances, which only imaging pipelines have: remove it"
            )
        try:
            if route.match is not None:
                check(route.match, schema)
        except ValueError as error:
            raise ValueError(f"routes.{route.name}.match: {error}") from None
    takes_all = [route.name for route in routes if route.match is None and route.name != default_route]
    if default_route is not None:
        _check_default(routes, default_route, takes_all)
    if routing == "first" and takes_all and takes_all[0] != routes[-1].name:
        after = [route.name for route in routes][-1]
        raise ValueError(
            f"routing: first, but {takes_all[0]!r} takes everything and {after!r} comes after it: put it last, give it "
            f"a match, or make it the default_route"
        )


def _check_names(routes: Sequence[Route]) -> None:
    names = [route.name for route in routes]
    if len(set(names)) < len(names):
        raise ValueError(f"two routes have one name: {', '.join(sorted(names))}")
    known: dict[str, str] = {}
    for route in routes:
        other = known.setdefault(route.destination.address, route.name)
        if other != route.name:
            raise ValueError(f"the routes {other!r} and {route.name!r} go to one place: join their rules with any")


def _check_default(routes: Sequence[Route], default_route: str, takes_all: list[str]) -> None:
    found: Any = next((route for route in routes if route.name == default_route), None)
    if found is None:
        names = ", ".join(route.name for route in routes) or "none"
        raise ValueError(f"default_route is {default_route!r}, but the routes are {names}: name one of them")
    if found.match is not None:
        raise ValueError(f"the default_route {default_route!r} has a match: it gets what no other takes, so remove it")
    if takes_all:
        raise ValueError(
            f"{takes_all[0]!r} has no match and takes everything, so nothing is left for the default_route "
            f"{default_route!r}: give {takes_all[0]!r} a match, or remove default_route"
        )
