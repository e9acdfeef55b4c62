"""Required members of a reply."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from healthaws.exceptions import IncompleteReplyError

if TYPE_CHECKING:
    from collections.abc import Mapping


def member(reply: Mapping[str, Any], name: str, operation: str) -> Any:
    """
    Return a required member of a reply.

    Parameters
    ----------
    reply : Mapping
        The client's reply.
    name : str
        The member.
    operation : str
        The operation of the reply.

    Raises
    ------
    IncompleteReplyError
        If it is missing: botocore parses a truncated body without an error.
    """
    if name not in reply:
        raise IncompleteReplyError(f"The reply to {operation} broke off: it has no {name}.")
    return reply[name]
