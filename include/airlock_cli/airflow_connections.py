"""Airflow connections that the environment defines, ``AIRFLOW_CONN_<ID>``: as JSON or as an address."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from airlock_cli.errors import RequestError

if TYPE_CHECKING:
    from collections.abc import Mapping

_HALF_A_KEY = "It has half of an access key, so Airflow uses none: login is the key's id, password its secret."
_POSTGRES = frozenset({"postgres", "postgresql"})


class ConnectionTextError(RequestError):
    """A variable does not define the connection that it names."""


@dataclass(frozen=True)
class GivenConnection:
    """A connection, with its secrets."""

    kind: str
    login: str = ""
    password: str = field(default="", repr=False)
    host: str = ""
    port: int | None = None
    schema: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def aws_keys(self) -> tuple[str | None, str | None]:
        """Return the id and the secret of the access key, as Airflow's amazon provider finds them: both or neither."""
        own = self.extra.get("aws_access_key_id"), self.extra.get("aws_secret_access_key")
        for key_id, secret in ((self.login, self.password), own):
            if key_id and secret:
                return str(key_id), str(secret)
        return None, None

    def find_problem(self) -> tuple[str, str]:
        """Return a sentence on why Airflow could not use the connection as it is meant, and the cure; or two empty."""
        if self.kind != "aws":
            return "", ""
        own = (self.extra.get("aws_access_key_id"), self.extra.get("aws_secret_access_key"))
        if any((self.login, self.password, *own)) and self.aws_keys() == (None, None):
            return _HALF_A_KEY, "Write both halves, or neither if the machine has a role."
        services = (self.extra.get("service_config") or {}).values()
        addresses = (each.get("endpoint_url") for each in (self.extra, *services))
        if any(address and not str(address).startswith(("https://", "http://")) for address in addresses):
            return (
                "An endpoint_url of it has no scheme.",
                "Write it as https://host:port, or http:// where there is no TLS.",
            )
        return "", ""

    def database_url(self) -> str:
        """Return the address of the database of a connection of type postgres or sqlite."""
        if self.kind not in _POSTGRES:
            return f"sqlite:///{self.host or self.schema}"
        login = quote(self.login, safe="") + (f":{quote(self.password, safe='')}" if self.password else "")
        place = f"{self.host}:{self.port}" if self.port else self.host
        query = urlencode({name: value for name, value in self.extra.items() if isinstance(value, str | int)})
        return f"postgresql://{login}@{place}/{self.schema}" + (f"?{query}" if query else "")


def variable_of(connection: str) -> str:
    """Return the variable that defines a connection."""
    return f"AIRFLOW_CONN_{connection.upper()}"


def read_connection(connection: str, environment: Mapping[str, str]) -> GivenConnection | None:
    """Return a connection that the environment defines; None if it does not.

    Raises
    ------
    ConnectionTextError
        If it is neither JSON nor an address; the text does not repeat it.
    """
    text = environment.get(variable_of(connection), "")
    if not text:
        return None
    try:
        return _read_json(json.loads(text)) if text.lstrip().startswith("{") else _read_address(text)
    except (ValueError, TypeError, AttributeError):
        raise ConnectionTextError(
            f"{variable_of(connection)} is neither a JSON object nor an address. Write it as Airflow's documentation "
            "of connections says."
        ) from None


def _read_json(given: dict[str, Any]) -> GivenConnection:
    extra = given.get("extra") or {}
    return GivenConnection(
        str(given.get("conn_type") or ""),
        str(given.get("login") or ""),
        str(given.get("password") or ""),
        str(given.get("host") or ""),
        int(given["port"]) if given.get("port") else None,
        str(given.get("schema") or ""),
        dict(json.loads(extra) if isinstance(extra, str) else extra),
    )


def _read_address(text: str) -> GivenConnection:
    url = urlsplit(text)
    if not url.scheme:
        raise ValueError("no connection type")
    extra: dict[str, Any] = dict(parse_qsl(url.query))
    nested = extra.pop("__extra__", None)
    return GivenConnection(
        url.scheme.replace("-", "_"),
        unquote(url.username or ""),
        unquote(url.password or ""),
        unquote(url.hostname or ""),
        url.port,
        unquote(url.path.removeprefix("/")),
        extra | (json.loads(nested) if nested else {}),
    )
