"""A sample of invented C-CDA documents, sound and faulty; the same code writes the same files."""

from __future__ import annotations

import gzip
from typing import TYPE_CHECKING

from airlock_local.sample.archive import write_files
from airlock_local.sample.ccda.documents import allergies, ccd, entity_bomb, unmapped_section, vital_signs

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["write_ccda_sample"]


def write_ccda_sample(folder: Path) -> dict[str, str]:
    """Write the sample below `folder`.

    Parameters
    ----------
    folder
        Made where it does not exist.

    Returns
    -------
    dict
        The reason code of each file by its name, "" for a document that is converted.
    """
    documents = {
        "clinic/summary-1.xml": (ccd(1, sections=[vital_signs(1)]), ""),
        "clinic/summary-2.xml": (ccd(2, sections=[allergies(2)]), ""),
        "clinic/summary-3.xml": (ccd(3, problems=3, sections=[vital_signs(3), unmapped_section()]), ""),
        "hospital/summary-4.xml": (ccd(4), ""),
        "hospital/summary-5.xml.gz": (gzip.compress(ccd(5, sections=[vital_signs(5)]), mtime=0), ""),
        "hospital/summary-1 again.xml": (ccd(1, sections=[vital_signs(1)]), "duplicate_same_content"),
        "hospital/corrected-6.xml": (ccd(6), "duplicate_other_content"),
        "hospital/summary-6.xml": (ccd(6, problems=2), "duplicate_other_content"),
        "troubles/bomb.xml": (entity_bomb(), "xml_entity"),
        "troubles/cut.xml": (ccd(7)[:-200], "truncated"),
        "troubles/letter.xml": (b"<letter>no document of CDA</letter>", "not_ccda"),
        "troubles/no id.xml": (ccd(8, document_id=""), "document_without_id"),
        "troubles/empty.xml": (b"", "empty_object"),
        "troubles/readme.txt": (b"left by the exporter\n", "sidecar"),
    }
    write_files(folder, {name: body for name, (body, _) in documents.items()})
    return {name: reason for name, (_, reason) in documents.items()}
