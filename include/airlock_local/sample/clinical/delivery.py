"""The delivery while it is assembled: its files, and the expected disposition of each line."""

import gzip
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from airlock_local.sample.archive import CLEAN, Expected, write_files

Resource = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class SampleUnit(Expected):
    """One line, one Bundle entry or one file as a whole, and its expected disposition.

    Parameters
    ----------
    path
        Of the file, relative to the delivery's folder, with forward slashes.
    line
        Of an NDJSON file, or the entry of a Bundle, from 1; None for a file as a whole.
    resource
        ``Type/id``, where the unit has both.
    """

    path: str
    line: int | None
    resource: str | None


@dataclass(frozen=True)
class Line:
    """The content of one line: a resource, or any text."""

    content: Resource | str
    expected: Expected = CLEAN

    @property
    def text(self) -> str:
        """The line, without its end."""
        return self.content if isinstance(self.content, str) else compact(self.content)


def compact(content: Any) -> str:
    """Return JSON on one line, in UTF-8 rather than escapes."""
    return json.dumps(content, ensure_ascii=False, separators=(",", ":"))


class Delivery:
    """Collects files."""

    def __init__(self) -> None:
        self._contents: dict[str, bytes] = {}
        self._units: list[SampleUnit] = []

    def add_file(self, path: str, data: bytes, expected: Expected | None = None) -> None:
        """Put one file into the delivery; with `expected` it is decided on as a whole.

        Raises
        ------
        ValueError
            Two files have the same path.
        """
        if path in self._contents:
            raise ValueError(f"Two files of the sample delivery have the path {path!r}. Rename one.")
        self._contents[path] = data
        if expected is not None:
            self._expect(path, None, None, expected)

    def add_lines(self, path: str, lines: Iterable[Line]) -> None:
        """Put an NDJSON file into the delivery, gzipped where its name says so."""
        given = list(lines)
        text = "".join(f"{line.text}\n" for line in given).encode()
        self.add_file(path, gzip.compress(text, mtime=0) if path.endswith(".gz") else text)
        for number, line in enumerate(given, start=1):
            self._expect(path, number, line.content, line.expected)

    def add_bundle(self, path: str, kind: str, entries: Iterable[tuple[Resource, Expected]]) -> None:
        """Put a Bundle into the delivery, indented, as interface engines write it."""
        given = list(entries)
        bundle = {"resourceType": "Bundle", "type": kind, "entry": [entry for entry, _ in given]}
        self.add_file(path, json.dumps(bundle, ensure_ascii=False, indent=2).encode())
        for number, (entry, expected) in enumerate(given, start=1):
            self._expect(path, number, entry.get("resource"), expected)

    def _expect(self, path: str, line: int | None, content: Any, expected: Expected) -> None:
        self._units.append(
            SampleUnit(
                trouble=expected.trouble,
                dispositions=expected.dispositions,
                reasons=expected.reasons,
                path=path,
                line=line,
                resource=_name(content) if isinstance(content, dict) else None,
            )
        )

    def write(self, folder: Path) -> list[SampleUnit]:
        """Write all files below `folder` and return the units in the order of files and lines."""
        write_files(folder, self._contents)
        return sorted(self._units, key=lambda unit: (unit.path, unit.line or 0))


def _name(resource: Resource) -> str | None:
    kind, own = resource.get("resourceType"), resource.get("id")
    return f"{kind}/{own}" if kind and own else None
