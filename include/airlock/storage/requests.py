"""How many requests a boto3 client has sent, by operation; retries are requests too."""

from __future__ import annotations

from collections import Counter
from threading import Lock
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

_EVENT = "before-send.s3"


class RequestCounter:
    """Counts a client's requests within its block, in all threads.

    Parameters
    ----------
    client
        A boto3 client.

    Attributes
    ----------
    sent
        The number of requests by operation, for example ``ListObjectsV2``.
    """

    def __init__(self, client: Any) -> None:
        self.sent: Counter[str] = Counter()
        self._client = client
        self._lock = Lock()

    def __enter__(self) -> Self:
        self._client.meta.events.register(_EVENT, self._count)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.meta.events.unregister(_EVENT, self._count)

    def _count(self, event_name: str, **_: Any) -> None:
        with self._lock:
            self.sent[event_name.rpartition(".")[2]] += 1
