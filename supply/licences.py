"""The licence of an installed package, as its own metadata states it."""

from __future__ import annotations

import re
import sys
from importlib.metadata import distributions
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from importlib.metadata import PackageMetadata
    from pathlib import Path

    from supply.lock import Pin

# Names in the metadata (core metadata: License, Classifier) and their SPDX identifiers (spdx.org/licenses).
_SPDX = {
    "Apache 2.0": "Apache-2.0",
    "Apache License 2.0": "Apache-2.0",
    "Apache License Version 2.0": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "BSD 2-Clause License": "BSD-2-Clause",
    "3-Clause BSD License": "BSD-3-Clause",
    "New BSD": "BSD-3-Clause",
    "ISC License": "ISC",
    "ISC License (ISCL)": "ISC",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "PSFL": "PSF-2.0",
    "Python Software Foundation License": "PSF-2.0",
    "The Unlicense (Unlicense)": "Unlicense",
    "MIT -or- Apache License 2.0": "MIT OR Apache-2.0",
}
# Packages whose metadata is vague or wrong: what the files of the package say.
_READ_BY_HAND = {
    **dict.fromkeys(
        ("amqp", "billiard", "flower", "itsdangerous", "jinja2", "prompt-toolkit", "sqlparse", "vine"), "BSD-3-Clause"
    ),
    **dict.fromkeys(("flask-appbuilder", "flask-session", "flask-sqlalchemy", "flask-wtf", "wtforms"), "BSD-3-Clause"),
    "fhirpathpy": "MIT",
    "libcst": "MIT AND PSF-2.0 AND Apache-2.0",  # parts of its tokenizer are CPython's and parso's
    "polars": "MIT",
    "psycopg2-binary": "LGPL-3.0-or-later",  # with an exception for linking with OpenSSL
    "python-daemon": "Apache-2.0",
    "python-dateutil": "Apache-2.0 OR BSD-3-Clause",
    "text-unidecode": "Artistic-1.0-Perl OR GPL-2.0-or-later",
    "uvloop": "MIT OR Apache-2.0",
}
_VAGUE = {"", "BSD", "BSD License", "UNKNOWN"}
_WORDS = 60  # a longer "licence" is the licence's text


def find_licence(pin: Pin, *folders: Path) -> str | None:
    """Return the licence of a package, or None if this version is not installed here.

    It is an SPDX expression where the metadata has one or names a known licence; else it is the metadata's own words.

    Parameters
    ----------
    pin
        The package.
    *folders
        Where packages are installed besides.
    """
    for found in distributions(name=pin.name, path=[*sys.path, *map(str, folders)]):
        if found.version == pin.version:
            return _READ_BY_HAND.get(pin.name) or _state_licence(found.metadata)
    return None


def _state_licence(metadata: PackageMetadata) -> str:
    expression = metadata.get("License-Expression")
    if expression:
        return str(expression)
    field = str(metadata.get("License") or "").partition("\n")[0].strip()
    classifiers = re.findall(r"License :: (?:OSI Approved :: )?(.+)", "\n".join(metadata.get_all("Classifier") or ()))
    named = [field] if field not in _VAGUE and len(field) <= _WORDS else []
    words = named or classifiers or [field or "not stated"]
    return " OR ".join(_SPDX.get(word, word) for word in words)
