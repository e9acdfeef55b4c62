"""Manifests: the files in the output folder of a conversion job, and the counts that the job reported."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from airlock.storage.s3uri import S3Uri

if TYPE_CHECKING:
    from airlock.storage.s3 import S3, ListedObject
    from airlock.storage.workspace import Workspace

CONVERTED, ERRORS = "converted/", "ERROR/"
DRIFT = "driftDetectionPerFileResults/"


class JobOutput:
    """A job's output folder, with its files by their names below it.

    Parameters
    ----------
    s3
        S3 with the output bucket.
    folder
        The job's own folder, ending in ``/``.
    """

    def __init__(self, s3: S3, folder: S3Uri) -> None:
        self.folder = folder
        self._s3 = s3
        self._files = {item.key.removeprefix(folder.key): item for item in s3.list_objects(folder)}

    def find_file(self, below: str, stem: str, *endings: str) -> ListedObject | None:
        """Return the file about an input document; its name may or may not have the document's extension."""
        return next((item for end in endings if (item := self._files.get(f"{below}{stem}{end}"))), None)

    def read_json(self, item: ListedObject | None) -> dict[str, Any]:
        """Return a small JSON object; an empty one if the file is absent or cannot be read."""
        if item is None:
            return {}
        try:
            content = json.loads(self._s3.get(S3Uri(self.folder.bucket, item.key)))
        except (FileNotFoundError, ValueError, RecursionError):
            return {}  # the document is then accounted for without it
        return content if isinstance(content, dict) else {}

    def count_files(self, below: str) -> int:
        """Return the number of files in one of the folders."""
        return sum(name.startswith(below) for name in self._files)


def keep_progress(workspace: Workspace, batch_id: str, properties: dict[str, Any]) -> None:
    """Keep the counts and the profile version of a job that has ended, for `read_progress`."""
    report = properties.get("JobProgressReport") or {}
    workspace.write_json(_progress_name(batch_id), {"profile_version": properties.get("ProfileVersion"), **report})


def read_progress(workspace: Workspace, batch_id: str) -> dict[str, Any]:
    """Return the counts and the profile version that `keep_progress` wrote for a batch's job."""
    return dict(json.loads(workspace.s3.get(workspace.root.join(_progress_name(batch_id)))))


def _progress_name(batch_id: str) -> str:
    return f"jobs/{batch_id}/progress.json"
