"""The results of a data-transformation job, and the files of its output folder that sum them up.

AWS shows the names of the files and the keys of the drift reports (HealthLake developer guide, "Data transformation");
the keys of Manifest.json are on none of its pages and are chosen here.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from statistics import fmean
from typing import TYPE_CHECKING, Any

from localaws.healthlake.transformation.convert import CONVERSION

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Mapping, Sequence

MANIFEST = "Manifest.json"
JOB_DRIFT = "jobLevelDriftResult.json"


@dataclass
class FileResult:
    """The outcome of one input file: `error` for one that was not converted, else the counts."""

    key: str
    output: str
    error: str = ""
    resources: int = 0
    resources_with_issues: int = 0
    processed: int = 0
    skipped: dict[str, int] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    @property
    def coverage(self) -> float:
        """Share of the entries with a template that were converted."""
        found = self.processed + sum(self.skipped.values()) + len(self.failed)
        return self.processed / found if found else 1.0

    @property
    def accuracy(self) -> float:
        """Share of the resources in which no issue was found."""
        return 1 - self.resources_with_issues / self.resources if self.resources else 0.0


@dataclass
class Results:
    """The results of the files that were worked on so far."""

    files: list[FileResult] = field(default_factory=list)
    scanned: int = 0

    def dump(self) -> str:
        """Return JSON for `load`."""
        return json.dumps(asdict(self))

    @classmethod
    def load(cls, text: str) -> Results:
        """Read what `dump` wrote."""
        body = json.loads(text)
        return cls([FileResult(**file) for file in body["files"]], body["scanned"])

    @property
    def converted(self) -> list[FileResult]:
        """The files that were converted."""
        return [file for file in self.files if not file.error]

    @property
    def failed(self) -> int:
        """Number of files that were not converted."""
        return len(self.files) - len(self.converted)

    def progress(self) -> dict[str, int]:
        """Return ``JobProgressReport``."""
        return {
            "TotalFilesScanned": self.scanned,
            "TotalFilesConverted": len(self.converted),
            "TotalFilesFailed": self.failed,
            "TotalResourcesGenerated": sum(file.resources for file in self.converted),
        }


def name_output_files(keys: Sequence[str], prefix: str) -> dict[str, str]:
    """Return the name of each input file in the output folders: its path below `prefix`, without ``.xml``.

    All keep their extensions where two files would share a name without.
    """
    above = prefix if prefix.endswith("/") else prefix.rpartition("/")[0]
    paths = {key: key.removeprefix(above).lstrip("/") for key in keys}
    stems = {key: path[:-4] if path.lower().endswith(".xml") else path for key, path in paths.items()}
    return stems if len(set(stems.values())) == len(stems) else paths


def write_error_file(key: str, message: str) -> bytes:
    """Return ERROR/<name>.json."""
    return _document({"inputFile": key, "errorMessage": message})


def write_manifest(results: Results, job: sqlite3.Row, folder: str) -> bytes:
    """Return Manifest.json; `folder` is the job's output folder with its trailing slash."""
    progress = {f"{name[0].lower()}{name[1:]}": value for name, value in results.progress().items()}
    document = {
        "conversion": CONVERSION,
        "jobId": job["id"],
        "profileId": job["profile_id"],
        "profileVersion": job["profile_version"],
        "inputDataConfig": {"s3Uri": job["input_uri"]},
        "outputDataConfig": {"s3Uri": folder, "encryptionKeyID": job["kms_key_id"]},
        **progress,
        "files": [_entry(file) for file in results.files],
    }
    return _document(document)


def _entry(file: FileResult) -> dict[str, Any]:
    if file.error:
        return {"inputFile": file.key, "errorFile": file.output}
    return {
        "inputFile": file.key,
        "outputFile": file.output,
        "numberOfResources": file.resources,
        "numberOfResourcesWithIssues": file.resources_with_issues,
        "numberOfUnmappedEntries": sum(file.skipped.values()),
        "numberOfFailedTemplates": len(file.failed),
    }


def write_file_drift(file: FileResult, issues: Sequence[Mapping[str, str]]) -> bytes:
    """Return driftDetectionPerFileResults/<name>_driftMetrics.json."""
    return _document({**_metrics(file), "validationIssues": list(issues)})


def write_job_drift(results: Results) -> bytes:
    """Return jobLevelDriftResult.json."""
    files = results.converted
    document = {
        "conversion": CONVERSION,
        "avgOverallCoverageRate": fmean(file.coverage for file in files) if files else 0.0,
        "avgResourceAccuracy": fmean(file.accuracy for file in files) if files else 0.0,
        "perFileDrift": [_metrics(file) for file in files],
        "unknownSections": sorted({template for file in files for template in file.skipped}),
        "missingResources": sorted({template for file in files for template in file.failed}),
    }
    return _document(document)


def _metrics(file: FileResult) -> dict[str, Any]:
    return {
        "conversion": CONVERSION,
        "inputFile": file.key,
        "overallCoverageRate": file.coverage,
        "resourceAccuracy": file.accuracy,
        "unknownSections": [{"templateId": name, "count": count} for name, count in file.skipped.items()],
        "missingResources": [{"templateId": name, "reason": reason} for name, reason in file.failed.items()],
    }


def _document(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, indent=2).encode()
