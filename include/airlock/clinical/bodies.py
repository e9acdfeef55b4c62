"""The bodies of resources as they are sent: with the references that had to change."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import polars as pl

from airlock.clinical.records import RESOURCES
from airlock.clinical.resources import dump, load

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airlock.pipelines import Pipeline
    from airlock.run import Run

_KEY = ["arrival_id", "line"]
_REFERENCE = re.compile(r'("reference"\s*:\s*)("(?:[^"\\]|\\.)*")')
_BREAKS = re.compile(r"[\r\n]+")


def read_bodies(run: Run[Pipeline], units: pl.DataFrame, rewrites: pl.DataFrame) -> Iterator[pl.DataFrame]:
    """Yield the units of each chunk with their ``body``, in the units' order within the chunk.

    Parameters
    ----------
    run
        Whose dataset it is.
    units
        Rows with arrival_id, line and chunk.
    rewrites
        `REWRITES`.
    """
    meant: dict[tuple[str, int], dict[str, str]] = {}
    for arrival, line, found, reference in rewrites.iter_rows():
        meant.setdefault((arrival, line), {})[found] = reference
    for (chunk,), rows in units.group_by("chunk", maintain_order=True):
        texts = run.workspace.read(str(chunk), RESOURCES).select(*_KEY, "body")
        joined = rows.join(texts, on=_KEY, how="left", maintain_order="left")
        keys = joined.select(_KEY).iter_rows()
        bodies = [
            _join_lines(rewritten(body, meant[key]) if key in meant else body)
            for key, body in zip(keys, joined["body"], strict=True)
        ]
        yield joined.with_columns(body=pl.Series(bodies, dtype=pl.String))


def rewritten(body: str, meant: dict[str, str]) -> str:
    """Return a resource's text with some references replaced and nothing else changed: decimals keep their digits."""
    left = set(meant)

    def replace(match: re.Match[str]) -> str:
        found = json.loads(match[2])
        left.discard(found)
        return f"{match[1]}{json.dumps(meant[found])}" if found in meant else match[0]

    text = _REFERENCE.sub(replace, body)
    return _rewrite_parsed(body, meant) if left else text  # the name may be spelt with escapes


def _rewrite_parsed(body: str, meant: dict[str, str]) -> str:
    content = load(body.encode())
    waiting: list[Any] = [content]
    is_changed = False
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            reference = value.get("reference")
            if isinstance(reference, str) and reference in meant:
                value["reference"] = meant[reference]
                is_changed = True
            waiting.extend(value.values())
        elif isinstance(value, list):
            waiting.extend(value)
    return dump(content) if is_changed else body


def _join_lines(body: str) -> str:
    """Return a text without line breaks for NDJSON; a line break in JSON is only layout."""
    return _BREAKS.sub(" ", body)
