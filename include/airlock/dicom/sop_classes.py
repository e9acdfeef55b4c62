"""SOP classes of images, known by their names in the dictionary (PS3.6 annex A)."""

from __future__ import annotations

from functools import lru_cache

from pydicom.config import IGNORE
from pydicom.uid import UID


@lru_cache(maxsize=256)
def is_image(sop_class_uid: str) -> bool:
    """Return whether instances of a SOP class are images, which have pixels."""
    return "Image Storage" in UID(sop_class_uid, validation_mode=IGNORE).name
