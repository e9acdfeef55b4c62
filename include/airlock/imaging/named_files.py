"""The studies of unread files by the lists in their delivery: its manifest, and its media directories (DICOMDIR)."""

from __future__ import annotations

import json
import logging
from functools import partial
from typing import TYPE_CHECKING, Any

import polars as pl

from airlock.dicom.directory import MOST_BYTES, read_directory
from airlock.stages.folder_manifests import name_folder, read_folder_manifests
from airlock.stages.receive import DeliveryManifestError, get_manifest
from airlock.storage.refusals import refusal_of
from airlock.storage.s3 import S3Error
from airlock.storage.s3uri import S3Uri

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from airlock.run import Run

_log = logging.getLogger(__name__)
MOST_DIRECTORIES = 1_000  # that an audit reads; each costs a request
NAMED = pl.Schema({"key": pl.String, "StudyInstanceUID": pl.String})


def read_manifest(run: Run) -> pl.DataFrame:
    """Return the files that the delivery manifest names with their studies, as `NAMED`; none without a manifest.

    ``files`` of the manifest has the StudyInstanceUID of each file by its path below the delivery's prefix.
    """
    settings = run.pipeline.receive
    if settings.mode != "manifest":
        return NAMED.to_frame()
    where = run.prefix.join(settings.manifest)
    try:
        files = _find_files(_read(partial(get_manifest, run.s3, where, settings)))
    except DeliveryManifestError as error:  # replaced since receive read it
        _log.warning("The files of the delivery manifest are not read: %s.", error)
        return NAMED.to_frame()
    pairs = [(run.prefix.key + path, uid) for path, uid in files.items()]
    return pl.DataFrame(pairs, schema=NAMED, orient="row")


def read_manifests_beside(run: Run, keys: pl.Series) -> pl.DataFrame:
    """Return the files that the manifests in the folders of these keys name, as `NAMED`, if each folder has one."""
    if run.pipeline.receive.mode != "folder_manifests":
        return NAMED.to_frame()
    folders = keys.to_frame("key").select(name_folder(pl.col("key"))).to_series().unique()
    pairs = [
        (folder + name, uid)
        for folder, content in read_folder_manifests(run, folders.to_list())
        for name, uid in _pick_files(content).items()
    ]
    return pl.DataFrame(pairs, schema=NAMED, orient="row")


def _find_files(body: bytes) -> dict[str, str]:
    """Return what a manifest says of files; nothing if it is not valid: receive has refused it."""
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return _pick_files(content)


def _pick_files(content: Any) -> dict[str, str]:
    files = content.get("files") if isinstance(content, dict) else None
    pairs = files.items() if isinstance(files, dict) else ()
    return {name: uid for name, uid in pairs if isinstance(uid, str) and uid and _is_text(name + uid)}


def _is_text(value: str) -> bool:
    """Return whether a string of a JSON file is text: half of a surrogate pair is valid JSON, and no text."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def read_directories(run: Run, directories: pl.DataFrame) -> Iterator[pl.DataFrame]:
    """Yield the files that media directories name, as `NAMED` with keys in lower case.

    Parameters
    ----------
    run
        The run.
    directories
        ``key`` and ``size`` of the directories; too large ones are not read.
    """
    for key, size in directories.select("key", "size").iter_rows():
        if size > MOST_BYTES:
            _log.warning("A DICOMDIR has more than %d bytes: it is not read.", MOST_BYTES)
            continue
        folder = key[: key.rfind("/") + 1].lower()
        files = read_directory(_read(partial(run.s3.get, S3Uri(run.prefix.bucket, key))))
        yield pl.DataFrame([(folder + path, uid) for path, uid in files.items()], schema=NAMED, orient="row")


def _read(get: Callable[[], bytes]) -> bytes:
    """Return an object's bytes; none if S3 does not give this object.

    Raises
    ------
    S3Error
        If S3 cannot be read at all.
    """
    try:
        return get()
    except FileNotFoundError:
        return b""
    except S3Error as error:
        refusal_of(error)
        return b""
