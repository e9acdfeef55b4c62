"""Clients of AWS that outlive their credentials: the edge starts without any, and takes new ones while it runs."""

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

_PAUSE_SECONDS: Final = 10.0  # between two searches for credentials, which may start a program or use the network
# What botocore raises if a program or a file gives no credentials: it does not wrap each error of these sources.
_SOURCE_ERRORS: Final = (OSError, CredentialRetrievalError, PartialCredentialsError, JSONDecodeError)
# Codes of errors after which other credentials may be accepted.
_CREDENTIAL_CODES: Final = {
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

    botocore looks for credentials when it makes a client. It raises an error if a program gives none, and never reads a
    file of credentials again. This class makes the client again after an error that other credentials may cure.

    Parameters
    ----------
    make
        Makes boto3's client, with a session of its own.
    """

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make
        self._lock = Lock()
        self._client: Any = None
        self._next_search = 0.0  # by the monotonic clock
        try:
            self._find_client()
        except CredentialRetrievalError as error:
            _log.error("no credentials were found (%s): the edge looks for them again", error.kwargs["error_msg"])

    def call(self, operation: str, /, **parameters: Any) -> Any:
        """Call an operation, for example ``put_object``, and return its answer.

        Raises
        ------
        Exception
            One of `AWS_ERRORS`, also if botocore raises another one because of credentials.
        """
        client = self._find_client()
        try:
            return getattr(client, operation)(**parameters)
        except AWS_ERRORS as error:
            if error_code(error) in _CREDENTIAL_CODES:
                self._forget(client)
            raise
        except _SOURCE_ERRORS as error:
            raise _hide_text(error) from None

    def _find_client(self) -> Any:
        """Return the client, made now if there is none and the pause is over."""
        with self._lock:
            if self._client is None and monotonic() >= self._next_search:
                try:
                    self._client = self._make()
                except _SOURCE_ERRORS as error:
                    raise _hide_text(error) from None
                finally:
                    self._next_search = monotonic() + _PAUSE_SECONDS
            if self._client is None:
                raise CredentialRetrievalError(provider="any", error_msg="the next search is due soon")
            return self._client

    def _forget(self, client: Any) -> None:
        with self._lock:
            if self._client is client and monotonic() >= self._next_search:
                self._client = None


def _hide_text(error: Exception) -> CredentialRetrievalError:
    """Return the error of missing credentials without the text of the cause, which may quote a program's output."""
    return CredentialRetrievalError(provider="any", error_msg=type(error).__name__)
