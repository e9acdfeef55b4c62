"""The output folder of an import job: the manifest and the result files (developer guide)."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from localaws.objects import split_uri

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from localaws.faults import Fault
    from localaws.settings import Settings

MANIFEST = "job-output-manifest.json"
SUCCESS = "SUCCESS/success.ndjson"
FAILURE = "FAILURE/failure.ndjson"
WARNING = "WARNING/warning.ndjson"
SERVER_ERROR = "InternalServerException"

WARNING_CODES = {
    "COERCION_OF_DATA_ELEMENTS": (0xB000, "Values of data elements were coerced"),
    "ELEMENTS_DISCARDED": (0xB006, "Data elements that could not be read were discarded"),
    "SOP_CLASS_DATA_MISMATCH": (0xB007, "The data set does not match its SOP class"),
    "TRANSCODING_EXCEPTION": (0xB100, "The pixel data could not be transcoded"),
    "FRAMES_EXTRACTION_FAILURE": (0xB110, "The frames could not be extracted"),
    "FRAME_NUMBER_MISMATCH": (0xB111, "The number of frames differs from NumberOfFrames"),
    "INVALID_OFFSET_TABLE": (0xB112, "The offset table is not valid"),
    "UNSUPPORTED_TRANSFER_SYNTAX": (0xB120, "The transfer syntax is not supported"),
    "INVALID_UID_FORMAT": (0xB201, "A UID has an invalid format"),
    "INVALID_DICOM_VALUE_LENGTH": (0xB202, "A value is longer than its VR allows"),
    "OTHER": (0xBFFF, "Other"),
}
"""Warning reason codes; the decimals that AWS prints for the last three are wrong, the hexadecimal ones are used."""


@dataclass
class Outcome:
    """The outcome of one input file: `image_set_id` for an imported one, else `exception_type` and `message`."""

    key: str
    image_set_id: str | None = None
    image_set_version: int = 0
    is_primary: bool = True
    warnings: list[str] = field(default_factory=list)
    exception_type: str | None = None
    message: str = ""

    def reject(self, exception_type: str, message: str) -> None:
        """Turn this into a failure."""
        self.image_set_id, self.warnings = None, []
        self.exception_type, self.message = exception_type, message

    @property
    def response(self) -> dict[str, Any]:
        """``importResponse`` without its warnings."""
        return {
            "imageSetId": self.image_set_id,
            "imageSetVersion": self.image_set_version,
            "isPrimary": self.is_primary,
        }


@dataclass
class Results:
    """All outcomes of a job, and the image sets that it touched."""

    outcomes: list[Outcome]
    image_sets: list[dict[str, Any]]

    def dump(self) -> str:
        """Return JSON for `load`."""
        return json.dumps(asdict(self))

    @classmethod
    def load(cls, text: str) -> Results:
        """Read what `dump` wrote."""
        body = json.loads(text)
        return cls([Outcome(**outcome) for outcome in body["outcomes"]], body["image_sets"])


def write_manifest(results: Results, job_id: str, datastore_id: str, input_uri: str, folder: str) -> bytes:
    """Return job-output-manifest.json; `folder` is the job's output folder with its trailing slash."""
    failed = [outcome for outcome in results.outcomes if outcome.exception_type]
    server_errors = sum(outcome.exception_type == SERVER_ERROR for outcome in failed)
    summary = {
        "jobId": job_id,
        "datastoreId": datastore_id,
        "inputS3Uri": input_uri,
        "outputS3Uri": folder,
        "successOutputS3Uri": f"{folder}SUCCESS/",
        "failureOutputS3Uri": f"{folder}FAILURE/",
        "warningsOutputS3Uri": f"{folder}WARNING/",
        "numberOfScannedFiles": len(results.outcomes),
        "numberOfImportedFiles": len(results.outcomes) - len(failed),
        "numberOfFilesWithCustomerError": len(failed) - server_errors,
        "numberOfFilesWithServerError": server_errors,
        "numberOfGeneratedImageSets": len(results.image_sets),
        "imageSetsSummary": results.image_sets,
    }
    return json.dumps({"jobSummary": summary}, indent=2).encode()


def write_result_files(
    results: Results, faults: Sequence[Fault], input_uri: str, settings: Settings
) -> Iterator[tuple[str, bytes]]:
    """Yield path and content of each ndjson file that has lines.

    Parameters
    ----------
    results : Results
    faults : sequence of Fault
        ``manifest_partial`` takes lines out.
    input_uri : str
        The prefix with which the job was started.
    settings : Settings
        Whose choices say whether warned files are in success.ndjson too, and how a file is named.
    """
    gaps = [fault for fault in faults if fault.kind == "manifest_partial"]
    outcomes = [outcome for outcome in results.outcomes if not any(gap.touches(outcome.key) for gap in gaps)]
    imported = [outcome for outcome in outcomes if not outcome.exception_type]
    twice = settings.choice("warned_in_success") == "yes"
    files = {
        SUCCESS: ((item, _success(item)) for item in imported if twice or not item.warnings),
        FAILURE: ((item, _failure(item)) for item in outcomes if item.exception_type),
        WARNING: ((item, _warning(item)) for item in imported if item.warnings),
    }
    form = settings.choice("dicom_input_file")
    for path, lines in files.items():
        body = _ndjson({"inputFile": name_input_file(item.key, input_uri, form)} | line for item, line in lines)
        if body:
            yield path, body


def name_input_file(key: str, input_uri: str, form: str) -> str:
    """Return how a line names its file, by the choice ``dicom_input_file``."""
    bucket, prefix = split_uri(input_uri)
    forms = {
        "key": key,
        "relative": key.removeprefix(prefix),
        "uri": f"s3://{bucket}/{key}",
        "percent_encoded": quote(key),
    }
    return forms[form]


def _ndjson(lines: Iterable[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(line) + "\n" for line in lines).encode()


def _success(outcome: Outcome) -> dict[str, Any]:
    return {"importResponse": outcome.response}


def _failure(outcome: Outcome) -> dict[str, Any]:
    exception = {"exceptionType": outcome.exception_type, "message": outcome.message}
    return {"exception": exception}


def _warning(outcome: Outcome) -> dict[str, Any]:
    warnings = [
        {
            "warning_reason_code": WARNING_CODES[name][0],
            "type": name.title().replace("_", ""),
            "message": WARNING_CODES[name][1],
        }
        for name in outcome.warnings
    ]
    return {"importResponse": {**outcome.response, "warnings": warnings}}
