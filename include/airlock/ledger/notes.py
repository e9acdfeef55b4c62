"""Notes: what people write about a study or patient for each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import insert, select

from airlock.ledger.clock import database_time
from airlock.ledger.database import Store
from airlock.ledger.decision_tables import notes
from airlock.ledger.errors import LedgerError
from airlock.ledger.journal import journaled

if TYPE_CHECKING:
    from collections.abc import Collection
    from datetime import datetime

SCOPE = "notes"
LONGEST = 1_000  # characters
MOST_SHOWN = 50


@dataclass(frozen=True)
class Note:
    """A note about a subject."""

    note: str
    written_by: str
    written_at: datetime


class Notes(Store):
    """The ledger's methods about notes."""

    @journaled()
    def write_note(self, pipeline: str, subject_key: str, note: str, person: str) -> None:
        """Add a note about a subject, which is named by its key.

        Raises
        ------
        LedgerError
            If the note is empty or too long, or nobody wrote it.
        """
        text = note.strip()
        if not text or len(text) > LONGEST or not person.strip():
            raise LedgerError(f"a note needs a person and a text of at most {LONGEST} characters: give both")
        about = {"pipeline": pipeline, "subject": subject_key, "subject_key": subject_key}
        with self._writing(SCOPE) as connection:
            at = database_time(connection)
            connection.execute(insert(notes).values(about | {"note": text, "written_by": person, "written_at": at}))

    def notes_of(self, pipelines: Collection[str], subject_key: str) -> list[Note]:
        """Return the notes about a subject, the latest first, at most `MOST_SHOWN`."""
        statement = (
            select(notes.c.note, notes.c.written_by, notes.c.written_at)
            .where(notes.c.subject == subject_key, notes.c.pipeline.in_(pipelines))
            .order_by(notes.c.id.desc())
            .limit(MOST_SHOWN)
        )
        with self._reading() as connection:
            return [Note(*row) for row in connection.execute(statement)]
