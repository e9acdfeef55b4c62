"""Read-back: fetch a share of a run's image sets and compare them with the sent files, instance by instance.

Source: HealthImaging developer guide, "Getting image set metadata"; the document is gzip-ed JSON.
"""

from __future__ import annotations

import gzip
import json
import time
from typing import TYPE_CHECKING, Any, Protocol

import polars as pl
from botocore.exceptions import ClientError

from airlock.reasons import Reason

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

TRIES = 4
_NOT_THERE = "ResourceNotFoundException"
NOT_YET = frozenset({"ConflictException", _NOT_THERE, "ThrottlingException"})


class ImageSetReader(Protocol):
    """Reads image sets' metadata: a boto3 ``medical-imaging`` client."""

    def get_image_set_metadata(self, *, datastoreId: str, imageSetId: str) -> dict[str, Any]:  # noqa: N803
        """Return the metadata document in ``imageSetMetadataBlob``."""
        ...


def read_back(
    imaging: ImageSetReader,
    datastore_id: str,
    outcomes: pl.DataFrame,
    frames: pl.DataFrame,
    chosen: Collection[str],
    *,
    pause: Callable[[float], None] = time.sleep,
) -> pl.DataFrame:
    """Mark the outcomes whose image set lacks the instance; an outcome that blocks its study already keeps its reason.

    Parameters
    ----------
    imaging
        Reads the image sets.
    datastore_id
        The data store.
    outcomes
        Rows of the outcomes dataset with ``blocks``.
    frames
        ``arrival_id`` and ``NumberOfFrames`` as the header has it (null where there is none).
    chosen
        The image sets to read, `choose_image_sets`.
    pause
        How to wait some seconds.
    """
    there = outcomes.filter(pl.col("image_set_id").is_in(list(chosen))).sort("image_set_id", maintain_order=True)
    rows = there.join(frames, on="arrival_id", how="left", maintain_order="left")
    wrong: list[str] = []
    for (image_set,), sent in rows.group_by("image_set_id", maintain_order=True):
        held = _count_frames(_read_metadata(imaging, datastore_id, str(image_set), pause))
        wrong += [row["arrival_id"] for row in sent.iter_rows(named=True) if not _agrees(row, held)]
    mismatch = pl.col("arrival_id").is_in(wrong) & ~pl.col("blocks")
    return outcomes.with_columns(
        reason=pl.when(mismatch).then(pl.lit(str(Reason.READ_BACK_MISMATCH))).otherwise("reason"),
        blocks=pl.col("blocks") | mismatch,
    )


def choose_image_sets(image_sets: Collection[str], fraction: float) -> list[str]:
    """Return a share of the image sets, 0 to 1, the same ones every time: the first by their random ids."""
    return sorted(image_sets)[: round(len(image_sets) * fraction + 0.4999)] if fraction else []


def _read_metadata(
    imaging: ImageSetReader, datastore_id: str, image_set: str, pause: Callable[[float], None]
) -> dict[str, Any]:
    """Return an image set's metadata; empty if it does not exist (any more), which is a finding and not an error."""
    for attempt in range(1, TRIES + 1):
        try:
            reply = imaging.get_image_set_metadata(datastoreId=datastore_id, imageSetId=image_set)
            body = reply["imageSetMetadataBlob"].read()
        except ClientError as error:
            code = error.response["Error"]["Code"]
            if code not in NOT_YET or (attempt == TRIES and code != _NOT_THERE):
                raise
            if attempt == TRIES:
                break
            pause(2.0**attempt)
        else:
            text = gzip.decompress(body) if body[:2] == b"\x1f\x8b" else body
            return json.loads(text)  # type: ignore[no-any-return]
    return {}


def _count_frames(metadata: dict[str, Any]) -> dict[str, int]:
    """Return the number of frames by SOPInstanceUID."""
    return {
        uid: len(instance.get("ImageFrames") or ())
        for series in metadata.get("Study", {}).get("Series", {}).values()
        for uid, instance in series.get("Instances", {}).items()
    }


def _agrees(row: dict[str, Any], held: dict[str, int]) -> bool:
    frames = held.get(row["SOPInstanceUID"])
    if frames is None:
        return False
    declared = (row["NumberOfFrames"] or "").strip()
    # Compared as text: Python refuses to parse a number of some thousand digits, which a hostile file may hold.
    return not declared.isdecimal() or declared.lstrip("0") == (str(frames) if frames else "")
