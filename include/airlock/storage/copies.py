"""Copies of many objects within S3, a number of them in flight.

boto3 makes the first copy and so decides how S3 is reached and what each request says; aiohttp sends the others in that
form, for a third of boto3's CPU or less. boto3 also makes the copies that it alone can make: above 5 GiB, and where its
way of connecting or signing cannot be followed.
"""

from __future__ import annotations

import asyncio
import logging
import random
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING, Protocol

import aiohttp
from yarl import URL

from airlock.storage.aws import AWS_ERRORS, error_code
from airlock.storage.connections import find_connection, find_credentials, renew_credentials
from airlock.storage.copy_answers import is_expired, may_pass, name_failure, read_answer
from airlock.storage.copy_requests import Copy, CopyForm, noting_requests
from airlock.storage.event_loop import run_on_uvloop
from airlock.storage.s3 import S3Error, requests_of_copy

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

    from airlock.storage.connections import Connection
    from airlock.storage.s3 import S3

    Numbered = tuple[int, Copy]

_log = logging.getLogger(__name__)
_SET_BY_BOTO3 = ("Accept", "Accept-Encoding", "Content-Type", "User-Agent")  # or not sent at all


class CopySettings(Protocol):
    """The settings of ``pipelines.parts.Staging`` that copies need."""

    @property
    def copies_in_flight(self) -> int:
        """The copies that are made at the same time."""


@dataclass(frozen=True)
class Retries:
    """How often a copy is tried, and how long it waits in between: twice as long each time, and up to half of it less.

    Parameters
    ----------
    tries
        The most tries of one copy.
    first_pause, longest_pause
        In seconds.
    """

    tries: int = 10
    first_pause: float = 0.2
    longest_pause: float = 20.0

    def pauses(self) -> Iterator[float]:
        """Yield the seconds before each further try."""
        for number in range(self.tries - 1):
            yield min(self.longest_pause, self.first_pause * 2**number) * random.uniform(0.5, 1)  # noqa: S311


def copy_objects(
    s3: S3,
    copies: Iterable[Copy],
    settings: CopySettings,
    refusals: Collection[str],
    *,
    retries: Retries = Retries(),
    progress: Callable[[int], None] | None = None,
) -> list[str | None]:
    """Copy object versions that still have their etags, and return the outcome of each, in their order.

    A copy is tried again after an error that may pass, even where it may have been made: a second copy is the same
    object. After an error that ends all copies, those in flight may still be made.

    Parameters
    ----------
    s3
        The account.
    copies
        What is copied, and where to.
    settings
        The copies in flight.
    refusals
        S3's error codes that concern one object: they are its outcome and do not end the others.
    retries
        How often a copy is tried.
    progress
        Called with the number of copies that have an outcome, after each.

    Returns
    -------
    list
        None for each object that was copied, else S3's error code.

    Raises
    ------
    S3Error
        If S3 refuses a copy with any other code, or does not make it within all tries.
    """
    work = _Copying(s3, settings, refusals, retries, progress)
    groups: dict[tuple[str, str], list[Numbered]] = {}
    for number, copy in enumerate(copies):
        groups.setdefault((copy.bucket, copy.target.bucket), []).append((number, copy))
    for group in groups.values():
        work.copy_group(group)
    return [work.outcomes[number] for number in range(len(work.outcomes))]


class _Copying:
    """The outcomes so far, by the numbers of the copies."""

    def __init__(
        self,
        s3: S3,
        settings: CopySettings,
        refusals: Collection[str],
        retries: Retries,
        progress: Callable[[int], None] | None,
    ) -> None:
        self.outcomes: dict[int, str | None] = {}
        self.s3 = s3
        self.settings = settings
        self.refusals = refusals
        self.retries = retries
        self._progress = progress
        self._renewals = 0
        self._renewing = Lock()

    def settle(self, number: int, code: str | None) -> None:
        """Keep the outcome of a copy."""
        self.outcomes[number] = code
        if self._progress is not None:
            self._progress(len(self.outcomes))

    def copy_through_boto3(self, numbered: Numbered) -> None:
        """Make one copy, and keep its outcome."""
        number, copy = numbered
        renewals = self._renewals
        code = self._ask_boto3(copy)
        if code is not None and is_expired(code) and self._renew_credentials(copy, renewals):
            code = self._ask_boto3(copy)
        if code is not None and code not in self.refusals:
            raise self.s3.make_copy_error(copy.bucket, copy.target.bucket, code)
        self.settle(number, code)

    def _ask_boto3(self, copy: Copy) -> str | None:
        """Let boto3 make a copy; return the error code."""
        try:
            self.s3.copy(copy.source, copy.etag, copy.size, copy.target)
        except S3Error as error:
            return error.code
        return None

    def _renew_credentials(self, copy: Copy, renewals: int) -> bool:
        """Renew the credentials that S3 calls expired, unless another thread has; return whether there are new ones."""
        credentials = find_credentials(self.s3.client)
        with self._renewing:
            if self._renewals != renewals:
                return True
            try:
                is_renewed = renew_credentials(credentials, credentials.get_frozen_credentials())
            except AWS_ERRORS as error:
                raise self.s3.make_copy_error(copy.bucket, copy.target.bucket, error_code(error)) from None
            self._renewals += is_renewed
        return is_renewed

    def copy_group(self, group: Sequence[Numbered]) -> None:
        """Make the copies from one bucket to another."""
        first = next((each for each in group if not _needs_boto3(each[1])), group[0])
        rest = [each for each in group if each is not first]
        with noting_requests(self.s3.client) as sent:
            self.copy_through_boto3(first)
        if not rest:
            return
        client = self.s3.client
        form = CopyForm.of(sent[-1], first[1], find_credentials(client)) if sent else None
        connection = find_connection(client, form.url) if form else None
        if form is None or connection is None:
            self._copy_in_threads(rest)
        else:
            run_on_uvloop(_Flight(self, form, connection).copy_all(rest))

    def _copy_in_threads(self, rest: Sequence[Numbered]) -> None:
        _log.info("boto3 makes the copies: the way in which it reaches this bucket cannot be followed")
        with ThreadPoolExecutor(self.settings.copies_in_flight) as pool:
            for _ in pool.map(self.copy_through_boto3, rest):
                pass


class _Flight:
    """Copies of one form that are in flight together."""

    def __init__(self, work: _Copying, form: CopyForm, connection: Connection) -> None:
        self._work = work
        self._form = form
        self._connection = connection

    async def copy_all(self, copies: Sequence[Numbered]) -> None:
        """Make the copies.

        Raises
        ------
        S3Error
            The first that ends them.
        """
        workers = min(self._work.settings.copies_in_flight, len(copies))
        pending = iter(copies)
        async with _open_session(self._connection, workers) as session:
            try:
                async with asyncio.TaskGroup() as group:
                    for _ in range(workers):
                        group.create_task(self._copy_pending(session, pending))
            except BaseExceptionGroup as failed:
                raise failed.exceptions[0] from None

    async def _copy_pending(self, session: aiohttp.ClientSession, pending: Iterator[Numbered]) -> None:
        for number, copy in pending:
            if _needs_boto3(copy):
                await asyncio.to_thread(self._work.copy_through_boto3, (number, copy))
            else:
                self._work.settle(number, await self._copy(session, copy))

    async def _copy(self, session: aiohttp.ClientSession, copy: Copy) -> str | None:
        """Try a copy until it has an outcome, and return that."""
        pauses = self._work.retries.pauses()
        while True:
            code, again = await self._ask(session, copy)
            if code is None or code in self._work.refusals:
                return code
            pause = next(pauses, None) if again else None
            if pause is None:
                raise self._work.s3.make_copy_error(copy.bucket, copy.target.bucket, code)
            await asyncio.sleep(pause)

    async def _ask(self, session: aiohttp.ClientSession, copy: Copy) -> tuple[str | None, bool]:
        """Send the request once; return the error code and whether another try may help."""
        try:
            credentials = self._form.credentials.get_frozen_credentials()
            url, headers = self._form.sign(copy, credentials)
            async with session.put(
                URL(url, encoded=True),
                headers=headers,
                proxy=self._connection.proxy,
                proxy_headers=self._connection.proxy_headers,
                allow_redirects=False,
            ) as answer:
                code = read_answer(answer.status, await answer.read())
            if code is not None and is_expired(code):
                return code, renew_credentials(self._form.credentials, credentials)
            return code, code is not None and may_pass(answer.status, code)
        except AWS_ERRORS as error:  # of renewing the credentials
            return error_code(error), False
        except (aiohttp.ClientError, OSError) as error:
            return name_failure(error), True


def _needs_boto3(copy: Copy) -> bool:
    return requests_of_copy(copy.size) > 1 or not copy.is_plain


def _open_session(connection: Connection, in_flight: int) -> aiohttp.ClientSession:
    """Return a client that keeps so many connections; it adds no header and keeps no cookie."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=in_flight, ssl=connection.trust),
        timeout=aiohttp.ClientTimeout(sock_connect=connection.connect_timeout, sock_read=connection.read_timeout),
        cookie_jar=aiohttp.DummyCookieJar(),
        skip_auto_headers=_SET_BY_BOTO3,
        auto_decompress=False,
    )
