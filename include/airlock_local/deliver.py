"""Upload of a delivery to the pipeline's source: the files of a folder, or the sample.

Delivering the same files again changes nothing: an object of the same size and content is not written again.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from airlock_local.progress import say

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from airlock.storage.s3uri import S3Uri

LONGEST_KEY = 1024  # bytes of UTF-8 (Amazon S3 User Guide, "Naming Amazon S3 objects")
IN_ONE_PUT = 5 * 1024**3  # bytes; PutObject takes no more, and only its ETag is the content's MD5
IN_FLIGHT = 8
_TELL_EVERY = 500  # files


class SourceError(ValueError):
    """The source cannot be delivered; the message says why and what to do."""


@dataclass(frozen=True)
class LocalFile:
    """A file to deliver, and its name below the delivery's prefix."""

    path: Path
    name: str
    size: int  # bytes


def prefix_of(folder: Path) -> str:
    """Return a folder's own delivery name: its name in characters that S3 recommends, and a digest of its path."""
    whole = folder.resolve()
    readable = re.sub(r"[^A-Za-z0-9._-]+", "-", whole.name).strip("-.")[:64] or "folder"
    return f"{readable}-{hashlib.sha256(os.fsencode(whole)).hexdigest()[:8]}/"


def files_below(folder: Path) -> list[LocalFile]:
    """Return every file below a folder, including links to files; linked folders are not entered.

    Raises
    ------
    SourceError
        The folder does not exist or holds no file, or a file cannot be read or named in S3.
    """
    if not folder.exists():
        raise SourceError(f"SOURCE={folder} does not exist. Name a folder or an s3:// prefix.")
    if not folder.is_dir():
        raise SourceError(f"SOURCE={folder} is a file. Name the folder that holds it.")
    found: list[LocalFile] = []
    linked = 0
    for directory, folders, names in os.walk(folder, onerror=_refuse):
        here = Path(directory)
        linked += sum((here / name).is_symlink() for name in folders)
        found.extend(_local_file(folder, here / name) for name in sorted(names) if _is_file(here / name))
    if linked:
        say(f"{linked} linked folder(s) below {folder} are not entered. Deliver each with SOURCE=<folder>.")
    if not found:
        raise SourceError(f"SOURCE={folder} holds no file. Name a folder with files.")
    return sorted(found, key=lambda file: file.name)


def _refuse(error: OSError) -> None:
    raise SourceError(f"{error.filename} cannot be read ({error.strerror}). Let your user read it, or move it away.")


def _is_file(path: Path) -> bool:
    # A broken link is reported as a file that cannot be read; sockets, pipes and devices are not files.
    return path.is_file() or path.is_symlink()


def _local_file(folder: Path, path: Path) -> LocalFile:
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
    except FileNotFoundError:
        raise SourceError(f"{path} is a link to a file that does not exist. Remove or correct the link.") from None
    except OSError as error:
        _refuse(error)
        raise
    # Names are bytes to the system; bytes that are not UTF-8 are escaped, so that each file has a key of its own.
    name = os.fsencode(path.relative_to(folder).as_posix()).decode("utf-8", "backslashreplace")
    name = name.replace("\n", "\\n").replace("\r", "\\r")  # some S3 servers refuse them
    if len(name.encode()) > LONGEST_KEY - 200:
        raise SourceError(f"{path} has a name that is too long for an S3 key. Rename it.")
    return LocalFile(path, name, size)


def check_room(files: Sequence[LocalFile]) -> None:
    """Check that the local S3, which keeps objects in memory, can hold a delivery and its staged copy.

    Raises
    ------
    SourceError
        It cannot.
    """
    size, free = sum(file.size for file in files), psutil.virtual_memory().available
    if 2 * size > 0.8 * free:
        raise SourceError(
            f"The files are {size / 1e9:.1f} GB and the local S3 keeps objects in memory, of which {free / 1e9:.1f} GB "
            "are free. Deliver a part of the folder, or put it on S3 and run a pipeline of your own."
        )


def upload(client: Any, files: Sequence[LocalFile], target: S3Uri) -> tuple[int, int]:
    """Upload files below a prefix, without those that are there unchanged.

    Parameters
    ----------
    client
        boto3's S3 client.
    files
        The files to upload.
    target
        The bucket and the prefix, which ends in ``/``.

    Returns
    -------
    tuple of int
        The numbers of objects written and of objects found unchanged.

    Raises
    ------
    SourceError
        A file can no longer be read.
    """
    stored = _list_objects(client, target)
    wanted = [file for file in files if not _is_stored(file, stored.get(target.key + file.name))]
    if len(wanted) > _TELL_EVERY:
        say(f"Delivering {len(wanted)} files, {sum(file.size for file in wanted) / 1e6:.0f} MB")
    with ThreadPoolExecutor(IN_FLIGHT) as pool:
        for done, _ in enumerate(pool.map(lambda file: _upload_file(client, file, target), wanted), start=1):
            if done % _TELL_EVERY == 0:
                say(f"  {done} of {len(wanted)} files")
    return len(wanted), len(files) - len(wanted)


def _list_objects(client: Any, target: S3Uri) -> dict[str, tuple[str, int]]:
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=target.bucket, Prefix=target.key)
    return {item["Key"]: (item["ETag"].strip('"'), item["Size"]) for page in pages for item in page.get("Contents", ())}


def _is_stored(file: LocalFile, listed: tuple[str, int] | None) -> bool:
    if listed is None or listed[1] != file.size:
        return False
    in_parts = "-" in listed[0]  # then the ETag is not an MD5, and only the size can be compared
    return in_parts or listed[0] == _hash_file(file.path)


def _hash_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _upload_file(client: Any, file: LocalFile, target: S3Uri) -> None:
    address = {"Bucket": target.bucket, "Key": target.key + file.name}
    try:
        if file.size > IN_ONE_PUT:
            client.upload_file(str(file.path), **address)
        else:
            with file.path.open("rb") as body:
                client.put_object(**address, Body=body)
    except OSError as error:
        _refuse(error)


def sample_files(folder: Path, kind: str) -> list[LocalFile]:
    """Return the sample delivery for a kind of pipeline, made in ``folder`` at the first call.

    For ``imaging`` it is the generated archive and pydicom's files, for ``clinical`` generated FHIR, for ``ccda``
    generated documents.
    """
    from airlock_local.sample import pydicom_files, write_sample  # noqa: PLC0415  # pydicom takes its time
    from airlock_local.sample.ccda import write_ccda_sample  # noqa: PLC0415
    from airlock_local.sample.clinical import write_clinical_sample  # noqa: PLC0415

    if kind == "clinical":
        return _write_once(folder / kind, write_clinical_sample)
    if kind == "ccda":
        return _write_once(folder / kind, write_ccda_sample)
    real: Iterable[tuple[str, Path]] = pydicom_files()
    foreign = [LocalFile(path, f"pydicom/{name}", path.stat().st_size) for name, path in real]
    generated = _write_once(folder / kind, write_sample)
    return [LocalFile(file.path, f"archive/{file.name}", file.size) for file in generated] + foreign


def _write_once(folder: Path, write: Callable[[Path], object]) -> list[LocalFile]:
    """Return the files of a sample; write them first if this version of the code has not yet."""
    whole = folder / _sample_version()
    if not whole.is_dir():
        say("Writing the sample.")
        unfinished = folder / "unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        write(unfinished)
        unfinished.rename(whole)
    return files_below(whole)


def _sample_version() -> str:
    digest = hashlib.sha256()
    for source in sorted((Path(__file__).parent / "sample").rglob("*.py")):
        digest.update(source.read_bytes())
    return digest.hexdigest()[:12]
