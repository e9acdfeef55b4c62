"""Declarations: the number of instances that a study's source declares, from headers, a manifest or the source's list.

Validate writes the dataset ``declared``, so that audit decides by the same numbers however often it runs: a manifest or
a list may be replaced before.
"""

from __future__ import annotations

import csv
import io
import json
import tempfile
from itertools import chain, islice
from typing import IO, TYPE_CHECKING, Any

import polars as pl

from airlock.records import TIMESTAMP, schema
from airlock.stages.buffer import read_arrivals
from airlock.stages.folder_manifests import name_folder, read_folder_manifests
from airlock.stages.receive import DeliveryManifestError, get_manifest
from airlock.storage.s3uri import S3Uri
from airlock.storage.spool import Spool, partition_hash

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType
    from typing import Self

    from airlock.run import Run

DATASET = "declared"
DECLARED = schema(
    {
        "StudyInstanceUID": pl.String,
        "manifest": pl.Int64,  # by the delivery's manifest or the source's list; null if neither names the study
        "header": pl.Int64,  # the greatest of its headers; null if none declares a number
        "newest": TIMESTAMP,  # last_modified of its newest file; null without a file of it, or if it need not be known
    }
)
_STUDY, _NUMBER = "StudyInstanceUID", "NumberOfStudyRelatedInstances"
_MOST = 10**9  # a greater number is a mistake
_LIST_ROWS = 50_000  # of the source's list, read at a time


class DeclaredListError(ValueError):
    """The source's list of studies cannot be read."""


class Declarations:
    """Gathers the declared numbers of a run's studies on the local disk; a context manager.

    Parameters
    ----------
    run
        The run.
    partitions
        The number of partitions of the rows.
    """

    def __init__(self, run: Run, partitions: int) -> None:
        self._run = run
        self._spool = Spool(pl.col(_STUDY), partitions)
        self._studies: list[pl.Series] = []  # hashes, 8 bytes each: the source's list may have all of an archive

    def __enter__(self) -> Self:
        self._spool.__enter__()
        self._spool.add(DECLARED.to_frame())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._spool.__exit__(kind, error, trace)

    def add_headers(self, rows: pl.DataFrame) -> None:
        """Add the numbers in the headers of arrivals; rows of whole studies."""
        named = rows.filter(pl.col(_STUDY) != "")
        studies = named.group_by(_STUDY).agg(header=_read_number().max(), newest=pl.col("last_modified").max())
        self._studies.append(studies.select(partition_hash(pl.col(_STUDY))).to_series())
        self._add(studies.filter(pl.col("header").is_not_null() | self._waits))

    @property
    def _waits(self) -> bool:
        """Whether studies wait for instances: an earlier run may know a study's number, so all need a newest time."""
        return self._run.pipeline.audit.declared_count.wait_hours > 0

    def write(self) -> None:
        """Read the delivery manifest and the source's list, and write the dataset ``declared``.

        Raises
        ------
        DeliveryManifestError, DeclaredListError
            If one of them is not valid.
        """
        for rows in chain(_read_manifest(self._run), _read_folder_manifests(self._run)):
            self._add(rows)
        known = pl.concat([pl.Series([], dtype=pl.UInt64), *self._studies]).unique()
        for rows in _read_list(self._run):
            self._add(rows.filter(partition_hash(pl.col(_STUDY)).is_in(known.implode())))
        greatest = pl.col("manifest", "header", "newest").max()
        with self._run.workspace.writer(DATASET, DECLARED) as writer:
            for rows in self._spool:
                found = rows.group_by(_STUDY).agg(greatest).sort(_STUDY)
                has_number = pl.col("manifest").is_not_null() | pl.col("header").is_not_null()
                writer.add(found.filter(has_number | self._waits))

    def _add(self, rows: pl.DataFrame) -> None:
        missing = {name: pl.lit(None, kind) for name, kind in DECLARED.items() if name not in rows.columns}
        self._spool.add(rows.with_columns(**missing).select(DECLARED.names()))


def _read_number() -> pl.Expr:
    """Return the greatest whole number among an attribute's values; null if none is one."""
    values = pl.col(_NUMBER).str.split("\\").list.eval(pl.element().str.strip_chars().cast(pl.Int64, strict=False))
    number = values.list.max()
    return pl.when(number.is_between(0, _MOST)).then(number)


def _read_manifest(run: Run) -> Iterator[pl.DataFrame]:
    """Yield the numbers of the delivery manifest, if the pipeline waits for one and it names studies."""
    settings = run.pipeline.receive
    if settings.mode != "manifest":
        return
    try:
        body = get_manifest(run.s3, run.prefix.join(settings.manifest), settings)
    except FileNotFoundError:  # removed since receive read it
        return
    try:
        content = json.loads(body, object_pairs_hook=_name_once)
        studies = {uid.encode().strip().decode(): number for uid, number in content.get("studies", {}).items()}
    except (ValueError, AttributeError, RecursionError):
        studies = {"": None}
    if not all(map(_is_number, studies.values())):
        raise DeliveryManifestError(
            f"delivery manifest {settings.manifest}: studies must name each StudyInstanceUID once, with a whole number "
            f'from 0 to {_MOST}, as in {{"studies": {{"1.2.3": 300}}}}'
        )
    yield pl.DataFrame({_STUDY: list(studies), "manifest": list(studies.values())}, schema=_MANIFEST)


def _read_folder_manifests(run: Run) -> Iterator[pl.DataFrame]:
    """Yield the numbers of the manifests in the folders of the run's files, if each folder is a delivery."""
    if run.pipeline.receive.mode != "folder_manifests":
        return
    folders: set[str] = set()
    for rows in read_arrivals(run):
        folders.update(rows.select(name_folder(pl.col("key"))).to_series().unique())
    pairs = [
        (uid.strip(), number)
        for _, content in read_folder_manifests(run, folders)
        for uid, number in _pick_studies(content).items()
        if _is_number(number)
    ]
    yield pl.DataFrame(pairs, schema=_MANIFEST, orient="row")


def _pick_studies(content: dict[str, Any]) -> dict[str, Any]:
    studies = content.get("studies")
    return studies if isinstance(studies, dict) else {}


_MANIFEST = pl.Schema({_STUDY: pl.String, "manifest": pl.Int64})


def _name_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object whose names differ, spaces aside; of two numbers of one study none is better."""
    found = dict(pairs)
    if len({name.strip() for name in found}) < len(pairs):
        raise ValueError("a name occurs twice")
    return found


def _is_number(value: Any) -> bool:
    return type(value) is int and 0 <= value <= _MOST


def _read_list(run: Run) -> Iterator[pl.DataFrame]:
    """Yield the numbers of the source's list, if the pipeline names one."""
    address = run.pipeline.audit.declared_count.list_uri
    if address is None:
        return
    with tempfile.TemporaryFile(prefix="airlock-") as file:
        try:
            run.s3.get_file(S3Uri.parse(address), file)
        except FileNotFoundError:
            raise DeclaredListError(
                "audit.declared_count.list_uri: the object does not exist. Store it there, or correct the address."
            ) from None
        file.seek(0)
        try:
            yield from _parse_list(file)
        except (csv.Error, UnicodeDecodeError) as error:
            raise _make_list_error(f"it is not a CSV file in UTF-8 ({type(error).__name__})") from None


def _parse_list(file: IO[bytes]) -> Iterator[pl.DataFrame]:
    with io.TextIOWrapper(file, encoding="utf-8-sig", newline="") as text:
        lines = csv.reader(text)
        names = [name.strip() for name in next(lines, [])]
        if not {_STUDY, _NUMBER} <= set(names):
            raise _make_list_error(f"its first line does not name the columns {_STUDY} and {_NUMBER}")
        columns = names.index(_STUDY), names.index(_NUMBER)
        rows = ([line[column] if column < len(line) else "" for column in columns] for line in lines if line)
        while chunk := list(islice(rows, _LIST_ROWS)):
            read = pl.DataFrame(chunk, schema={_STUDY: pl.String, _NUMBER: pl.String}, orient="row")
            counted = read.select(pl.col(_STUDY).str.strip_chars(), manifest=_read_number())
            wrong = counted.filter((pl.col(_STUDY) == "") | pl.col("manifest").is_null()).height
            if wrong:
                raise _make_list_error(f"{wrong} of its lines have no study, or no whole number from 0 to {_MOST}")
            yield counted


def _make_list_error(fault: str) -> DeclaredListError:
    return DeclaredListError(f"audit.declared_count.list_uri: {fault}. Correct the list, then clear validate.")
