"""Sign-offs: people's word that a published version of a conversion profile may be used by a pipeline."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import insert, select

from airlock.ledger.columns import DecisionKind
from airlock.ledger.database import Store
from airlock.ledger.decision_tables import decisions
from airlock.ledger.journal import journaled

if TYPE_CHECKING:
    from datetime import datetime

SCOPE = "sign_offs"


@dataclass(frozen=True)
class SignOff:
    """What a person has seen of a version, and decided."""

    profile_id: str
    profile_version: int
    sample: str  # the documents that were looked at
    coverage: float  # of their conversion, from 0 to 1
    decided_by: str
    why: str
    decided_at: datetime

    @property
    def subject(self) -> str:
        """The version's name in the decision log."""
        return name_version(self.profile_id, self.profile_version)


def name_version(profile_id: str, profile_version: int) -> str:
    """Return the name of a profile's version."""
    return f"{profile_id}/{profile_version}"


class SignOffs(Store):
    """The ledger's methods about sign-offs."""

    @journaled()
    def sign_off(self, pipeline: str, given: SignOff) -> None:
        """Add a sign-off to the decision log."""
        values = {
            "kind": DecisionKind.SIGN_OFF.value,
            "pipeline": pipeline,
            "subject": given.subject,
            "answer": "signed",
            "decided_by": given.decided_by,
            "why": given.why,
            "decided_at": given.decided_at,
            "details": json.dumps({"sample": given.sample, "coverage": given.coverage}),
        }
        with self._writing(SCOPE) as connection:
            connection.execute(insert(decisions).values(values))

    def last_sign_off(self, pipeline: str, profile_id: str, profile_version: int) -> SignOff | None:
        """Return the last sign-off of a version for a pipeline; None if nobody has signed it."""
        statement = (
            select(decisions)
            .where(
                decisions.c.kind == DecisionKind.SIGN_OFF.value,
                decisions.c.subject == name_version(profile_id, profile_version),
                decisions.c.pipeline == pipeline,
            )
            .order_by(decisions.c.id.desc())
            .limit(1)
        )
        with self._reading() as connection:
            row = connection.execute(statement).one_or_none()
        if row is None:
            return None
        seen = json.loads(row.details)
        by = (row.decided_by, row.why, row.decided_at)
        return SignOff(profile_id, profile_version, seen["sample"], seen["coverage"], *by)
