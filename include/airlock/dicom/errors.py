"""How a header can fail to be read."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airlock.reasons import Reason


class HeaderError(Exception):
    """An object gave no header that may be trusted.

    Parameters
    ----------
    reason
        The code that becomes the arrival's.
    detail
        A few words beside it; they never hold a value of the header or a key.
    values
        What was read whole before the trouble, by keyword: enough, often, to say which study misses the file.
    """

    def __init__(self, reason: Reason, detail: str = "", values: Mapping[str, str] | None = None) -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail
        self.values = dict(values or {})

    def __str__(self) -> str:
        return f"{self.reason.value}: {self.detail}"
