"""``routes:`` of a pipeline file: the destinations of released contracts."""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING, Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from airlock.pipelines.rules import Rule, check_rule
from airlock.pipelines.settings import NAME, Prefix, Settings
from airlock.storage.s3uri import S3Uri

if TYPE_CHECKING:
    from collections.abc import Sequence

_AWS = Field("aws_default", description="Airflow connection with the right to send there")
_REGION = Field(None, description="AWS region; by default the connection's")
_OF_STUDIES = "airlock.study/1"
MOST_SETTLE_MINUTES = 24 * 60
_LOOPBACK_NAMES = frozenset({"localhost"})


def is_loopback(host: str) -> bool:
    """Return whether a host is this machine, the only one that is called without TLS."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() in _LOOPBACK_NAMES


def check_url(text: str) -> str:
    """Return the address of a webhook; errors do not repeat it, since it may contain secrets.

    Raises
    ------
    ValueError
        If it is not an https address (http on loopback), or has a user, a password, a query or a fragment.
    """
    try:
        url = urlsplit(text)
        port = url.port  # raises ValueError if it is not a port
    except ValueError:
        raise ValueError("the url is not a web address: write https://host/path") from None
    if url.scheme not in {"https", "http"} or not url.hostname or port == 0 or re.search(r"[\s\x00-\x1f]", text):
        raise ValueError("the url is not a web address: write https://host/path")
    if url.scheme == "http" and not is_loopback(url.hostname):
        raise ValueError("the url is http, which others on the network can read and change: use https")
    if url.username or url.password or url.query or url.fragment:
        raise ValueError("the url has a user, a query or a fragment: put secrets into the Airflow connection")
    return text


def _refuse_aws_source(source: str) -> str:
    if source.startswith("aws."):
        raise ValueError("AWS reserves sources that start with aws.: write another source, for example airlock")
    return source


class SqsDestination(Settings):
    """An SQS queue, standard or FIFO."""

    queue_url: str = Field(
        pattern=r"^https?://[^/\s]+/([0-9]{12}/)?[A-Za-z0-9_-]{1,80}(\.fifo)?$",
        description="the queue's URL; a queue whose name ends in .fifo gets each subject's messages in order",
    )
    aws_conn_id: str = _AWS
    region_name: str | None = _REGION

    @property
    def address(self) -> str:
        """The destination's key in the outbox."""
        return f"sqs:{self.queue_url}"

    def connections(self) -> set[str]:
        """Return the Airflow connections that the destination uses."""
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
        """The destination's key in the outbox."""
        return f"sns:{self.topic_arn}"

    def connections(self) -> set[str]:
        """Return the Airflow connections that the destination uses."""
        return {self.aws_conn_id}


class EventBridgeDestination(Settings):
    """An EventBridge event bus."""

    bus: str = Field("default", pattern=r"^[/.A-Za-z0-9_:-]{1,1600}$", description="name or ARN of the bus")
    source: Annotated[str, AfterValidator(_refuse_aws_source)] = Field(
        "airlock", pattern=r"^[A-Za-z0-9._/-]{1,256}$", description="source of the events; AWS reserves aws.*"
    )
    detail_type: str = Field("Contract Released", min_length=1, max_length=128, description="detail type of the events")
    aws_conn_id: str = _AWS
    region_name: str | None = _REGION

    @property
    def address(self) -> str:
        """The destination's key in the outbox."""
        return f"eventbridge:{self.bus}|{self.source}|{self.detail_type}"

    def connections(self) -> set[str]:
        """Return the Airflow connections that the destination uses."""
        return {self.aws_conn_id}


class WebhookDestination(Settings):
    """An HTTPS endpoint that receives POST requests, each signed with HMAC-SHA256."""

    conn_id: str = Field(
        min_length=1,
        description="Airflow connection (HTTP): its password is the signing secret; its host is the address "
        "if url is not given",
    )
    url: Annotated[str, AfterValidator(check_url)] | None = Field(
        None, description="https address without secrets; http on loopback only"
    )
    timeout_seconds: float = Field(
        10, gt=0, le=300, description="longest wait for a connection, and for each part of the answer"
    )

    @property
    def address(self) -> str:
        """The destination's key in the outbox."""
        return f"webhook:{self.url or self.conn_id}"

    def connections(self) -> set[str]:
        """Return the Airflow connections that the destination uses."""
        return {self.conn_id}


class StowDestination(Settings):
    """A DICOMweb server that receives the instances themselves (STOW-RS), for imaging pipelines."""

    conn_id: str = Field(
        min_length=1,
        description="Airflow connection (HTTP): login and password, or only a password as bearer token; its "
        "host is the address if url is not given",
    )
    url: Annotated[str, AfterValidator(check_url)] | None = Field(
        None, description="https address to which /studies is added; http on loopback only"
    )
    instances_per_request: int = Field(20, ge=1, le=1_000, description="most instances in one request")
    mib_per_request: int = Field(256, ge=1, le=4_096, description="largest request, unless a single instance is larger")
    requests_in_flight: int = Field(4, ge=1, le=32, description="requests at the same time; each holds 1 MiB in memory")
    timeout_seconds: float = Field(120, gt=0, le=3_600, description="longest time without a byte sent or received")
    look_up: bool = Field(
        True,
        description="if an answer does not say whether an instance was stored, ask the server (QIDO-RS) "
        "before sending it again",
    )

    @property
    def address(self) -> str:
        """The destination's key in the outbox."""
        return f"stow:{self.url or self.conn_id}"

    def connections(self) -> set[str]:
        """Return the Airflow connections that the destination uses."""
        return {self.conn_id}


class AssetDestination(Settings):
    """An Airflow asset that gets an event per contract, with the subject's key as partition."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$", description="name of the asset")

    @property
    def address(self) -> str:
        """The destination's key in the outbox."""
        return f"asset:{self.name}"

    def connections(self) -> set[str]:
        """Return the Airflow connections that the destination uses: none."""
        return set()


class S3Destination(Settings):
    """An S3 folder that receives the contracts; in a pipeline file its fields belong to the route itself."""

    uri: Prefix
    aws_conn_id: str = "aws_default"

    @property
    def address(self) -> str:
        """The destination's key in the outbox."""
        return self.uri

    def connections(self) -> set[str]:
        """Return the Airflow connections that the destination uses."""
        return {self.aws_conn_id}


class Delivery(Settings):
    """How messages that a destination does not accept are sent again."""

    backoff_seconds: float = Field(
        30,
        ge=0,
        le=86_400,
        description="pause before the second attempt; it doubles each time, with up to half of it random",
    )
    max_backoff_seconds: float = Field(900, ge=0, le=86_400, description="longest pause between two attempts")
    max_attempts: int = Field(20, ge=1, description="attempts after which a message is failed, until it is requeued")
    give_up_hours: float = Field(
        168, gt=0, description="time after which a message that was not accepted is failed, until it is requeued"
    )
    in_flight: int = Field(16, ge=1, le=64, description="messages in flight at the same time")


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
        None, description="rule for the contracts that the route takes, see docs/routing.md; without it all"
    )
    uri: Prefix | None = Field(
        None, description="s3://bucket/prefix/ that receives a JSON contract for each revision of a study or patient"
    )
    aws_conn_id: str = Field("aws_default", description="Airflow connection for this bucket")
    sqs: SqsDestination | None = Field(None, description="a queue that receives a message per contract")
    sns: SnsDestination | None = Field(None, description="a topic that receives a message per contract")
    eventbridge: EventBridgeDestination | None = Field(None, description="a bus that receives an event per contract")
    webhook: WebhookDestination | None = Field(None, description="an endpoint that receives a request per contract")
    stow: StowDestination | None = Field(None, description="a DICOMweb server that receives the instances themselves")
    asset: AssetDestination | None = Field(None, description="an Airflow asset that gets an event per contract")
    clinical: bool = Field(
        False,
        description="the route is of clinical care: contracts of studies and of their patient's records name each "
        "other (patient_key, study_keys); a research route must not have it",
    )
    delivery: Delivery = Field(Delivery(), description="how often and how long messages are sent again")
    settle_minutes: float | None = Field(
        None, ge=0, le=MOST_SETTLE_MINUTES, description="the pipeline's settle_minutes for this route alone"
    )

    @model_validator(mode="after")
    def _require_one_destination(self) -> Route:
        given = [name for name in ("uri", *KINDS) if getattr(self, name) is not None]
        if not given:
            raise ValueError(f"route {self.name!r} has no destination: add one of uri, {', '.join(KINDS)}")
        if len(given) > 1:
            raise ValueError(
                f"route {self.name!r} has {len(given)} destinations ({', '.join(given)}): write a route for each"
            )
        if self.match is None and "match" in self.model_fields_set:
            raise ValueError(
                f"route {self.name!r}: match has no rule, so the route would take everything: write a rule, or remove "
                f"match"
            )
        if self.uri is None and "aws_conn_id" in self.model_fields_set:
            raise ValueError(f"route {self.name!r}: aws_conn_id belongs to uri: write it into the section {given[0]}")
        return self

    @property
    def destination(self) -> AnyDestination:
        """The settings of the route's destination."""
        if self.uri is not None:
            return S3Destination(uri=self.uri, aws_conn_id=self.aws_conn_id)
        found: AnyDestination = next(given for name in KINDS if (given := getattr(self, name)) is not None)
        return found

    def address(self, datastore_id: str) -> str:
        """Return the destination's key in the outbox for the contracts of a data store."""
        if self.uri is not None:
            return str(S3Uri.parse(self.uri).join(datastore_id, ""))
        return f"{self.destination.address}|{datastore_id}"


Routing = Literal["all", "first"]


def check_routes(routes: Sequence[Route], routing: Routing, default_route: str | None, schema: str) -> None:
    """Refuse routes that contradict each other, and rules on fields that the contracts do not have.

    Parameters
    ----------
    routes, routing, default_route
        The pipeline's settings of these names.
    schema
        The schema of the pipeline's contracts.

    Raises
    ------
    ValueError
        With the route and the fix.
    """
    _check_names(routes)
    for route in routes:
        if route.stow is not None and schema != _OF_STUDIES:
            raise ValueError(
                f"route {route.name!r}: stow sends instances, but only imaging pipelines have them: remove stow"
            )
        try:
            if route.match is not None:
                check_rule(route.match, schema)
        except ValueError as error:
            raise ValueError(f"routes.{route.name}.match: {error}") from None
    takes_all = [route.name for route in routes if route.match is None and route.name != default_route]
    if default_route is not None:
        _check_default(routes, default_route, takes_all)
    if routing == "first" and takes_all and takes_all[0] != routes[-1].name:
        last = routes[-1].name
        raise ValueError(
            f"routing: first, but {takes_all[0]!r} takes everything, so {last!r} after it gets nothing: put "
            f"{takes_all[0]!r} last, give it a match, or make it the default_route"
        )


def _check_names(routes: Sequence[Route]) -> None:
    names = [route.name for route in routes]
    if len(set(names)) < len(names):
        raise ValueError(f"two routes have the same name: {', '.join(sorted(names))}: rename one")
    known: dict[str, str] = {}
    for route in routes:
        other = known.setdefault(route.destination.address, route.name)
        if other != route.name:
            raise ValueError(
                f"the routes {other!r} and {route.name!r} have the same destination: join their rules with any"
            )


def _check_default(routes: Sequence[Route], default_route: str, takes_all: list[str]) -> None:
    found: Any = next((route for route in routes if route.name == default_route), None)
    if found is None:
        names = ", ".join(route.name for route in routes) or "none"
        raise ValueError(f"default_route is {default_route!r}, but the routes are {names}: name one of them")
    if found.match is not None:
        raise ValueError(
            f"the default_route {default_route!r} takes what no other route takes and must have no match: remove it"
        )
    if takes_all:
        raise ValueError(
            f"{takes_all[0]!r} has no match and takes everything, so the default_route {default_route!r} gets nothing: "
            f"give {takes_all[0]!r} a match, or remove default_route"
        )
