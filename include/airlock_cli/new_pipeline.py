"""``airlock pipelines new``: a commented pipeline file from the answers to a few questions.

A line that begins with ``#`` and no space is a setting that is switched off; remove the sign to switch it on.
"""

from __future__ import annotations

import re
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING

from airlock.pipelines import PipelineError, load_pipeline
from airlock.pipelines.settings import NAME
from airlock.storage.s3uri import S3Uri
from airlock_cli.errors import RequestError

if TYPE_CHECKING:
    from collections.abc import Mapping

_HEAD = """\
# Check this file with: airlock pipelines check. docs/pipelines.md explains every field.
# Remove the sign before a line that begins with "#" and no space to switch its setting on.
schema: airlock.pipeline/1
name: $name
kind: $kind
#owner: the archive team
#owner_link: https://wiki.example/archive

# Where the archive is. Airlock reads it and never writes to it.
source:
  uri: $source
  aws_conn_id: $connection  # an Airflow connection of the type aws
"""
_IMAGING_SOURCE = """\
  #site_pattern: '/(?P<site>[^/]+)/'  # finds the site in a key, so that numbers are counted by site
"""
_CLINICAL_SOURCE = """\
  order:
    # Which of two contents of a resource is newer: last_updated (meta.lastUpdated), key_date (a date in the key),
    # manifest (of the delivery) or last_modified (of the object). Take the one that your sender keeps right.
    across_keys: last_updated
"""
_RECEIVE = """\

# A delivery is complete when nothing has arrived for so long.
receive:
  mode: quiet_period
  quiet_seconds: $quiet
$arrivals
# Airlock's own files. Give staging a lifecycle rule that deletes batches after some days.
workspace: $workspace
staging:
  uri: $staging
$buckets"""
_ARRIVALS = """
# The stack's queue wakes a run when objects arrive. All pipelines of the stack have this section.
arrivals:
  queue_url: $ArrivalsQueueUrl
  dead_letter_queue_url: $ArrivalsDeadLettersUrl
  aws_conn_id: $connection
  region_name: $region
"""
_READ_COPIES = """
# The archive has a KMS key, under which equal files have different ETags: read and compare copies (docs/copies.md).
validation:
  dedupe: hash
"""
_READ_COPIES_UNDER_A_KEY = """
# For an archive with a KMS key, under which equal files have different ETags: read and compare copies (docs/copies.md).
#validation:
  #dedupe: hash
"""
_BUCKETS_OF_STACK = """
# Every request names the stack's key and account, as the policies of its buckets demand.
buckets:
  others:
    kms_key_id: $key
    expected_bucket_owner: "$account"
"""
_ARCHIVE_OF_OTHERS = """\
  $archive: {kms_key_id: null, expected_bucket_owner: null}  # write the account that owns the archive
"""
_BUCKETS = """
# The key by which all buckets are encrypted, best as an ARN, and the account that owns them.
#buckets:
  #others: {kms_key_id: alias/airlock, expected_bucket_owner: "123456789012"}
"""
_IMAGING = """\
$copies
healthimaging:
  datastore_id: "$datastore"
  data_access_role_arn: $role  # the role that HealthImaging assumes: iam/
  output_uri: $output
  aws_conn_id: $connection
  region_name: $region
"""
_CLINICAL = """\

# contract: strict validation. modernization: structure only. throughput: minimal, then a review: docs/clinical.md
risk:
  workflow: contract
  why: Applications rely on valid FHIR R4 in this data store, so nothing invalid may be imported.

healthlake:
  datastore_id: "$datastore"
  data_access_role_arn: $role  # the role that HealthLake assumes: iam/
  output_uri: $output
$lake_key  aws_conn_id: $connection
  region_name: $region
"""
_TAIL = """\

# Without these lines what is held stays held until somebody repairs it; with them, people are asked.
#audit:
  #on_hold: review
#review:
  #by: the archive team
  #assignees: ["12"]  # ids of Airflow users: docs/review.md

# Where released contracts go. docs/routing.md has queues, topics, buses, webhooks and a PACS.
routes:
  - name: contracts
    uri: $contracts
    aws_conn_id: $connection

schedule:
  cron: "0 2 * * *"
  timezone: UTC
  #import_window: {start: "20:00", end: "06:00", timezone: UTC}  # no import job starts outside these hours

# Counts and reason codes only, no identifiers.
#notify:
  #- events: [failure, brake, sweep]
    #email: [archive-team@hospital.example]
"""
_TEXTS = {
    "imaging": (_HEAD, _IMAGING_SOURCE, _RECEIVE, _IMAGING, _TAIL),
    "clinical": (_HEAD, _CLINICAL_SOURCE, _RECEIVE, _CLINICAL, _TAIL),
}
_SCHEMA = "docs/pipeline.schema.json"
_PLAIN = re.compile(r"[\x21-\x7e]+")  # what needs no quotes of YAML, with no space and no line break


@dataclass(frozen=True)
class Answers:
    """A person's answers.

    Parameters
    ----------
    name, kind
        The pipeline's name, and ``imaging`` or ``clinical``.
    source
        The archive's address, ``s3://bucket/prefix/``.
    own
        The address below which Airlock writes, in another bucket or beside the archive.
    connection, region
        The Airflow connection to the account, and its Region.
    datastore, role
        The data store's id, and the ARN of the role that the service assumes.
    outputs
        The outputs of stacks; their buckets, key and queue take the place of `own`.
    """

    name: str
    kind: str
    source: str
    own: str
    connection: str
    region: str
    datastore: str
    role: str
    outputs: Mapping[str, str] | None = None

    def words(self) -> dict[str, str]:
        """Return what the texts name, each by its word."""
        given = {name: value for name, value in asdict(self).items() if name not in {"outputs", "own"}}
        given["source"] = self.source.rstrip("/") + "/"
        return given | (self._own_places() if self.outputs is None else self._places_of_stack(self.outputs))

    def _own_places(self) -> dict[str, str]:
        own = self.own.rstrip("/") + "/"
        places = {part: f"{own}{part}/" for part in ("workspace", "staging", "output", "contracts")}
        key = "  kms_key_id: alias/airlock  # HealthLake writes no output without a key\n"
        parts = {"lake_key": key, "buckets": _BUCKETS, "copies": _READ_COPIES_UNDER_A_KEY}
        return places | parts | {"quiet": "300", "arrivals": ""}

    def _places_of_stack(self, outputs: Mapping[str, str]) -> dict[str, str]:
        wakes = "ArrivalsQueueUrl" in outputs
        archive, account = S3Uri.parse(self.source).bucket, self.role.split(":")[4]
        named = {"key": outputs["BucketKeyArn"], "archive": archive, "account": account}
        queues = Template(_ARRIVALS).substitute(outputs, **asdict(self)) if wakes else ""
        has_key = "ArchiveKeyArn" in outputs and self.source.startswith(outputs["ArchiveUri"])
        buckets = _BUCKETS_OF_STACK + ("" if has_key else _ARCHIVE_OF_OTHERS)  # the stack made one that has the key
        return {
            "workspace": outputs["WorkspaceUri"],
            "staging": outputs["StagingUri"],
            "output": f"{outputs['OutputUri']}{self.name}/",
            "contracts": f"{outputs['ContractsUri']}{self.name}/",
            "lake_key": "",
            "buckets": Template(buckets).substitute(named),
            "quiet": "10" if wakes else "300",  # a long quiet time may never come where objects come all day
            "arrivals": queues,
            "copies": _READ_COPIES if has_key else _READ_COPIES_UNDER_A_KEY,
        }


def write(folder: Path, answers: Answers) -> Path:
    """Write the pipeline file into a folder, and return its path.

    Raises
    ------
    RequestError
        If an answer is wrong, or the file exists.
    """
    if re.fullmatch(NAME, answers.name) is None:
        raise RequestError(
            f"{answers.name!r} is not a name for a pipeline. Begin with a to z, then a to z, 0 to 9, - and _."
        )
    path = folder / f"{answers.name}.yaml"
    if path.exists():
        raise RequestError(f"{path} exists already. Give another name, or remove it.")
    text = _modeline(folder) + pipeline_text(answers)
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def pipeline_text(answers: Answers) -> str:
    """Return the YAML of a pipeline file.

    Raises
    ------
    RequestError
        If an answer is wrong; the message names its field.
    """
    asked = {name: value for name, value in asdict(answers).items() if name != "outputs"}
    wrong = [name for name, value in asked.items() if not _PLAIN.fullmatch(value)]
    if wrong:
        raise RequestError(f"The answer for {wrong[0]} is empty, or has a space or a character that is not ASCII.")
    text = "".join(Template(part).substitute(answers.words()) for part in _TEXTS[answers.kind])
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"{answers.name}.yaml"
        file.write_text(text, encoding="utf-8")
        try:
            load_pipeline(file)
        except PipelineError as error:
            raise RequestError(str(error)) from None
    return text


def _modeline(folder: Path) -> str:
    """Return the line by which an editor checks the file, if the schema is where this repository has it."""
    return f"# yaml-language-server: $schema=../../{_SCHEMA}\n" if (folder / "../.." / _SCHEMA).is_file() else ""
