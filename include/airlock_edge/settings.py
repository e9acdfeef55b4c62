"""The settings of an edge: one YAML file, usually ``edge.yaml``."""

from __future__ import annotations

import re
from ipaddress import IPv4Network, IPv6Network, ip_interface, ip_network
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, model_validator

from airlock.pipelines.buckets import AccountId
from airlock.pipelines.parts import check_timezone
from airlock.pipelines.settings import Prefix, Settings
from airlock.pipelines.unique_fields import parse_yaml
from airlock_edge.commitment.settings import After, Commitment

_AE_TITLE = re.compile(r"[\x20-\x5b\x5d-\x7e]{1,16}").fullmatch  # PS3.5 6.2: no backslash, no control character
_SITE = re.compile(r"[a-z0-9][a-z0-9-]{0,31}").fullmatch
_PORT = re.compile(r"[0-9]{1,5}").fullmatch
_UID = re.compile(r"(0|[1-9][0-9]*)(\.(0|[1-9][0-9]*))+").fullmatch
MIB = 1024**2


def _check_ae_title(text: str) -> str:
    if not _AE_TITLE(text) or text != text.strip():
        raise ValueError(
            f"{text!r} is not an AE title: write 1 to 16 characters of ASCII without a backslash, and no outer spaces"
        )
    return text


def _check_uid(text: str) -> str:
    if not _UID(text) or len(text) > 64:
        raise ValueError(f"{text!r} is not a UID: write numbers with dots between them, at most 64 characters")
    return text


def _check_absolute(path: Path) -> Path:
    if not path.is_absolute():
        raise ValueError(f"{str(path)!r} is not an absolute path: begin it with '/'")
    return path


def _check_site(text: str) -> str:
    if not _SITE(text):
        raise ValueError(
            f"{text!r} is not a site's name: write 1 to 32 of a to z, 0 to 9 and '-', and begin with a letter or digit"
        )
    return text


def _check_receiver(text: str) -> str:
    host, _, port = text.rpartition(":")
    if not host or not _PORT(port) or int(port) > 65535:
        raise ValueError(f"{text!r} is not an address: write host:port, as 10.1.2.3:104")
    return text


def _parse_network(value: Any) -> Any:
    """Return an address or network; pydantic would report each of its two types as a fault of its own."""
    wrong = f"{value!r} is not an address or network: write 10.1.2.3 or 10.1.0.0/16"
    if isinstance(value, IPv4Network | IPv6Network):
        return value
    if not isinstance(value, str):
        raise ValueError(wrong)  # noqa: TRY004 - pydantic reports it as the field's fault
    try:
        network = ip_network(value, strict=False)
    except ValueError:
        raise ValueError(wrong) from None
    if "/" in value and network.network_address != ip_interface(value).ip:
        raise ValueError(f"{value!r} is an address within a network: write {network}, or the address alone")
    return network


AeTitle = Annotated[str, AfterValidator(_check_ae_title)]
Uid = Annotated[str, AfterValidator(_check_uid)]
AbsolutePath = Annotated[Path, AfterValidator(_check_absolute)]
Network = Annotated[IPv4Network | IPv6Network, BeforeValidator(_parse_network)]


class Tls(Settings):
    """Encrypted associations by the BCP 195 profile (PS3.15 annex B.9)."""

    certificate: AbsolutePath = Field(description="file in PEM with the edge's certificate and its chain")
    key: AbsolutePath = Field(description="file in PEM with its key, which only the edge's user may read")
    client_authorities: AbsolutePath = Field(
        description="file in PEM with the authorities whose client certificates are accepted; each peer must have one"
    )
    revocation_list: AbsolutePath | None = Field(
        None,
        description="file in PEM with a revocation list (CRL) of each of these authorities; it is read at the start, "
        "and null checks no revocation",
    )


class Listen(Settings):
    """Where the edge listens, and the limits of associations."""

    address: str = Field("0.0.0.0", description="address of the interface to listen on; :: for all of IPv4 and IPv6")  # noqa: S104 - a firewall
    port: int = Field(11112, ge=0, le=65535, description="the port; 0 for any free one, which the log names")
    ae_title: AeTitle = Field("AIRLOCK", description="the edge's AE title, which peers call")
    require_called: bool = Field(True, description="refuse associations that call another AE title")
    tls: Tls | None = Field(None, description="encrypted associations with client certificates; null for none")
    associations: int = Field(200, ge=1, le=5000, description="most associations at a time; further ones are refused")
    associations_of_peer: int = Field(50, ge=1, le=5000, description="most associations of one AE title at a time")
    pdu_kib: int = Field(128, ge=4, le=4096, description="largest PDU that peers may send, in KiB")
    object_gib: float = Field(16, gt=0, le=1024, description="largest object; a larger one is refused (A700)")
    mib_per_second: float | None = Field(
        None, gt=0, description="most that is received in a second from all peers together; null for no limit"
    )
    idle_seconds: float = Field(
        600, gt=0, le=86400, description="an association without a message for this time is aborted"
    )
    stalled_seconds: float = Field(
        60, gt=0, le=3600, description="an association that stops in the middle of a message for this time is aborted"
    )


class Peer(Settings):
    """A system that may send: its AE title and addresses."""

    ae_title: AeTitle = Field(description="the calling AE title")
    addresses: tuple[Network, ...] = Field(
        min_length=1, description="addresses or networks that the AE title may call from, as 10.1.2.3 or 10.1.0.0/16"
    )
    certificate_names: tuple[str, ...] = Field(
        (),
        description="with listen.tls: DNS names or common names, one of which its certificate must have; without them "
        "any certificate of the authorities may use the AE title",
    )
    commitment_after: After | None = Field(
        None, description="in place of commitment.after; durable for modalities, which delete what is committed"
    )
    commitment_wait_hours: float | None = Field(None, gt=0, le=24 * 14, description="in place of commitment.wait_hours")
    reports_to: Annotated[str, AfterValidator(_check_receiver)] | None = Field(
        None,
        description="host:port for commitment results, where the peer listens; null sends them on the peer's "
        "own association only",
    )
    reports_tls: bool = Field(
        False, description="with reports_to: send results over TLS, with the certificate of listen.tls"
    )


class Destination(Settings):
    """The bucket that receives the objects."""

    uri: Prefix = Field(description="s3://bucket/prefix/ that Airlock's pipeline has as source.uri")
    region_name: str = Field(description="the bucket's AWS region")
    endpoint_url: str | None = Field(None, description="another S3 endpoint, for example of a VPC; null for AWS's own")
    kms_key_id: str | None = Field(None, description="KMS key that encrypts the objects; null: as the bucket says")
    bucket_key: bool = Field(True, description="with kms_key_id: use an S3 Bucket Key, which saves requests to KMS")
    owner_account_id: AccountId | None = Field(None, description="the account that must own the bucket")
    timeout_seconds: float = Field(30, gt=0, le=600, description="how long a request waits for S3's next byte")

    @property
    def expected_bucket_owner(self) -> str | None:
        """The account that must own the bucket, by the name that the pipelines' settings have for it."""
        return self.owner_account_id


class Spool(Settings):
    """The local disk on which objects wait for S3."""

    redundant: bool = Field(
        False,
        description="declares that the state folder is on a mirrored, encrypted disk with a UPS, as store: spool needs",
    )
    refuse_percent: float = Field(90, gt=0, le=99, description="above this use of the disk, objects are refused (A700)")
    alarm_percent: float = Field(80, gt=0, le=99, description="above this use of the disk, the edge alarms")
    alarm_minutes: float = Field(60, gt=0, description="the edge alarms if the oldest object waits longer")
    processes: int = Field(1, ge=1, le=32, description="processes that upload")
    uploads: int = Field(8, ge=1, le=256, description="uploads at a time of each process")
    most_retry_seconds: float = Field(
        60, gt=0, le=3600, description="longest pause between two tries of an upload, which never ends"
    )

    @model_validator(mode="after")
    def _require_alarm_before_refusal(self) -> Spool:
        if self.alarm_percent > self.refuse_percent:
            raise ValueError("alarm_percent is above refuse_percent: the alarm would come after the refusal")
        return self


class Book(Settings):
    """How long the book has objects."""

    keep_days: float = Field(
        400,
        ge=31,
        le=36500,
        description="rows of objects that were received longer ago are deleted, if nothing needs them",
    )

    @property
    def reuse_days(self) -> float:
        """How long a content that comes again comes to its first key: afterwards its folder gets no object any more."""
        return self.keep_days - 30


class Manifests(Settings):
    """Delivery manifests: one per study and delivery."""

    quiet_seconds: float = Field(
        300, gt=0, le=86400, description="a delivery of a study is closed when none of its objects came for this time"
    )


class Edge(Settings):
    """The settings of one edge."""

    schema_: Literal["airlock.edge/1"] = Field(alias="schema", description="the version of this file's format")
    site: Annotated[str, AfterValidator(_check_site)] = Field(description="the site's name, the first part of each key")
    timezone: Annotated[str, AfterValidator(check_timezone)] = Field(
        "UTC", description="IANA name of the time zone whose day of reception is in the key"
    )
    state: AbsolutePath = Field(description="the edge's own folder: its book and the spool")
    listen: Listen = Field(default_factory=Listen)
    peers: tuple[Peer, ...] = Field(min_length=1, description="the systems that may send")
    destination: Destination
    store: Literal["s3", "spool"] = Field(
        "s3", description="answer success when the object is on S3, or when it is on the redundant local disk"
    )
    spool: Spool = Field(default_factory=Spool)
    book: Book = Field(default_factory=Book)
    private_classes: tuple[Uid, ...] = Field((), description="private SOP classes to accept, besides all standard ones")
    private_transfer_syntaxes: tuple[Uid, ...] = Field((), description="private transfer syntaxes to accept")
    manifests: Manifests = Field(default_factory=Manifests)
    commitment: Commitment = Field(default_factory=Commitment)
    metrics_port: int | None = Field(
        None, ge=0, le=65535, description="port on loopback for Prometheus; null for none, 0 for any free one"
    )

    @model_validator(mode="after")
    def _check(self) -> Edge:
        if self.store == "spool" and not self.spool.redundant:
            raise ValueError(
                "store: spool needs spool.redundant: true. One disk would hold the only copy of images that modalities "
                "delete after success: use store: s3, or declare a mirrored, encrypted disk behind a UPS"
            )
        if any(peer.reports_tls and peer.reports_to is None for peer in self.peers):
            raise ValueError("peers: reports_tls needs reports_to: set reports_to, or remove reports_tls")
        if self.listen.tls is None and any(peer.reports_tls for peer in self.peers):
            raise ValueError("peers: reports_tls needs the certificate of listen.tls")
        if self.listen.tls is None and any(peer.certificate_names for peer in self.peers):
            raise ValueError(
                "peers: certificate_names needs listen.tls. Without it no peer has a certificate, and the AE title is "
                "always refused: set listen.tls, or remove the names"
            )
        titles = [peer.ae_title for peer in self.peers]
        if len(set(titles)) < len(titles):
            raise ValueError("peers: an AE title occurs twice; give it one entry with all its addresses")
        return self

    def find_peer(self, ae_title: str) -> Peer | None:
        """Return the peer with this AE title, if it may send."""
        return next((peer for peer in self.peers if peer.ae_title == ae_title), None)


class EdgeSettingsError(ValueError):
    """The settings file is wrong; the operator reads the message, one line for each problem."""


def load_settings(path: Path) -> Edge:
    """Read a settings file.

    Raises
    ------
    EdgeSettingsError
        If the file cannot be read or is not YAML, or a field is missing, unknown or wrong; every wrong field is named.
    """
    try:
        content = parse_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise EdgeSettingsError(
            f"{path}: the file cannot be read ({error.strerror}): correct the path or the file's rights"
        ) from None
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise EdgeSettingsError(
            f"{path.name}: the file cannot be read as YAML: {' '.join(str(error).split())}"
        ) from None
    if not isinstance(content, dict):
        raise EdgeSettingsError(f"{path.name}: the file is not a mapping of fields: see docs/edge.md for an example")
    try:
        return Edge.model_validate(content)
    except ValidationError as error:
        problems = (f"{path.name}: {_describe_problem(item)}" for item in _drop_echoes(error.errors(include_url=False)))
        raise EdgeSettingsError("\n".join(problems)) from None


def _drop_echoes(items: list[Any]) -> list[Any]:
    """Return the problems without lists that are too short only since their wrong items do not count."""
    return [item for item in items if item["type"] != "too_short" or not item["input"]]


def _describe_problem(item: Any) -> str:
    where = ".".join(str(part) for part in item["loc"])
    if item["type"] == "extra_forbidden":
        return f"field {where!r} is unknown: remove it, or see docs/edge.md for the right name"
    if item["type"] == "missing":
        return f"field {where!r} is missing: add it"
    message: str = item["msg"].removeprefix("Value error, ")
    value = item["input"]
    shown = item["type"] != "value_error" and isinstance(value, str | int | float)  # our own messages have the value
    return f"field {where!r}: {message}" + (f" (it is {value!r})" if shown else "") if where else message
