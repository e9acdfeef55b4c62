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


def cut_page(
    items: Sequence[Item], params: dict[str, Any], size: str = "maxResults", following: str = "nextToken"
) -> tuple[Sequence[Item], dict[str, str]]:
    """Cut one page out of `items`.

    Parameters
    ----------
    items : sequence
        The whole listing.
    params : dict
        Size (50 if absent) and token of the request.
    size, following : str
        The service's names for them.

    Returns
    -------
    tuple
        The page, and the token of the next one as a member if more follows, else ``{}``.

    Raises
    ------
    AwsError
        ValidationException: not a token of ours.
    """
    start, number = read_page(params, size, following)
    end = start + number
    return items[start:end], {following: _token(end)} if end < len(items) else {}


def read_page(params: dict[str, Any], size: str = "maxResults", following: str = "nextToken") -> tuple[int, int]:
    """Return the offset and the size of the page that a request asks for, as in `cut_page`."""
    start = _offset(params[following], following) if following in params else 0
    return start, params.get(size, LARGEST_PAGE)


def end_page(found: Sequence[Item], start: int, number: int) -> tuple[Sequence[Item], dict[str, str]]:
    """Return a page and the token of the next one, from the items at its offset and, if there are more, one beyond."""
    return found[:number], {"nextToken": _token(start + number)} if len(found) > number else {}


def _token(offset: int) -> str:
    return base64.urlsafe_b64encode(f"offset={offset}".encode()).decode()


def _offset(token: str, member: str) -> int:
    try:
        name, _, number = base64.b64decode(token, altchars=b"-_", validate=True).decode().partition("=")
        if name == "offset" and number.isascii() and number.isdigit():
            return int(number)
    except (binascii.Error, UnicodeDecodeError, ValueError):
        pass
    raise invalid(f"$.{member}: is not a token that this operation returned")
