"""Read-back: fetch a share of a run's image sets and compare them with the sent files, instance by instance.

Image sets also answer whether they are primary if a job's result lines do not. Sources: HealthImaging developer guide,
"Getting image set metadata", whose document is gzip-ed JSON; GetImageSet in the API reference.
"""

from __future__ import annotations

import gzip
import json
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import polars as pl
from botocore.exceptions import ClientError

from airlock.imaging.outcomes import says_primary
from airlock.reasons import Reason

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from airlock.imaging.manifests import JobOutput

TRIES = 4
AT_A_TIME = 8  # image sets that are asked at the same time
_NOT_THERE = "ResourceNotFoundException"
NOT_YET = frozenset({"ConflictException", _NOT_THERE, "ThrottlingException"})


class ImageSetReader(Protocol):
    """Reads image sets' metadata: a boto3 ``medical-imaging`` client."""

    def get_image_set_metadata(self, *, datastoreId: str, imageSetId: str) -> dict[str, Any]:  # noqa: N803
        """Return the metadata document in ``imageSetMetadataBlob``."""
        ...

    def get_image_set(self, *, datastoreId: str, imageSetId: str) -> dict[str, Any]:  # noqa: N803
        """Return an image set's properties."""
        ...


def ask_primary(
    imaging: ImageSetReader, datastore_id: str, output: JobOutput, *, pause: Callable[[float], None] = time.sleep
) -> JobOutput:
    """Complete the output of a job none of whose lines says if an image set is primary: the image sets themselves say.

    Parameters
    ----------
    imaging
        Reads the image sets.
    datastore_id
        The data store.
    output
        The job's output. It is returned as it is if a line says so.
    pause
        How to wait some seconds.
    """
    if says_primary(output):
        return output
    names = output.lines["image_set_id"].drop_nulls().unique().sort().to_list()
    ask = partial(_read_is_primary, imaging, datastore_id, pause=pause)
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        answers = dict(zip(names, pool.map(ask, names), strict=True))
    return replace(
        output,
        primary_sets=frozenset(name for name, answer in answers.items() if answer is True),
        non_primary_sets=output.non_primary_sets | {name for name, answer in answers.items() if answer is False},
    )


def _read_is_primary(
    imaging: ImageSetReader, datastore_id: str, image_set: str, *, pause: Callable[[float], None]
) -> bool | None:
    """Return whether an image set is primary; None if it does not exist or does not say."""
    properties = _read(lambda: imaging.get_image_set(datastoreId=datastore_id, imageSetId=image_set), pause)
    answer = properties.get("isPrimary")
    return answer if isinstance(answer, bool) else None


def read_back(
    imaging: ImageSetReader,
    datastore_id: str,
    outcomes: pl.DataFrame,
    frames: pl.DataFrame,
    chosen: Collection[str],
    *,
    pause: Callable[[float], None] = time.sleep,
) -> pl.DataFrame:
    """Mark the outcomes whose image set lacks the instance; one that blocks its study keeps a reason that is graver.

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
    keeps = pl.col("blocks") & (pl.col("reason") != Reason.SERVICE_WARNING)
    mismatch = pl.col("arrival_id").is_in(wrong) & ~keeps
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

    def read() -> dict[str, Any]:
        reply = imaging.get_image_set_metadata(datastoreId=datastore_id, imageSetId=image_set)
        body = reply["imageSetMetadataBlob"].read()
        text = gzip.decompress(body) if body[:2] == b"\x1f\x8b" else body
        return json.loads(text)  # type: ignore[no-any-return]

    return _read(read, pause)


def _read(read: Callable[[], dict[str, Any]], pause: Callable[[float], None]) -> dict[str, Any]:
    """Return what a request answers, repeated while the service is busy; empty if the image set does not exist."""
    for attempt in range(1, TRIES + 1):
        try:
            return read()
        except ClientError as error:
            code = error.response["Error"]["Code"]
            if code not in NOT_YET or (attempt == TRIES and code != _NOT_THERE):
                raise
            if attempt < TRIES:
                pause(2.0**attempt)
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
