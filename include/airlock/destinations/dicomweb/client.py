"""A client of one DICOMweb server, for the two transactions that a STOW route needs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self
from urllib.parse import quote

import httpx

from airlock.destinations.dicomweb.answer import StoreAnswer, read_answer
from airlock.destinations.dicomweb.multipart import Multipart
from airlock.destinations.web import retry_after

if TYPE_CHECKING:
    import ssl
    from collections.abc import Generator
    from types import TracebackType

    from airlock.destinations.dicomweb.multipart import Part

_DICOM_JSON = "application/dicom+json"
_ANSWERS = f"{_DICOM_JSON}, application/dicom+xml;q=0.5"
_MOST_BYTES = 32 * 1024**2  # of an answer; an answer about ten thousand instances has 5 MiB
_DIVISIBLE = frozenset({400, 409, 413, 422, 500})  # one instance of several may be the cause
_FOR_GOOD = frozenset({400, 409, 413, 422})


def credentials(login: str | None, password: str | None) -> httpx.Auth | None:
    """Return HTTP basic authentication; without a login the password as bearer token; None without both."""
    if login:
        return httpx.BasicAuth(login, password or "")
    return BearerToken(password) if password else None


class BearerToken(httpx.Auth):
    """Authentication by a token in the header Authorization (RFC 6750 section 2.1)."""

    def __init__(self, token: str) -> None:
        self._token = token

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """Add the token."""
        request.headers["Authorization"] = f"Bearer {self._token}"
        yield request


class DicomWebError(RuntimeError):
    """The server failed a request; the results of its instances are unknown.

    Parameters
    ----------
    code
        ``http_<status>``, or the class of the client's error.
    retry_after
        Seconds that the server asks to wait.
    """

    def __init__(self, code: str, retry_after: float | None = None) -> None:
        super().__init__(code)
        self.code = code
        self.retry_after = retry_after


class RequestRefusedError(DicomWebError):
    """The server refused a request as a whole; a single instance of it may be the cause.

    Parameters
    ----------
    code
        ``http_<status>``.
    for_good
        Whether the same request will be refused again.
    """

    def __init__(self, code: str, *, for_good: bool) -> None:
        super().__init__(code)
        self.for_good = for_good


class DicomWeb:
    """A client of one server; several threads may share it.

    Parameters
    ----------
    base_url
        The address before ``/studies``, for example ``https://pacs.example.org/dicom-web``.
    auth
        None for a server without authentication.
    verify
        The check of the server's certificate; False for none.
    timeout_seconds
        The longest time without a byte sent or received.

    Examples
    --------
    >>> with DicomWeb("https://pacs.example.org/dicom-web", httpx.BasicAuth("airlock", "...")) as web:  # doctest: +SKIP
    ...     web.store([Part(size, pieces)])
    """

    def __init__(
        self,
        base_url: str,
        auth: httpx.Auth | None = None,
        *,
        verify: ssl.SSLContext | bool = True,
        timeout_seconds: float = 120,
    ) -> None:
        self._base_url = base_url.rstrip("/")
        self._client = httpx.Client(auth=auth, verify=verify, timeout=timeout_seconds, follow_redirects=False)

    def store(self, parts: list[Part]) -> StoreAnswer:
        """Send files in one Store Transaction (PS3.18 section 10.5); they are read while they are sent.

        Returns
        -------
        StoreAnswer
            The server's result of each instance, whatever the status of its answer; empty if it names none.

        Raises
        ------
        RequestRefusedError
            If the server refuses the request and names no instance.
        DicomWebError
            If there is no answer, or its status is about the server: 401, 404, 429, 503.
        """
        body = Multipart(parts)
        head = {"Content-Type": body.content_type, "Content-Length": str(body.length), "Accept": _ANSWERS}
        response, content = self._ask("POST", f"{self._base_url}/studies", head, body)
        answer = read_answer(content)
        if answer is not None:
            return answer
        if response.is_success:
            return StoreAnswer({}, {})
        raise _refusal(response)

    def holds(self, study: str, series: str, instance: str) -> bool:
        """Return whether the server has an instance, by its three UIDs (Search Transaction, PS3.18 section 10.6).

        Raises
        ------
        DicomWebError
            If the server does not answer the search.
        """
        where = f"{self._base_url}/studies/{quote(study, safe='')}/series/{quote(series, safe='')}/instances"
        response, content = self._ask(
            "GET", f"{where}?SOPInstanceUID={quote(instance, safe='')}", {"Accept": _DICOM_JSON}
        )
        if response.status_code in {204, 404}:
            return False
        if response.status_code != 200:
            raise _refusal(response)
        return f'"{instance}"'.encode() in content

    def _ask(
        self, method: str, url: str, head: dict[str, str], body: Multipart | None = None
    ) -> tuple[httpx.Response, bytes]:
        """Return the answer and its body.

        Raises
        ------
        DicomWebError
            If there is no answer, or its body is too long.
        """
        content = bytearray()
        try:
            with self._client.stream(method, url, headers=head, content=body) as response:
                for piece in response.iter_bytes():
                    content += piece
                    if len(content) > _MOST_BYTES:
                        raise DicomWebError("answer_too_long")
        except (httpx.HTTPError, httpx.InvalidURL) as error:  # its text may have the address, with UIDs
            raise DicomWebError(type(error).__name__) from None
        return response, bytes(content)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _refusal(response: httpx.Response) -> DicomWebError:
    code = f"http_{response.status_code}"
    if response.status_code in _DIVISIBLE:
        return RequestRefusedError(code, for_good=response.status_code in _FOR_GOOD)
    return DicomWebError(code, retry_after(response.headers.get("Retry-After")))
