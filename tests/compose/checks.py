"""What the proof asks of the containers, the buckets and the ledger, beside the books of the run."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Any

import boto3
import httpx
from botocore.config import Config
from botocore.exceptions import ClientError

from airlock_local.environment import LOCAL_KEY, LOCAL_SECRET, REGION
from tests.compose.settings import KMS_KEY

if TYPE_CHECKING:
    from tests.compose.engine import Stack
    from tests.compose.settings import Settings

# Run in a container with the ledger's address of the tasks: what the role may not do, and that TLS is not optional.
_LEDGER = """
import json, os, psycopg2
url = os.environ["AIRLOCK_LEDGER_URL"]
def why(url, statement):
    try:
        with psycopg2.connect(url) as connection, connection.cursor() as cursor:
            cursor.execute(statement)
            return [str(value) for value in cursor.fetchone()] if cursor.description else "allowed"
    except psycopg2.Error as error:
        return str(error).strip().splitlines()[-1]
print(json.dumps({
    "session": why(url, "SELECT current_user, ssl, version FROM pg_stat_ssl WHERE pid = pg_backend_pid()"),
    "superuser": why(url, "SELECT rolsuper FROM pg_roles WHERE rolname = current_user"),
    "change": why(url, "UPDATE decisions SET why = 'changed'"),
    "truncate": why(url, "TRUNCATE words"),
    "plain": why(url.partition("?")[0] + "?sslmode=disable", "SELECT 1"),
}))
"""


def s3_client(settings: Settings) -> Any:
    """Return boto3's client of the stack's S3, which trusts the proof's authority."""
    session = boto3.session.Session(LOCAL_KEY, LOCAL_SECRET, region_name=REGION)
    return session.client(
        "s3",
        endpoint_url=f"https://127.0.0.1:{settings.s3_port}",
        verify=str(settings.tls / "ca.pem"),
        config=Config(proxies={}, max_pool_connections=16),
    )


def encrypt_buckets(client: Any, source: str) -> list[str]:
    """Have every bucket that Airlock writes encrypt with the KMS key what names no encryption; return these buckets.

    The source is the sender's. Under a KMS key its etags would say nothing of the content, and equal copies would count
    as different ones, unless they are read (docs/copies.md): the books would not be those of the README.
    """
    default = {"SSEAlgorithm": "aws:kms", "KMSMasterKeyID": KMS_KEY}
    rules = {"Rules": [{"ApplyServerSideEncryptionByDefault": default, "BucketKeyEnabled": True}]}
    buckets = [item["Name"] for item in client.list_buckets()["Buckets"] if item["Name"] != source]
    for bucket in buckets:
        client.put_bucket_encryption(Bucket=bucket, ServerSideEncryptionConfiguration=rules)
    return buckets


def refuses(client: Any, bucket: str, **encryption: str) -> bool:
    """Return whether a bucket's policy refuses a write with this encryption."""
    try:
        client.put_object(Bucket=bucket, Key="proof-of-policy", Body=b"", **encryption)
    except ClientError as error:
        if error.response["Error"]["Code"] != "AccessDenied":
            raise
        return True
    client.delete_object(Bucket=bucket, Key="proof-of-policy")
    return False


def count_by_encryption(client: Any, buckets: list[str]) -> dict[str, Counter[str]]:
    """Return by bucket how many objects are under which key."""
    found = {}
    for bucket in buckets:
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket)
        heads = (
            client.head_object(Bucket=bucket, Key=one["Key"]) for page in pages for one in page.get("Contents", ())
        )
        found[bucket] = Counter(str(head.get("SSEKMSKeyId")) for head in heads)
    return found


def ask_ledger(stack: Stack) -> dict[str, Any]:
    """Return what the ledger's server answers to the tasks' role."""
    said = stack.execute("worker-1", "python", "-", told=_LEDGER)
    return dict(json.loads(said.splitlines()[-1]))


def describe_hardening(stack: Stack, service: str) -> list[str]:
    """Return what a container has that it should not have."""
    found = stack.inspect(service)
    host, user = found["HostConfig"], found["Config"]["User"]
    wrong = {
        "writes its root": not host["ReadonlyRootfs"],
        "has capabilities": bool(found["EffectiveCaps"] or found["BoundingCaps"]),
        "may get new privileges": "no-new-privileges" not in host["SecurityOpt"],
        "runs as root": user in {"", "0", "root"},
        "has no limit of memory": not host["Memory"],
        "has no limit of processes": host["PidsLimit"] <= 0,
        "keeps its log for ever": host["LogConfig"]["Size"] in {"", "0B"},
    }
    return [f"{service} {words}" for words, is_so in wrong.items() if is_so]


def status_of(settings: Settings, path: str, token: str = "", body: dict[str, Any] | None = None) -> int:
    """Return the status of a call of Airflow's API, as somebody or nobody."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    url = f"http://127.0.0.1:{settings.api_port}{path}"
    method = "GET" if body is None else "POST"
    return httpx.request(method, url, headers=headers, json=body, timeout=60, trust_env=False).status_code


def token_of(settings: Settings, user: str, password: str) -> str:
    """Return a token of a user."""
    url = f"http://127.0.0.1:{settings.api_port}/auth/token"
    answer = httpx.post(url, json={"username": user, "password": password}, timeout=60, trust_env=False)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["access_token"])
