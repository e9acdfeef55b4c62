"""How a boto3 client connects, for a client with many requests in flight: credentials, authority, proxy, timeouts."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from botocore.credentials import RefreshableCredentials
from botocore.httpsession import URLLib3Session, create_urllib3_context, get_cert_path


@dataclass(frozen=True)
class Connection:
    """The way to one address.

    Parameters
    ----------
    trust
        The TLS context.
    connect_timeout, read_timeout
        Seconds for connecting, and for each wait for an answer.
    proxy
        The address of the proxy; None for a direct way.
    proxy_headers
        The headers that the proxy asks for.
    """

    trust: ssl.SSLContext
    connect_timeout: float
    read_timeout: float
    proxy: str | None
    proxy_headers: dict[str, str] | None


def find_credentials(client: Any) -> Any:
    """Return the credentials that a boto3 client signs with; its session may have others."""
    return client._request_signer._credentials  # noqa: SLF001  # boto3 tells nobody


def renew_credentials(credentials: Any, refused: Any) -> bool:
    """Renew credentials that S3 calls expired, unless it was done; return whether there are others now.

    Parameters
    ----------
    credentials
        From `find_credentials`.
    refused
        What they were, by their ``get_frozen_credentials``.
    """
    if not isinstance(credentials, RefreshableCredentials):
        return False
    if credentials.get_frozen_credentials() == refused:
        with credentials._refresh_lock:  # noqa: SLF001  # botocore renews by its own clock only
            credentials._protected_refresh(is_mandatory=True)  # noqa: SLF001
    return bool(credentials.get_frozen_credentials() != refused)


def find_connection(client: Any, url: str) -> Connection | None:
    """Return how a boto3 client connects to an address; None if another client cannot connect in the same way."""
    http = client._endpoint.http_session  # noqa: SLF001  # boto3 tells nobody which authority it trusts
    config = client.meta.config
    if type(http) is not URLLib3Session or config.proxies_config:
        return None
    proxy = http._proxy_config.proxy_url_for(url)  # noqa: SLF001
    return Connection(
        trust=_trust(http._verify, config.client_cert),  # noqa: SLF001
        connect_timeout=config.connect_timeout,
        read_timeout=config.read_timeout,
        proxy=proxy,
        proxy_headers=http._proxy_config.proxy_headers_for(proxy) if proxy else None,  # noqa: SLF001
    )


def find_proxy(client: Any, url: str) -> str | None:
    """Return the proxy by which a boto3 client reaches an address, of the connection or of the environment.

    Its address may hold a name and a password: do not log it.
    """
    config = getattr(client._endpoint.http_session, "_proxy_config", None)  # noqa: SLF001  # boto3 tells nobody
    proxy = config.proxy_url_for(url) if config else None
    return str(proxy) if proxy else None


def find_proxy_authorities(client: Any) -> Path | None:
    """Return the file of the authorities that a boto3 client trusts for its proxy alone; None if there is none."""
    bundle = (client.meta.config.proxies_config or {}).get("proxy_ca_bundle")
    return Path(bundle) if bundle else None


def find_boto3_setting(client: Any) -> str | None:
    """Return the first setting of the Airflow connection with which only boto3 can connect; None if there is none."""
    config = client.meta.config
    settings = {name for name, value in (config.proxies_config or {}).items() if value}
    if config.client_cert:
        settings.add("client_cert")
    return min(settings - {"proxy_ca_bundle"}, default=None)


def find_authorities(client: Any) -> Path | None:
    """Return the certificate authorities that a boto3 client trusts.

    Returns
    -------
    Path or None
        The file or folder that ``verify`` of the Airflow connection, ``AWS_CA_BUNDLE``, ``ca_bundle`` of the profile or
        ``REQUESTS_CA_BUNDLE`` names, or else the public authorities that boto3 brings; None if the connection trusts
        any certificate.
    """
    verify = getattr(client._endpoint.http_session, "_verify", True)  # noqa: SLF001  # as above
    return Path(get_cert_path(verify)) if verify else None


def read_authorities(path: Path) -> bytes:
    """Return the certificates in a file, or in the files of a folder, as PEM.

    Raises
    ------
    OSError
        If one cannot be read.
    """
    files = sorted(file for file in path.iterdir() if file.is_file()) if path.is_dir() else [path]
    return b"\n".join(file.read_bytes() for file in files)


def _trust(verify: bool | str, certificate: str | tuple[str, str] | None) -> ssl.SSLContext:
    """Return a context as botocore makes it, which checks the host's name as urllib3 does by itself."""
    context: ssl.SSLContext = create_urllib3_context()
    if verify:
        path = Path(get_cert_path(verify))
        context.load_verify_locations(**{"capath" if path.is_dir() else "cafile": str(path)})
        context.check_hostname = True
    else:
        context.verify_mode = ssl.CERT_NONE
    if certificate:
        context.load_cert_chain(*([certificate] if isinstance(certificate, str) else certificate))
    return context
