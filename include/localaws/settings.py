"""Settings of the emulator: defaults, then ``LOCALAWS_*`` of the environment, then flags."""

from __future__ import annotations

import argparse
import dataclasses
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from localaws.choices import all_choices, check_choices
from localaws.throttles import Rate

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

GIB = 1 << 30

AWS_RATES: dict[str, Rate] = {
    "StartDICOMImportJob": Rate(1, 2),
    **dict.fromkeys(("GetDICOMImportJob", "SearchImageSets", "GetImageSet", "ListImageSetVersions"), Rate(25, 50)),
    **dict.fromkeys(
        ("ListDICOMImportJobs", "GetDatastore", "TagResource", "UntagResource", "ListTagsForResource"), Rate(10, 20)
    ),
    "GetImageSetMetadata": Rate(50, 100),
    "GetImageFrame": Rate(1000, 2000),
    **dict.fromkeys(("UpdateImageSetMetadata", "CopyImageSet", "DeleteImageSet"), Rate(0.25, 1)),
    **dict.fromkeys(("CreateDatastore", "DeleteDatastore"), Rate(0.085, 1)),
    "ListDatastores": Rate(5, 10),
    **dict.fromkeys(("StartFHIRImportJob", "StartFHIRExportJob"), Rate(25, 25)),
    **dict.fromkeys(("DescribeFHIRImportJob", "ListFHIRImportJobs"), Rate(10, 10)),
    **dict.fromkeys(("DescribeFHIRExportJob", "ListFHIRExportJobs"), Rate(10, 10)),
    "ValidateResource": Rate(1000, 1000),
}
"""Calls per second and burst as AWS documents them (HealthImaging and HealthLake endpoints and quotas).

HealthLake's older pages allow one StartFHIRImportJob per minute; AWS names no bursts for HealthLake.
"""

LOCAL_RATES: dict[str, Rate] = dict.fromkeys(("StartDICOMImportJob", "StartFHIRImportJob"), Rate(20, 40))
"""The default rate: low enough to notice a runaway loop, too high to slow down a local run."""

LENGTH_LIMITS: dict[str, int] = {
    **dict.fromkeys(("PatientName", "PatientID", "StudyInstanceUID", "StudyID", "StudyDescription"), 256),
    **dict.fromkeys(("AccessionNumber", "SOPInstanceUID", "SeriesInstanceUID"), 256),
    "PatientBirthDate": 18,
    "StudyDate": 18,
    "StudyTime": 28,
    "PatientSex": 16,
}
"""Longest accepted text per attribute, in characters (HealthImaging element constraints)."""


@dataclass(frozen=True)
class Seed:
    """A data store or profile that is made at start if it does not exist: ``<32 characters>:<name>``."""

    id: str
    name: str

    @classmethod
    def read(cls, text: str) -> Seed:
        """Parse ``id:name``; the name may be left out."""
        identifier, _, name = text.partition(":")
        if not re.fullmatch("[0-9a-z]{32}", identifier):
            raise ValueError(f"{text!r} has no identifier: write 32 characters of 0-9 and a-z, then ':' and a name")
        return cls(identifier, name or identifier)


def _hex_seeds(text: str) -> tuple[Seed, ...]:
    seeds = _seeds(text)
    for seed in seeds:
        if not re.fullmatch("[0-9a-f]{32}", seed.id):
            raise ValueError(f"{seed.id!r} is not an identifier of HealthLake: write 32 hexadecimal digits")
    return seeds


def _pairs(text: str) -> list[tuple[str, str]]:
    return [(name.strip(), value) for name, _, value in (part.partition("=") for part in text.split(",")) if name]


def _rates(text: str) -> dict[str, Rate]:
    return {name: Rate.read(value) for name, value in _pairs(text)}


def _lengths(text: str) -> dict[str, int]:
    return {name: int(value) for name, value in _pairs(text)}


def _choices(text: str) -> dict[str, str]:
    answers = dict(_pairs(text))
    check_choices(answers)
    return answers


def _seeds(text: str) -> tuple[Seed, ...]:
    return tuple(Seed.read(part) for part in text.split(",") if part)


def _names(text: str) -> tuple[str, ...]:
    return tuple(part.strip().lower() for part in text.split(",") if part.strip())


def _flag(text: str) -> bool:
    if text.lower() not in {"true", "false", "1", "0"}:
        raise ValueError(f"{text!r} is neither true nor false")
    return text.lower() in {"true", "1"}


def _read_by(read: Callable[[str], Any], text: str) -> dict[str, Any]:
    """Return a field's metadata: how its text is read, and its line of ``--help``."""
    return {"read": read, "help": text}


@dataclass(frozen=True)
class Settings:
    """Everything that can be set; each field is a flag (``--max-files-per-job``) and ``LOCALAWS_MAX_FILES_PER_JOB``."""

    host: str = field(
        default="127.0.0.1", metadata=_read_by(str, "address to listen on; anything but loopback is warned about")
    )
    port: int = field(default=4567, metadata=_read_by(int, "TCP port; 0 takes a free one"))
    public_url: str | None = field(
        default=None,
        metadata=_read_by(
            str, "address that clients reach it at, in data store endpoints; http://<host>:<port> if unset"
        ),
    )
    allowed_host: tuple[str, ...] = field(
        default=(), metadata=_read_by(_names, "name that the Host header may have besides loopback's; repeatable")
    )
    state: Path = field(
        default=Path("localaws.db"), metadata=_read_by(Path, "SQLite file; pixel data is in a folder beside it")
    )
    region: str = field(default="us-east-1", metadata=_read_by(str, "region in ARNs, events and S3 requests"))
    account: str = field(
        default="123456789012", metadata=_read_by(str, "account id in ARNs and events (moto's by default)")
    )
    s3_endpoint: str | None = field(
        default=None, metadata=_read_by(str, "S3 endpoint that jobs read from and write to; AWS itself if unset")
    )
    events_endpoint: str | None = field(
        default=None, metadata=_read_by(str, "EventBridge endpoint that gets the events; none are sent if unset")
    )
    event_bus: str = field(default="default", metadata=_read_by(str, "name of the event bus"))
    datastore: tuple[Seed, ...] = field(
        default=(), metadata=_read_by(_seeds, "data store to make at start, <32 characters>:<name>; repeatable")
    )
    healthlake_datastore: tuple[Seed, ...] = field(
        default=(),
        metadata=_read_by(_hex_seeds, "HealthLake data store to make at start, <32 hex digits>:<name>; repeatable"),
    )
    transformation_profile: tuple[Seed, ...] = field(
        default=(),
        metadata=_read_by(
            _hex_seeds, "C-CDA profile to make and publish at start as version 1, <32 hex digits>:<name>; repeatable"
        ),
    )

    submitted_seconds: float = field(default=0.2, metadata=_read_by(float, "how long a job stays SUBMITTED"))
    seconds_per_file: float = field(
        default=0.0, metadata=_read_by(float, "added to a job's IN_PROGRESS time for each input file")
    )
    change_seconds: float = field(
        default=0.2, metadata=_read_by(float, "how long data stores and image sets take to change")
    )
    assumed_image_set_files: int = field(
        default=0,
        metadata=_read_by(
            int, "assume that so many files in the order of their keys are one image set, and read none; 0: read each"
        ),
    )
    jobs_at_once: int = field(
        default=4, metadata=_read_by(int, "jobs worked on at the same time; the others wait as SUBMITTED")
    )
    readers: int = field(default=8, metadata=_read_by(int, "objects that one job reads at the same time"))

    max_files_per_job: int = field(default=5000, metadata=_read_by(int, "more input files: the job fails"))
    max_bytes_per_job: int = field(default=10 * GIB, metadata=_read_by(int, "more input bytes: the job fails"))
    max_file_bytes: int = field(default=4 * GIB, metadata=_read_by(int, "a larger file is rejected"))
    max_folders_per_job: int = field(default=10_000, metadata=_read_by(int, "more nested folders: the job fails"))
    max_jobs_per_datastore: int = field(
        default=100, metadata=_read_by(int, "more unfinished jobs: StartDICOMImportJob answers 402")
    )
    max_datastores: int = field(default=100, metadata=_read_by(int, "more data stores: CreateDatastore answers 402"))
    max_frames_per_copy: int = field(default=1000, metadata=_read_by(int, "more frames: CopyImageSet answers 402"))
    length_limits: dict[str, int] = field(
        default_factory=dict,
        metadata=_read_by(
            _lengths, "longest text per attribute, StudyID=16,...; replaces single entries of the built-in table"
        ),
    )
    throttles: dict[str, Rate] = field(
        default_factory=dict,
        metadata=_read_by(
            _rates, "calls per second and burst, StartDICOMImportJob=1:2,...; replaces single entries of the preset"
        ),
    )
    aws_quotas: bool = field(default=False, metadata=_read_by(_flag, "throttle at the rates that AWS documents"))

    choices: dict[str, str] = field(
        default_factory=dict,
        metadata=_read_by(_choices, "what to do where AWS is silent, output_uri=as_given,...; see choices.json"),
    )

    max_fhir_files_per_job: int = field(default=10_000, metadata=_read_by(int, "more input files: the import fails"))
    max_fhir_bytes_per_job: int = field(
        default=5000 * GIB, metadata=_read_by(int, "more input bytes: the import fails")
    )
    max_fhir_file_bytes: int = field(default=50 * GIB, metadata=_read_by(int, "a larger file is not read"))
    max_resource_bytes: int = field(default=10_000_000, metadata=_read_by(int, "a longer line is a customer error"))
    max_queued_imports: int = field(
        default=25, metadata=_read_by(int, "more waiting imports per data store: StartFHIRImportJob is refused")
    )
    max_batch_entries: int = field(default=500, metadata=_read_by(int, "most entries of a batch Bundle"))
    max_transaction_entries: int = field(
        default=100, metadata=_read_by(int, "most entries of a transaction Bundle that is answered at once")
    )
    max_async_entries: int = field(
        default=500, metadata=_read_by(int, "most entries of a transaction Bundle with Prefer: respond-async")
    )
    image_set_search_lag: float = field(
        default=0.0,
        metadata=_read_by(float, "seconds until SearchImageSets finds a new image set and loses a deleted one"),
    )
    search_lag: float = field(
        default=0.0, metadata=_read_by(float, "seconds until a FHIR search finds what was written")
    )
    export_resources_per_file: int = field(
        default=10_000, metadata=_read_by(int, "most resources in one file of an export")
    )

    max_profiles: int = field(
        default=20,
        metadata=_read_by(int, "more data-transformation profiles: CreateDataTransformationProfile is refused"),
    )
    max_versions_per_profile: int = field(
        default=99, metadata=_read_by(int, "more publications of a profile are refused; the model ends at 99")
    )
    max_ccda_bytes_per_job: int = field(
        default=GIB, metadata=_read_by(int, "more input bytes: the data transformation job fails")
    )
    max_ccda_document_bytes: int = field(
        default=10 << 20, metadata=_read_by(int, "a larger C-CDA document gets an error file")
    )

    def __post_init__(self) -> None:
        check_choices(self.choices)

    @property
    def base_url(self) -> str:
        """The address that clients reach the emulator at, without a slash at its end."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return (self.public_url or f"http://{host}:{self.port}").rstrip("/")

    def rates(self) -> dict[str, Rate]:
        """Return the throttle of each operation that has one."""
        return {**(AWS_RATES if self.aws_quotas else LOCAL_RATES), **self.throttles}

    def choice(self, identifier: str) -> str:
        """Return the answer that applies to a choice of ``choices.json``."""
        return self.choices.get(identifier, all_choices()[identifier].default)

    def limits(self) -> dict[str, int]:
        """Return the length limit of each attribute that has one."""
        return {**LENGTH_LIMITS, **self.length_limits}


def read_settings(arguments: Sequence[str], environment: Mapping[str, str]) -> Settings:
    """Read flags and environment.

    Parameters
    ----------
    arguments : sequence of str
        The command line, without the program's name; wins over the environment.
    environment : mapping
        Looked at for ``LOCALAWS_<FIELD>``.

    Raises
    ------
    SystemExit
        A flag or variable that cannot be read; the message names it.
    """
    parser = argparse.ArgumentParser(
        prog="localaws", description="Local emulator of AWS HealthImaging and AWS HealthLake."
    )
    for item in dataclasses.fields(Settings):
        _add_flag(parser, item)
    given = {name: value for name, value in vars(parser.parse_args(arguments)).items() if value is not None}
    values: dict[str, Any] = {}
    for item in dataclasses.fields(Settings):
        variable = f"LOCALAWS_{item.name.upper()}"
        text = given.get(item.name, environment.get(variable))
        if text is not None:
            values[item.name] = _read(parser, item, text, variable)
    return Settings(**values)


def _add_flag(parser: argparse.ArgumentParser, item: dataclasses.Field[Any]) -> None:
    flag, text = f"--{item.name.replace('_', '-')}", item.metadata["help"]
    default = "" if item.default in (None, (), dataclasses.MISSING) else f" (default {item.default})"
    if item.metadata["read"] is _flag:
        parser.add_argument(flag, nargs="?", const="true", metavar="true|false", help=text + default)
    elif item.metadata["read"] in (_seeds, _hex_seeds, _names, _rates, _lengths, _choices):
        parser.add_argument(flag, action="append", metavar="...", help=text + default)
    else:
        parser.add_argument(flag, help=text + default)


def _read(parser: argparse.ArgumentParser, item: dataclasses.Field[Any], text: str | list[str], variable: str) -> Any:
    joined = ",".join(text) if isinstance(text, list) else text
    try:
        return item.metadata["read"](joined)
    except ValueError as error:
        parser.error(f"--{item.name.replace('_', '-')} (or {variable}): {error}")
