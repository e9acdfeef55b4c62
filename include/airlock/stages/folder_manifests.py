"""Folder manifests: with ``receive.mode: folder_manifests`` each folder is a delivery, which a manifest in it closes.

A manifest closes what is in its folder and not newer than itself. A sender that adds objects later writes it again.
Runs leave open folders to later runs, so that a study that is still being sent keeps no other one waiting.
"""

from __future__ import annotations

import json
import logging
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import polars as pl

from airlock.stages.receive import DeliveryManifestError, get_manifest
from airlock.storage.refusals import refusal_of
from airlock.storage.s3 import S3Error
from airlock.storage.s3uri import S3Uri
from airlock.storage.spool import FrameFile

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from airlock.pipelines import Pipeline
    from airlock.run import Run

_log = logging.getLogger(__name__)
_UNREAD = "A folder's manifest cannot be read (%s): its studies have no declared number."
_AT_ONCE = 16  # manifests that are read at the same time
_FOLDER, CLOSED = "folder", "closed_at"


def keep_closed(listing: Iterable[pl.DataFrame], manifest: str) -> Iterator[pl.DataFrame]:
    """Yield the objects of a listing that a manifest in their folder closes, and the manifests, with the time of that.

    Parameters
    ----------
    listing
        Frames of ``storage.listing.LISTED``; they are kept on the local disk, since a manifest may follow its objects.
    manifest
        The manifests' name.
    """
    with FrameFile() as aside:
        aside.add_all(listing)
        found = [_find_manifests(rows, manifest) for rows in aside]
        closed = pl.concat(found) if found else None
        for rows in aside:
            assert closed is not None  # noqa: S101  # for mypy: there are rows
            dated = rows.with_columns(name_folder(pl.col("key"))).join(closed, on=_FOLDER, maintain_order="left")
            yield dated.filter(pl.col("last_modified") <= pl.col(CLOSED)).select(*rows.columns, CLOSED)


def name_folder(key: pl.Expr) -> pl.Expr:
    """Return the folder of a key with its slash, "" if it has none."""
    return key.str.extract(r"^((?s:.)*/)").fill_null("").alias(_FOLDER)


def _find_manifests(rows: pl.DataFrame, manifest: str) -> pl.DataFrame:
    folder = pl.col(_FOLDER)
    named = rows.with_columns(name_folder(pl.col("key"))).filter(pl.col("key") == folder + manifest)
    return named.select(folder, pl.col("last_modified").alias(CLOSED))


def read_folder_manifests(run: Run[Pipeline], folders: Collection[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the content of these folders' manifests; those that cannot be read are left out with a line in the log.

    A sender may replace a manifest at any time, and one broken manifest must not stop a run: without it the numbers of
    its studies are unknown, as the contracts say then.

    Raises
    ------
    S3Error
        If S3 cannot be read at all.
    """
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for folder, content in pool.map(lambda one: (one, _read(run, one)), folders):
            if content is not None:
                yield folder, content


def _read(run: Run[Pipeline], folder: str) -> dict[str, Any] | None:
    settings = run.pipeline.receive
    try:
        content = json.loads(get_manifest(run.s3, S3Uri(run.prefix.bucket, folder + settings.manifest), settings))
        json.dumps(content, ensure_ascii=False).encode()  # half of a surrogate pair is valid JSON, and no text
    except FileNotFoundError:  # removed since the folder was listed, or a redriven file of an earlier setting
        return None
    except S3Error as error:  # denied, or archived since
        _log.warning(_UNREAD, refusal_of(error)[1])
        return None
    except (DeliveryManifestError, ValueError, RecursionError) as error:
        _log.warning(_UNREAD, type(error).__name__)
        return None
    return content if isinstance(content, dict) else None
