"""What a commitment request is answered about an instance, from what the edge knows of its contents."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airlock_edge.commitment.settings import After

# Failure Reason (0008,1197), PS3.3 section C.14.1.1.
PROCESSING_FAILURE: Final = 0x0110
NO_SUCH_INSTANCE: Final = 0x0112
CLASS_CONFLICT: Final = 0x0119


class Verdict(StrEnum):
    """What is known about an instance."""

    COMMITTED = "committed"
    FAILED = "failed"  # Airlock has decided against it
    UNDECIDED = "undecided"
    UNKNOWN = "unknown"  # never received
    CONFLICT = "conflict"  # received under another SOP class only


_FAILURES: Final = {
    Verdict.FAILED: PROCESSING_FAILURE,
    Verdict.UNDECIDED: PROCESSING_FAILURE,
    Verdict.UNKNOWN: NO_SUCH_INSTANCE,
    Verdict.CONFLICT: CLASS_CONFLICT,
}


@dataclass(frozen=True)
class Content:
    """A content of an instance, the newest that a peer has sent.

    Attributes
    ----------
    is_own
        Whether the peer that asks has sent it.
    is_durable
        Whether it is on S3.
    told
        What Airlock said last: ``imported``, ``released`` or ``failed``; None before it has.
    """

    is_own: bool
    is_durable: bool
    told: str | None


def judge(after: After, contents: Sequence[Content], *, has_other_class: bool) -> Verdict:
    """Return what is known about an instance.

    The newest content that the asking peer has sent counts: that is what it has, and may delete. If it has sent none,
    since another system forwards its images, the newest content of every other peer must be safe.

    Parameters
    ----------
    after
        What makes an instance safe.
    contents
        The newest content by peer.
    has_other_class
        Whether the instance was received under another SOP class.
    """
    if not contents:
        return Verdict.CONFLICT if has_other_class else Verdict.UNKNOWN
    own = [one for one in contents if one.is_own]
    found = {_judge_content(after, one) for one in own or contents}
    return next(one for one in (Verdict.FAILED, Verdict.UNDECIDED, Verdict.COMMITTED) if one in found)


def _judge_content(after: After, content: Content) -> Verdict:
    if after == "durable":
        return Verdict.COMMITTED if content.is_durable else Verdict.UNDECIDED
    if content.told == "failed":
        return Verdict.FAILED
    enough = {"released"} if after == "released" else {"imported", "released"}
    return Verdict.COMMITTED if content.told in enough else Verdict.UNDECIDED


def is_over(verdicts: Sequence[Verdict], waited: float, *, wait: float, unknown_wait: float) -> bool:
    """Return whether a request is answered now.

    Parameters
    ----------
    verdicts
        Of its instances.
    waited, wait, unknown_wait
        Seconds that it has waited, that it waits at most, and that it waits for instances that were never received.
    """
    if waited >= wait:
        return True
    if Verdict.UNDECIDED in verdicts:
        return False
    return waited >= unknown_wait or not {Verdict.UNKNOWN, Verdict.CONFLICT} & set(verdicts)


def failure_of(verdict: Verdict) -> int | None:
    """Return the Failure Reason of an instance that is answered; None for one that is committed."""
    return _FAILURES.get(verdict)
