"""Here the requests themselves are what is tested: they go over real connections."""

from __future__ import annotations

import boto3
import pytest

from airlock.storage.s3 import S3


@pytest.fixture(scope="session")
def s3_client(s3_server: str) -> S3:
    session = boto3.Session("testing", "testing", region_name="us-east-1")
    return S3(session, session.client("s3", endpoint_url=s3_server))
