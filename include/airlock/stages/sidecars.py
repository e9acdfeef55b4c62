"""Sidecars: the files that accompany a delivery and are not part of its data, known by their names."""

from __future__ import annotations

import fnmatch
import re


def sidecar_pattern(names: tuple[str, ...]) -> re.Pattern[str]:
    """Return one expression for the shell patterns of sidecars' names; it expects a name in lower case."""
    return re.compile("|".join(fnmatch.translate(name.lower()) for name in names) or r"(?!)")
