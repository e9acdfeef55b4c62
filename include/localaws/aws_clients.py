"""boto3 clients for the servers beside the emulator (S3, EventBridge)."""

from __future__ import annotations

from typing import Any

import boto3
from botocore.config import Config


def local_client(service: str, region: str, endpoint: str | None, *, connections: int = 10, attempts: int = 3) -> Any:
    """Return a boto3 client.

    Parameters
    ----------
    service : str
        botocore's name of the service.
    region : str
    endpoint : str, optional
        Without it, AWS itself is called.
    connections : int
        Size of the connection pool; as many threads may share the client.
    attempts : int
        How often a request is sent before it counts as failed.

    Notes
    -----
    Credentials come from boto3's usual chain. For a local endpoint that chain may be empty: such servers accept any
    key, and get a placeholder.
    """
    session = boto3.session.Session(region_name=region)
    if endpoint and session.get_credentials() is None:
        session = boto3.session.Session("localaws", "localaws", region_name=region)
    config = Config(
        max_pool_connections=connections,
        connect_timeout=5,
        read_timeout=60,
        retries={"total_max_attempts": attempts, "mode": "standard"},
        s3={"addressing_style": "path"} if endpoint else None,
    )
    return session.client(service, endpoint_url=endpoint, config=config)
