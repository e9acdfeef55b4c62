"""AWS as the workers reach it: with the credentials, the Region and the endpoints of an Airflow connection.

What the connection does not say comes from boto3's own chain, as in Airflow's amazon provider.
"""

from __future__ import annotations

import ipaddress
import threading
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import boto3
from botocore import UNSIGNED
from botocore.config import Config

from airlock.stages.doctor.attempts import CheckUnableError
from airlock.stages.doctor.world import Caller

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airlock_cli.airflow_connections import GivenConnection

_BOUNDED: Final = Config(connect_timeout=3, read_timeout=6, retries={"total_max_attempts": 2, "mode": "standard"})
_SESSION: Final = "airlock-doctor"


class ConnectionAccess:
    """AWS by one connection.

    Parameters
    ----------
    given
        The connection; None for boto3's own chain.
    """

    def __init__(self, given: GivenConnection | None) -> None:
        self._extra: Mapping[str, Any] = given.extra if given is not None else {}
        self._given = given
        self._session: boto3.Session | None = None
        self._clients: dict[tuple[str, str | None], Any] = {}
        self._caller: Caller | None = None
        self._lock = threading.Lock()  # boto3 makes no two clients at the same time

    @property
    def region(self) -> str | None:
        """The connection's Region; None if neither it nor the environment names one."""
        with self._lock:
            found = self._open_session().region_name
        return str(found) if found else None

    def client(self, service: str, region: str | None = None) -> Any:
        """Return boto3's client of a service; it waits a few seconds for an answer at most."""
        with self._lock:
            key = service, region
            if key not in self._clients:
                self._clients[key] = self._open_session().client(
                    service,
                    region_name=region,
                    endpoint_url=self._endpoint(service),
                    verify=self._extra.get("verify"),
                    config=self._config().merge(_BOUNDED),
                )
            return self._clients[key]

    def caller(self) -> Caller:
        """Return who calls, and ask STS only once."""
        if self._caller is None:
            found = self.client("sts").get_caller_identity()
            self._caller = Caller(found["Arn"], found["Account"])
        return self._caller

    def is_local(self, service: str) -> bool:
        """Return whether a service is a program of this machine or its containers: AWS is asked over TLS."""
        url = urlsplit(self.client(service).meta.endpoint_url)
        return url.scheme == "http" or _is_loopback(url.hostname or "")

    def _config(self) -> Config:
        options = dict(self._extra.get("config_kwargs") or {})
        if options.get("signature_version") == "unsigned":
            options["signature_version"] = UNSIGNED
        return Config(**options)

    def _endpoint(self, service: str) -> str | None:
        own = (self._extra.get("service_config") or {}).get(service) or {}
        found = own.get("endpoint_url", self._extra.get("endpoint_url"))
        return str(found) if found else None

    def _open_session(self) -> boto3.Session:
        if self._session is None:
            base = boto3.Session(**self._credentials())
            role = self._extra.get("role_arn")
            self._session = base if not role else self._assume(base, str(role))
        return self._session

    def _credentials(self) -> dict[str, Any]:
        if self._given is None:
            return {}
        extra = self._extra
        key_id, secret = self._given.aws_keys()
        found = {
            "aws_access_key_id": key_id,
            "aws_secret_access_key": secret,
            "aws_session_token": extra.get("aws_session_token"),
            "region_name": extra.get("region_name"),
            "profile_name": extra.get("profile_name"),
        }
        return {name: value for name, value in found.items() if value}

    def _assume(self, base: boto3.Session, role: str) -> boto3.Session:
        method = self._extra.get("assume_role_method") or "assume_role"
        if method != "assume_role":
            raise CheckUnableError(
                f"the connection gets its role by {method}, which the doctor does not know.\n"
                "Call airlock doctor with credentials of that role in the environment."
            )
        own = (self._extra.get("service_config") or {}).get("sts") or {}
        sts = base.client("sts", endpoint_url=own.get("endpoint_url"), config=self._config().merge(_BOUNDED))
        options = dict(self._extra.get("assume_role_kwargs") or {})
        found = sts.assume_role(RoleArn=role, **({"RoleSessionName": _SESSION} | options))["Credentials"]
        return boto3.Session(
            found["AccessKeyId"], found["SecretAccessKey"], found["SessionToken"], region_name=base.region_name
        )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
