"""Read-back: read some of a run's resources by their ids and compare them with the sent ones.

A search would show what its index has, seconds or minutes late; a read by id shows what is stored.
"""

from __future__ import annotations

import json
import time
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Protocol

import polars as pl

from airlock.clinical.outcomes import IMPORTED
from airlock.clinical.records import BATCHES
from airlock.reasons import Reason
from airlock.storage.lines import split
from airlock.storage.s3uri import S3Uri

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from airlock.storage.s3 import S3

TRIES = 4
VALIDATION_ISSUE = "http://healthlake.amazonaws.com/fhir/StructureDefinition/validation-issue"
_GIVEN_BY_THE_STORE = ("versionId", "lastUpdated")
_LONGEST = 1024**3  # bytes of a line, which Airlock wrote itself


class FhirReader(Protocol):
    """Reads resources of one data store by their ids."""

    def read(self, resource_type: str, resource_id: str) -> dict[str, Any] | None:
        """Return a resource; None if there is none. Decimals are ``decimal.Decimal``, which keeps their digits."""


def read_back(
    reader: FhirReader,
    s3: S3,
    chosen: pl.DataFrame,
    batches: Iterable[pl.DataFrame],
    *,
    pause: Callable[[float], None] = time.sleep,
) -> pl.DataFrame:
    """Return the resources (resource_type, resource_id) of which the data store holds something else than was sent.

    Parameters
    ----------
    reader
        Of the data store.
    s3
        Where the import files are.
    chosen
        Outcomes, of `choose_sample`.
    batches
        Rows of the batches dataset, of all batches, frame by frame.
    pause
        How to wait some seconds, before those that differ are read again.
    """
    units = chosen.select("arrival_id", "line")
    places = [rows.join(units, on=units.columns, how="semi", nulls_equal=True) for rows in batches]
    return find_differing(reader, s3, pl.concat([BATCHES.to_frame(), *places]), pause=pause)


def find_differing(
    reader: FhirReader, s3: S3, places: pl.DataFrame, *, pause: Callable[[float], None] = time.sleep
) -> pl.DataFrame:
    """Return the resources (resource_type, resource_id) that the data store does not hold as they were sent.

    Parameters
    ----------
    reader, s3, pause
        As for `read_back`.
    places
        Rows of the batches dataset.
    """
    for attempt in range(1, TRIES + 1):
        wrong = pl.DataFrame(
            [(one["resourceType"], one["id"]) for one in _sent(s3, places) if not _holds(reader, one)],
            schema={"resource_type": pl.String, "resource_id": pl.String},
            orient="row",
        )
        if wrong.is_empty() or attempt == TRIES:
            break
        places = places.join(wrong, on=wrong.columns, how="semi")
        pause(2.0**attempt)
    return wrong


def choose_sample(outcomes: pl.DataFrame, sample: int) -> pl.DataFrame:
    """Return so many of the imported resources, type by type in turn, in the order of their digests.

    What is not chosen of a part is not chosen of the whole, so that it can be done part by part.
    """
    imported = outcomes.filter(pl.col("outcome").is_in(IMPORTED)).sort("content_digest")
    turn = pl.int_range(pl.len()).over("resource_type")
    return imported.with_columns(turn=turn).sort("turn", "content_digest").head(sample).drop("turn")


def flag_mismatches(outcomes: pl.DataFrame, wrong: pl.DataFrame) -> pl.DataFrame:
    """Mark the outcomes of these resources (resource_type, resource_id) as differing from the data store."""
    found = wrong.unique().with_columns(differs=pl.lit(value=True))
    rows = outcomes.join(found, on=["resource_type", "resource_id"], how="left", maintain_order="left")
    differs = pl.col("differs").fill_null(value=False) & pl.col("outcome").is_in(IMPORTED)
    return rows.with_columns(
        reason=pl.when(differs).then(pl.lit(str(Reason.READ_BACK_MISMATCH))).otherwise("reason"),
        uncertain=pl.col("uncertain") | differs,
    ).drop("differs")


def _sent(s3: S3, places: pl.DataFrame) -> Iterator[dict[str, Any]]:
    """Yield the resources on these lines of the import files."""
    for (bucket, key), rows in places.sort("staged_key").group_by("staged_bucket", "staged_key", maintain_order=True):
        wanted = set(rows["staged_line"])
        for line in split(s3.stream(S3Uri(str(bucket), str(key))), _LONGEST):
            if line.number in wanted and line.text is not None:
                yield json.loads(line.text, parse_float=Decimal)
                wanted.discard(line.number)
            if not wanted:
                break


def _holds(reader: FhirReader, sent: dict[str, Any]) -> bool:
    held = reader.read(sent["resourceType"], sent["id"])
    return held is not None and agrees(sent, held)


def agrees(sent: dict[str, Any], held: dict[str, Any]) -> bool:
    """Return whether a stored resource has the content that was sent.

    What the store may add does not count: its version and time, tags and the like in ``meta``, and the extension by
    which it marks a resource that minimal validation let pass.
    """
    if not _has(held.get("meta"), sent.get("meta")):
        return False
    return _equal(_content(sent), _content(held))


def _content(resource: dict[str, Any]) -> dict[str, Any]:
    content = {name: value for name, value in resource.items() if name != "meta"}
    extensions = content.pop("extension", None)
    if not isinstance(extensions, list):
        return content if extensions is None else content | {"extension": extensions}
    kept = [item for item in extensions if not (isinstance(item, dict) and item.get("url") == VALIDATION_ISSUE)]
    return content | {"extension": kept} if kept else content


def _has(held: object, sent: object) -> bool:
    """Return whether the stored ``meta`` has everything that was sent."""
    if not isinstance(sent, dict) or not isinstance(held, dict):
        return not sent or _equal(sent, held)
    return all(_has_value(held.get(name), value) for name, value in sent.items() if name not in _GIVEN_BY_THE_STORE)


def _has_value(held: object, sent: object) -> bool:
    if isinstance(sent, list) and isinstance(held, list):
        return all(any(_equal(item, other) for other in held) for item in sent)
    return _equal(sent, held)


def _equal(sent: object, held: object) -> bool:
    """Return whether JSON values are equal; numbers by value and precision, whatever their spelling.

    FHIR R4 ("Datatypes", decimal): the precision has a meaning, so 1.10 is not 1.1, and 1e2 is 1E+2 but not 100.
    """
    if isinstance(sent, bool) or isinstance(held, bool):
        return sent is held
    if isinstance(sent, dict) and isinstance(held, dict):
        return sent.keys() == held.keys() and all(_equal(value, held[name]) for name, value in sent.items())
    if isinstance(sent, list) and isinstance(held, list):
        return len(sent) == len(held) and all(map(_equal, sent, held))
    if isinstance(sent, int | Decimal) and isinstance(held, int | Decimal):
        return Decimal(sent).as_tuple() == Decimal(held).as_tuple()
    return sent == held
