"""A body is made while it is sent, and its length is known before."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx
import pytest

from airlock.destinations.dicomweb import Multipart, Part, credentials
from tests.dicom_files import ct, sop_uid
from tests.servers.dicomweb import parts

if TYPE_CHECKING:
    from collections.abc import Iterator


def test_each_file_is_a_part_and_the_length_is_right() -> None:
    files = {sop_uid(1, 1, number): ct(instance=number) for number in (1, 2, 3)}
    body = Multipart([Part(len(file), [file[:100], file[100:]]) for file in files.values()])
    sent = b"".join(body)
    assert len(sent) == body.length
    assert parts(body.content_type, sent) == files


def test_a_part_is_read_when_its_turn_comes() -> None:
    read: list[str] = []

    def pieces(name: str) -> Iterator[bytes]:
        read.append(name)
        yield b"12"

    body = iter(Multipart([Part(2, pieces("first")), Part(2, pieces("second"))]))
    next(body)
    assert read == []
    assert next(body) == b"12"
    assert read == ["first"]


def test_no_two_bodies_have_one_boundary() -> None:
    assert Multipart([]).content_type != Multipart([]).content_type


@pytest.mark.parametrize(
    ("login", "password", "header"),
    [("airlock", "secret", "Basic YWlybG9jazpzZWNyZXQ="), (None, "token", "Bearer token"), (None, None, None)],
)
def test_credentials_are_basic_or_a_token(login: str | None, password: str | None, header: str | None) -> None:
    auth = credentials(login, password)
    request = httpx.Request("GET", "https://pacs.example.org")
    if auth is not None:
        request = next(auth.auth_flow(request))
    assert request.headers.get("Authorization") == header
