"""Clients of AWS that outlive their credentials: an edge starts without any, and takes new ones while it runs."""

from __future__ import annotations

import logging
from json import JSONDecodeError
from threading import Lock
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from botocore.exceptions import CredentialRetrievalError, PartialCredentialsError

from airlock.storage.aws import AWS_ERRORS, error_code

if TYPE_CHECKING:
    from collections.abc import Callable

_log = logging.getLogger(__name__)

_PAUSE_SECONDS: Final = 10.0  # between two looks for credentials, which may start a program or read the network
# What botocore raises where a program or a file gives no credentials; it does not wrap the first and the last two.
_NONE_GIVEN: Final = (OSError, CredentialRetrievalError, PartialCredentialsError, JSONDecodeError)
_OUTDATED: Final = {
    "NoCredentialsError",
    "ExpiredToken",
    "ExpiredTokenException",
    "InvalidAccessKeyId",
    "InvalidClientTokenId",
    "InvalidToken",
    "SignatureDoesNotMatch",
    "UnrecognizedClientException",
}


class LastingClient:
    """A client of one AWS service; threads may share it.

    botocore looks for credentials when a client is made: it makes none if a program gives no credentials, and keeps
    those of a file for ever. Here the client is made anew after an error that other credentials may cure.

    Parameters
    ----------
    make
        Makes boto3's client, with a session of its own.
    """

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make
        self._lock = Lock()
        self._client: Any = None
        self._next_look = 0.0  # by the monotonic clock
        try:
            self._find_client()
        except CredentialRetrievalError as error:
            _log.error("there are no credentials (%s): the edge looks for them again", error.kwargs["error_msg"])

    def call(self, operation: str, /, **parameters: Any) -> Any:
        """Call an operation, as ``put_object``, and return its answer.

        Raises
        ------
        Exception
            One of `AWS_ERRORS`, also where botocore raises another one for credentials.
        """
        client = self._find_client()
        try:
            return getattr(client, operation)(**parameters)
        except AWS_ERRORS as error:
            if error_code(error) in _OUTDATED:
                self._forget(client)
            raise
        except _NONE_GIVEN as error:
            raise _explain(error) from None

    def _find_client(self) -> Any:
        with self._lock:
            if self._client is None and monotonic() >= self._next_look:
                try:
                    self._client = self._make()
                except _NONE_GIVEN as error:
                    raise _explain(error) from None
                finally:
                    self._next_look = monotonic() + _PAUSE_SECONDS
            if self._client is None:
                raise CredentialRetrievalError(provider="any", error_msg="not looked for again so far")
            return self._client

    def _forget(self, client: Any) -> None:
        with self._lock:
            if self._client is client and monotonic() >= self._next_look:
                self._client = None


def _explain(error: Exception) -> CredentialRetrievalError:
    """Return botocore's own error, without the program's words."""
    return CredentialRetrievalError(provider="any", error_msg=type(error).__name__)
