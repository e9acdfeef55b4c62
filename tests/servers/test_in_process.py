"""A client that calls moto without a connection gets what one with a connection gets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import boto3
import pytest
from botocore.exceptions import ClientError

from tests.servers.in_process import ask_in_process
from tests.servers.moto import moto_server

if TYPE_CHECKING:
    from collections.abc import Iterator

KEY = "in/ü ..//a?b%20+c&d_e"


@pytest.fixture
def clients() -> Iterator[tuple[Any, Any]]:
    with moto_server() as endpoint:
        session = boto3.Session("testing", "testing", region_name="us-east-1")
        over, without = (session.client("s3", endpoint_url=endpoint) for _ in range(2))
        yield over, ask_in_process(without)


def test_each_reads_what_the_other_wrote_and_both_are_answered_alike(clients: tuple[Any, Any]) -> None:
    over, without = clients
    without.create_bucket(Bucket="archive")
    for writer, body in ((over, b"over"), (without, b"without" * 100_000)):
        writer.put_object(Bucket="archive", Key=KEY, Body=body, Metadata={"a_b": "c"})
        assert [one.get_object(Bucket="archive", Key=KEY)["Body"].read() for one in clients] == [body, body]
        asked: list[tuple[str, dict[str, Any]]] = [
            ("head_object", {"Key": KEY}),
            ("list_objects_v2", {"Prefix": "in/"}),
            ("get_object_attributes", {"Key": KEY, "ObjectAttributes": ["ETag", "ObjectSize"]}),
        ]
        for operation, arguments in asked:
            first, second = (getattr(one, operation)(Bucket="archive", **arguments) for one in clients)
            assert _said(first) == _said(second)
    pieces = [one.get_object(Bucket="archive", Key=KEY, Range="bytes=3-9")["Body"].read() for one in clients]
    assert pieces == [b"houtwit"] * 2


@pytest.mark.parametrize("operation", ["get_object", "head_object", "delete_object"])
def test_both_are_refused_alike(clients: tuple[Any, Any], operation: str) -> None:
    refusals = []
    for one in clients:
        with pytest.raises(ClientError) as refused:
            getattr(one, operation)(Bucket="nowhere", Key=KEY)
        refusals.append(refused.value.response["Error"])
    assert refusals[0] == refusals[1]


def _said(answer: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in answer.items() if name != "ResponseMetadata"}
