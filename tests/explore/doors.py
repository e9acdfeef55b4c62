"""The doors of a run to the world: its ledger, its S3 and the services, each call of which is a point."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

import airlock
from airlock.dicom.fetch import RangeReader, _check_answer, _get, _if_match
from tests.explore.scheduler import Site

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterator

    from airlock.dicom.fetch import Arrival
    from airlock.dicom.ranged import Range
    from airlock.ledger import Ledger
    from tests.explore.memory_s3 import MemoryS3
    from tests.explore.scheduler import Actor

_LIBRARY = str(Path(airlock.__file__).parent) + "/"
_BELOW = tuple(_LIBRARY + name for name in ("storage/", "ledger/", "destinations/"))
_HERE = str(Path(__file__).parent) + "/"


def find_site(actor: Actor, call: str) -> Site:
    """Return the place of the stage that makes the present call."""
    frame: Any = sys._getframe(2)
    while frame is not None:
        name = frame.f_code.co_filename
        if name.startswith(_LIBRARY) and not name.startswith(_BELOW):
            return Site(actor.stage, call, f"{name.removeprefix(_LIBRARY)}:{frame.f_lineno}")
        frame = frame.f_back
    return Site(actor.stage, call, "plugins")  # what the operators do


class LedgerDoor:
    """A ledger whose methods are points; within `at_once` only for kills."""

    def __init__(self, ledger: Ledger, actor: Actor) -> None:
        self._ledger = ledger
        self._actor = actor

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._ledger, name)
        if not callable(found) or name.startswith("_"):
            return found

        def call(*args: Any, **given: Any) -> Any:
            self._actor.point(find_site(self._actor, f"ledger.{name}"))
            self._actor.locks += 1
            try:
                answer = found(*args, **given)
            finally:
                self._actor.locks -= 1
            return self._hold(answer) if isinstance(answer, AbstractContextManager) else answer

        return call

    @contextmanager
    def _hold(self, block: AbstractContextManager[Any]) -> Iterator[Any]:
        """Enter a transaction of several calls: nobody else goes on within it."""
        self._actor.locks += 1
        try:
            with block as inner:
                yield LedgerDoor(inner, self._actor) if isinstance(inner, type(self._ledger)) else inner
        finally:
            self._actor.locks -= 1

    def journaled_in(self, journal: Any) -> LedgerDoor:
        """Return the door of the same ledger, whose changes are kept in a journal."""
        return LedgerDoor(self._ledger.journaled_in(journal), self._actor)

    def __enter__(self) -> LedgerDoor:
        return self

    def __exit__(self, *_: object) -> None:
        """Stay open: the next stage uses the same ledger."""


class ClientDoor:
    """A client whose calls are points."""

    def __init__(self, client: Any, actor: Actor, name: str) -> None:
        self._client = client
        self._actor = actor
        self._name = name

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._client, name)
        if not callable(found):
            return found

        def call(*args: Any, **given: Any) -> Any:
            self._actor.point(find_site(self._actor, f"{self._name}.{name}"))
            return found(*args, **given)

        return call


class S3Door(ClientDoor):
    """An S3 client whose requests are points."""

    def __init__(self, client: MemoryS3, actor: Actor) -> None:
        super().__init__(client, actor, "s3")

    def get_paginator(self, operation: str) -> Any:
        """Return the pages of an operation, of which the first is a point."""
        self._actor.point(find_site(self._actor, f"s3.{operation}"))
        return self._client.get_paginator(operation)


class DirectReader(RangeReader):
    """Reads headers through the client, with no other thread, and translates errors as the real reader does."""

    def read(self, arrival: Arrival, span: Range) -> Awaitable[bytes]:
        """Return these bytes of the object when awaited."""
        return self._read_now(arrival, span)

    async def _read_now(self, arrival: Arrival, span: Range) -> bytes:
        request = {"Bucket": arrival.bucket, "Key": arrival.key, "Range": f"bytes={span.start}-{span.end - 1}"}
        if condition := _if_match(arrival.etag):
            request["IfMatch"] = condition
        try:
            answer = _get(self._s3.client, request, 0)
        except ClientError as error:
            raise self._translate_error(error, arrival) from None
        return _check_answer(answer, arrival, span)
