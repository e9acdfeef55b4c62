"""What a reply must hold."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from healthaws.exceptions import IncompleteReplyError

if TYPE_CHECKING:
    from collections.abc import Mapping


def member(reply: Mapping[str, Any], name: str, operation: str) -> Any:
    """
    Take a required member out of a reply.

    Parameters
    ----------
    reply : Mapping
        What the client returned.
    name : str
        The member.
    operation : str
        The operation that was asked.

    Raises
    ------
    IncompleteReplyError
        If it is missing: botocore parses a body that broke off without complaint.
    """
    if name not in reply:
        raise IncompleteReplyError(f"The reply to {operation} broke off: it has no {name}.")
    return reply[name]
