"""Keys of objects on S3, and names of files in the spool: they say nothing about a patient."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Final
from zoneinfo import ZoneInfo

from airlock.records import digest, study_key

if TYPE_CHECKING:
    from typing import Self

NO_STUDY: Final = "no-study"  # in place of a study's hash: the data set has no StudyInstanceUID
_NAME = re.compile(
    r"(?P<date>\d{4}-\d\d-\d\d)_(?P<study>[0-9a-f]{16}|no-study)_(?P<content>[0-9a-f]{32})_(?P<caller>(?:[2-7][0-9a-f]){1,16})\.dcm"
).fullmatch


@dataclass(frozen=True)
class Place:
    """Where an object belongs.

    Attributes
    ----------
    date
        The day on which it was received, ``2026-01-31`` in the edge's time zone.
    study
        `airlock.records.study_key` of its study, or `NO_STUDY`.
    content
        32 hex digits of the stored file's SHA-256: the same file has the same key, another one has another.
    calling_ae_title
        Who sent it.
    """

    date: str
    study: str
    content: str
    calling_ae_title: str

    @classmethod
    def of(cls, study_instance_uid: str, sha256: str, calling_ae_title: str, timezone: str) -> Self:
        """Return the place of an object that was received now."""
        date = f"{datetime.now(ZoneInfo(timezone)):%Y-%m-%d}"
        study = study_key(study_instance_uid) if study_instance_uid else NO_STUDY
        return cls(date, study, digest("object", sha256), calling_ae_title)

    def key(self, prefix: str, site: str) -> str:
        """Return the object's key.

        Parameters
        ----------
        prefix
            The key of ``destination.uri``.
        site
            The site's name.
        """
        return f"{prefix}{site}/{self.date}/{self.study}/{self.content}.dcm"

    @property
    def name(self) -> str:
        """The name of its file in the spool, which says all of the place."""
        return f"{self.date}_{self.study}_{self.content}_{self.calling_ae_title.encode().hex()}.dcm"

    @classmethod
    def parse(cls, name: str) -> Self | None:
        """Return the place of a file in the spool; None for a file that the edge did not name."""
        found = _NAME(name)
        if not found:
            return None
        return cls(found["date"], found["study"], found["content"], bytes.fromhex(found["caller"]).decode())
