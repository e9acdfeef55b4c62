"""SOP classes by their names and roots in the dictionary (PS3.6 annex A): which are images, and the family of each."""

from __future__ import annotations

from functools import lru_cache

from pydicom.config import IGNORE
from pydicom.uid import UID

_ROOT = "1.2.840.10008.5.1.4.1.1."  # of the storage SOP classes
# The families besides images, by the roots below that one; the longest root counts.
_FAMILIES = {
    "9.": "waveform",
    "11.": "presentation_state",
    "66": "raw_data",
    "66.": "registration",
    "66.4": "segmentation",
    "66.5": "segmentation",
    "66.6": "other",
    "88.": "structured_report",
    "88.59": "key_object",
    "104.": "encapsulated_document",
    "481.": "radiotherapy",
}


@lru_cache(maxsize=256)
def is_image(sop_class_uid: str) -> bool:
    """Return whether instances of a SOP class are images, which have pixels."""
    return "Image Storage" in _name(sop_class_uid)


@lru_cache(maxsize=256)
def find_family(sop_class_uid: str) -> str | None:
    """Return the family of a SOP class; ``other`` if it has none of them, None if the dictionary does not know it."""
    if _name(sop_class_uid) == sop_class_uid:
        return None
    below = sop_class_uid.removeprefix(_ROOT)
    roots = [root for root in _FAMILIES if below == root or (root.endswith(".") and below.startswith(root))]
    if roots and below != sop_class_uid:
        return _FAMILIES[max(roots, key=len)]
    return "image" if is_image(sop_class_uid) else "other"


def _name(sop_class_uid: str) -> str:
    return UID(sop_class_uid, validation_mode=IGNORE).name
