"""Objects in a spool."""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING

from airlock_edge.keys import Place
from airlock_edge.part10 import make_header

if TYPE_CHECKING:
    from airlock_edge.spool import Spool


def spool_object(spool: Spool, caller: str, number: int, *, header: bytes | None = None) -> str:
    """Put an object with a number into a spool, and return its file's name; another header makes it no DICOM file."""
    if header is None:
        header = make_header("1.2.840.10008.5.1.4.1.1.2", f"1.2.{number}", "1.2.840.10008.1.2.1")
    content = header + b"%d" % number
    path, file = spool.open_incoming()
    os.write(file, content)
    kept = spool.keep(path, file, Place.of("1.2", hashlib.sha256(content).hexdigest(), caller, "UTC"))
    os.close(file)
    return kept.name
