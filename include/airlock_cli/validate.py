"""``airlock validate``: check files of FHIR before they are delivered, by the local check and the store's $validate."""

from __future__ import annotations

import time
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import IO, TYPE_CHECKING, Any

from airlock.pipelines import ClinicalPipeline, ImagingPipeline, ValidationLevel
from airlock_cli import workspaces
from airlock_cli.errors import RequestError, Status
from airlock_cli.show import Table, format_size, say
from airlock_cli.stores import connect_fhir, translate_errors

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from airlock.clinical.check_files import Ask, IssueTable
    from airlock.pipelines import ClinicalParse, HealthLake, Pipeline

SCHEMA = "airlock.validate/1"
IN_FLIGHT = 8
_PIECE = 1024**2  # bytes of a file that are read at once
_EVERY = 5.0  # seconds between two lines of progress


def validate(
    files: Sequence[Path],
    *,
    pipeline: str | None,
    level: ValidationLevel,
    profile: str | None,
    per_second: float,
    outcomes: Path | None,
) -> dict[str, Any]:
    """Check files and return the issues, schema `SCHEMA`; nothing is stored but *outcomes*.

    Parameters
    ----------
    files
        NDJSON, Bundles or single resources, gzip or not.
    pipeline
        The pipeline whose HealthLake data store is asked; without it the only one that pipeline files name.
    level
        strict: the local check, then $validate; structure-only: $validate without the profiles that a resource names;
        minimal: only the local check, and no data store is asked.
    profile
        The profile to ask about, in place of those that a resource names.
    per_second
        The most questions a second.
    outcomes
        A file for the OperationOutcome of each resource with a warning or an error, one a line.

    Raises
    ------
    RequestError
        If a file cannot be read, an option does not fit the level, or it is not clear which data store is asked.
    UnreachableError
        If the data store refuses access or does not answer.
    """
    from airlock.clinical.check_files import FileChecker, IssueTable  # noqa: PLC0415  # polars is slow to import

    if profile is not None and level is not ValidationLevel.STRICT:
        raise RequestError("--profile is what --level strict asks about. Leave one of them out.")
    sizes = {file: _size_of(file) for file in files}
    if outcomes is not None and outcomes.exists() and any(outcomes.samefile(file) for file in files):
        raise RequestError("--outcomes is one of the files to check. Name another file: it would be overwritten.")
    found = IssueTable()
    with ExitStack() as stack:
        settings, ask = stack.enter_context(_open_store(pipeline, level, profile, per_second))
        checker = stack.enter_context(FileChecker(settings, ask, IN_FLIGHT))
        kept = None if outcomes is None else stack.enter_context(_open_outcomes(outcomes))
        progress = _Progress(sum(sizes.values()), found)
        for file, size in sizes.items():
            for checked in checker.check(progress.read(file), str(file), size):
                found.add(checked)
                if kept is not None and checked.is_noted:
                    kept.write(f"{checked.to_json()}\n")
                progress.say()
    counts = {"files": len(files), "resources": found.resources, "with_errors": found.wrong}
    asked = {"level": str(level), "profile": profile, "outcomes": None if outcomes is None else str(outcomes)}
    return {"schema": SCHEMA, **asked, **counts, "issues": found.rows()}


class _Progress:
    """Reads files, and says every few seconds how far that is."""

    def __init__(self, total: int, found: IssueTable) -> None:
        self._total = total
        self._found = found
        self._read = 0
        self._said = time.monotonic()

    def read(self, file: Path) -> Iterator[bytes]:
        """Yield a file's bytes piece by piece."""
        with _translate_file_errors(file), file.open("rb") as opened:
            while piece := opened.read(_PIECE):
                self._read += len(piece)
                yield piece

    def say(self) -> None:
        """Say it if it is time to."""
        now = time.monotonic()
        if now - self._said >= _EVERY:
            self._said = now
            say(
                f"{self._found.resources:,} resources are checked, {self._found.wrong:,} have errors; "
                f"{format_size(self._read)} of {format_size(self._total)} are read."
            )


@contextmanager
def _translate_file_errors(file: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RequestError(f"{file} cannot be read or written ({error.strerror}).") from None


def _size_of(file: Path) -> int:
    with _translate_file_errors(file):
        if not file.is_file():
            raise RequestError(f"{file} is not a file. Name files of FHIR: NDJSON, Bundles or resources.")
        return file.stat().st_size


@contextmanager
def _open_outcomes(path: Path) -> Iterator[IO[str]]:
    with _translate_file_errors(path), path.open("w", encoding="utf-8") as opened:
        yield opened


@contextmanager
def _open_store(
    name: str | None, level: ValidationLevel, profile: str | None, per_second: float
) -> Iterator[tuple[ClinicalParse, Ask | None]]:
    """Yield the limits of files, and the question to the data store; None if it is not asked."""
    from airlock.clinical.check_files import ask_service, without_profiles  # noqa: PLC0415
    from airlock.pipelines import ClinicalParse  # noqa: PLC0415

    if level is ValidationLevel.MINIMAL:
        yield ClinicalParse(), None
        return
    from boto3 import Session  # noqa: PLC0415  # slow to import

    from airlock.storage.requests import RequestMeter  # noqa: PLC0415

    chosen = _find_pipeline(name)
    store = _store_of(chosen)
    assert store is not None  # noqa: S101  # for mypy: `_find_pipeline` has checked it
    with translate_errors(f"Check your AWS credentials, and the region of the pipeline {chosen.name!r}."):
        meter = RequestMeter(per_second)
        fhir = connect_fhir(Session(), store.datastore_id, meter, region_name=store.region_name)
        limits = chosen.parse if isinstance(chosen, ClinicalPipeline) else ClinicalParse()
        if level is ValidationLevel.STRUCTURE_ONLY:
            yield limits, ask_service(lambda body: fhir.validate(without_profiles(body)))
        else:
            yield limits, ask_service(partial(fhir.validate, profile=profile))


def _find_pipeline(name: str | None) -> Pipeline:
    if name is not None:
        known = workspaces.load_named_pipeline(name)
        if _store_of(known) is None:
            raise RequestError(f"Pipeline {name!r} has no HealthLake data store. Name another one.")
        return known
    stores = {store.datastore_id: one for one in workspaces.load_all_pipelines().values() if (store := _store_of(one))}
    if len(stores) != 1:
        names = ", ".join(sorted(one.name for one in stores.values())) or "none"
        raise RequestError(
            f"The pipeline files name {len(stores)} HealthLake data stores. Name a pipeline with --pipeline ({names}), "
            f"or check without a data store: --level minimal"
        )
    return next(iter(stores.values()))


def _store_of(pipeline: Pipeline) -> HealthLake | None:
    return pipeline.healthlake if isinstance(pipeline, ClinicalPipeline | ImagingPipeline) else None


def tables(found: dict[str, Any]) -> Iterator[Table]:
    """Yield the tables of a result: the counts, and the issues by severity."""
    names = ("files", "resources", "with_errors", "level", "profile", "outcomes")
    head = [(name.replace("_", " "), found[name]) for name in names if found[name] is not None]
    yield Table("checked", ("", ""), head)
    columns = ("severity", "source", "code", "text", "resources", "first")
    yield Table("issues", columns, [tuple(issue[name] for name in columns) for issue in found["issues"]])


def status(found: dict[str, Any]) -> Status:
    """Return the exit status: an error in a resource is a problem, a warning is not."""
    return Status.WRONG if found["with_errors"] else Status.OK
