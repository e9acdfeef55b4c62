"""Clients of AWS outlive their credentials: other ones are taken without a restart."""

from __future__ import annotations

from typing import Any

import pytest
from botocore.exceptions import ClientError, CredentialRetrievalError

from airlock_edge import clients
from airlock_edge.clients import LastingClient


class Made:
    """A client that answers with its number, or fails."""

    def __init__(self, number: int, failure: Exception | None = None) -> None:
        self._number = number
        self._failure = failure

    def ask(self) -> int:
        if self._failure is not None:
            raise self._failure
        return self._number


class Maker:
    """Makes one client after the other, or fails to."""

    def __init__(self, *failures: Exception | None, unmade: Exception | None = None) -> None:
        self.made = 0
        self.unmade = unmade
        self._failures = failures

    def __call__(self) -> Made:
        if self.unmade is not None:
            raise self.unmade
        self.made += 1
        return Made(self.made, dict(enumerate(self._failures, 1)).get(self.made))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(clients, "monotonic", lambda: now[0])
    return now


def expired(code: str) -> ClientError:
    return ClientError({"Error": {"Code": code}}, "Ask")


def test_after_expired_credentials_a_new_client_looks_for_others(clock: list[float]) -> None:
    client = LastingClient(Maker(expired("ExpiredToken")))
    for _ in range(3):
        with pytest.raises(ClientError):
            client.call("ask")
    clock[0] += 11
    with pytest.raises(ClientError):
        client.call("ask")
    assert client.call("ask") == 2


def test_another_error_keeps_the_client(clock: list[float]) -> None:
    maker = Maker(expired("SlowDown"))
    client = LastingClient(maker)
    for _ in range(2):
        clock[0] += 11
        with pytest.raises(ClientError):
            client.call("ask")
    assert maker.made == 1


@pytest.mark.parametrize(
    "failure", [FileNotFoundError(), CredentialRetrievalError(provider="custom-process", error_msg="secret words")]
)
def test_a_client_that_cannot_be_made_is_made_later(clock: list[float], caplog: Any, failure: Exception) -> None:
    maker = Maker(unmade=failure)
    client = LastingClient(maker)
    maker.unmade = None
    with pytest.raises(CredentialRetrievalError):  # not before the pause is over
        client.call("ask")
    clock[0] += 11
    assert client.call("ask") == 1
    assert "no credentials were found" in caplog.text
    assert "secret" not in caplog.text


def test_a_program_that_is_gone_when_credentials_are_renewed_is_an_error_of_credentials(clock: list[float]) -> None:
    """Raised as it is, it would say that the object's file is gone."""
    client = LastingClient(Maker(FileNotFoundError()))
    with pytest.raises(CredentialRetrievalError):
        client.call("ask")
