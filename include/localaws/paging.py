"""Pages of a listing and the tokens between them."""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING, Any, TypeVar

from localaws.errors import invalid

if TYPE_CHECKING:
    from collections.abc import Sequence

Item = TypeVar("Item")
LARGEST_PAGE = 50


def page(items: Sequence[Item], params: dict[str, Any]) -> tuple[Sequence[Item], dict[str, str]]:
    """Cut one page out of `items`.

    Parameters
    ----------
    items : sequence
        The whole listing.
    params : dict
        ``maxResults`` (50 if absent) and ``nextToken`` of the request.

    Returns
    -------
    tuple
        The page, and ``{"nextToken": ...}`` if more follows, else ``{}``.

    Raises
    ------
    AwsError
        ValidationException: not a token of ours.
    """
    start = _offset(params["nextToken"]) if "nextToken" in params else 0
    end = start + params.get("maxResults", LARGEST_PAGE)
    return items[start:end], {"nextToken": _token(end)} if end < len(items) else {}


def _token(offset: int) -> str:
    return base64.urlsafe_b64encode(f"offset={offset}".encode()).decode()


def _offset(token: str) -> int:
    try:
        name, _, number = base64.b64decode(token, altchars=b"-_", validate=True).decode().partition("=")
        if name == "offset" and number.isascii() and number.isdigit():
            return int(number)
    except (binascii.Error, UnicodeDecodeError, ValueError):
        pass
    raise invalid("$.nextToken: is not a token that this operation returned")
