"""The ledger's tables. ``migrations`` creates the same tables step by step; a test compares the two.

Column names are plain SQL names; a column of a DICOM attribute has the DICOM keyword as its key in Python, as in the
stages' frames. The most selective column of a key comes first: SQLite has no statistics, and would otherwise choose an
index that begins with the data store to find one instance.

Tables with a row per arrival have no foreign keys: on PostgreSQL the checks would cost as much as the inserts. Columns
of schema 0012 have no CHECK of their values: a later value would be refused by a neighbouring version's constraint.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Integer,
    Table,
    Text,
    UniqueConstraint,
    text,
)

from airlock.ledger.columns import (
    CONCURRENTLY,
    InstanceState,
    MessageState,
    Resolution,
    ResolutionState,
    StowState,
    UtcDateTime,
    metadata,
    one_of,
)
from airlock.records import Gate

if TYPE_CHECKING:
    from collections.abc import Sequence

OPEN_MESSAGE = "state IN ('pending', 'failed')"  # the condition of an index; queries repeat it literally
OPEN_RELEASE = "routes IS NULL OR routes = 0"  # as above
HOLDS = "gate = 'hold'"  # as above
IS_DUE = "due = 1"  # as above


def number_column() -> Column[int]:
    """Return a primary key that the database counts up."""
    return Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True)


def partial_index(name: str, columns: Sequence[str], condition: str, **options: Any) -> Index:
    """Return an index of the rows that meet a condition."""
    return Index(name, *columns, postgresql_where=text(condition), sqlite_where=text(condition), **options)


runs = Table(
    "runs",
    metadata,
    Column("run_key", Text, primary_key=True),
    Column("pipeline", Text, nullable=False),
    Column("run_id", Text, nullable=False),
    Column("window_start", UtcDateTime),
    Column("window_end", UtcDateTime),
    Column("started_at", UtcDateTime, nullable=False),
    Column("ended_at", UtcDateTime),
    Column("state", Text, nullable=False),
    Column("report", Text),  # JSON
    Column("listed_until", UtcDateTime),  # the time up to which its claim has taken what was listed; null before it
    Column("marker", Text),  # digest of the address of the marker that opened its delivery
    Column("marker_at", UtcDateTime),  # its last_modified
    UniqueConstraint("pipeline", "run_id"),
)

# The row of an arrival is its claim: the run in run_key holds it. It has the facts about the object and never changes.
arrivals = Table(
    "arrivals",
    metadata,
    Column("arrival_id", Text, primary_key=True),
    Column("pipeline", Text, primary_key=True),
    Column("run_key", Text, nullable=False),
    Column("bucket", Text, nullable=False),
    Column("key", Text, nullable=False),
    Column("version_id", Text),
    Column("etag", Text, nullable=False),
    Column("size", BigInteger, nullable=False),  # bytes
    Column("last_modified", UtcDateTime, nullable=False),
    Column("site", Text, nullable=False),  # "" where the key has none, and for arrivals claimed before schema 0012
    Column("generation", Integer, nullable=False, server_default="1"),
    Column("carries", Text),  # the arrival_id of the generation whose import counts for this one too
    Column("claimed_at", UtcDateTime, nullable=False),
    Index(None, "run_key"),
    Index("ix_arrivals_key", "key", postgresql_using="hash"),
)

# The verdict of validate on an arrival, and the study of its file. A rerun of validate may replace it.
verdicts = Table(
    "verdicts",
    metadata,
    Column("arrival_id", Text, primary_key=True),
    Column("pipeline", Text, primary_key=True),
    Column("verdict", Text),  # null for arrivals settled before schema 0012
    Column("datastore_id", Text),
    Column("study_key", Text),  # indexed instead of the UID: a file may declare a UID too long for an index
    Column("sop_instance_uid", Text),
    Column("series_instance_uid", Text),
    Column("study_instance_uid", Text),
    Index(None, "study_key"),
)

# Each decision on an arrival is a row; the one with the highest number counts. An arrival with a word is settled.
words = Table(
    "words",
    metadata,
    Column("arrival_id", Text, primary_key=True),
    Column("pipeline", Text, primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),  # from 1
    Column("said_by", Text, nullable=False),  # the key of the run that decided, which need not hold the arrival
    Column("disposition", Text, nullable=False),
    Column("stage", Text),
    Column("reason", Text),
    Column("detail", Text),
    Column("study_key", Text),
    Column("unreleased_instance_uid", Text),  # the SOPInstanceUID, unless released: instances have those
    Column("batch_id", Text),
    Column("job_id", Text),
    Column("image_set_id", Text),
    Column("settled_at", UtcDateTime, nullable=False),
    partial_index("ix_words_unreleased", ["study_key"], "disposition <> 'released'"),
    partial_index(
        "ix_words_instance", ["unreleased_instance_uid"], "disposition <> 'released'", postgresql_using="hash"
    ),
    partial_index("ix_words_reason", ["reason", "pipeline"], "disposition <> 'released'"),
    partial_index(
        "ix_words_group", ["reason", "pipeline", "study_key"], "disposition <> 'released'", info=CONCURRENTLY
    ),
    partial_index("ix_words_again", ["arrival_id", "pipeline", "number"], "number > 1"),
)

# Arrivals that a redrive processes again, each with the arrival of the next generation.
successors = Table(
    "successors",
    metadata,
    Column("arrival_id", Text, primary_key=True),
    Column("pipeline", Text, primary_key=True),
    Column("superseded_by", Text),  # null where the only redrive was released
    Column("superseded_before", Text),  # superseded_by before the last redrive; restored if that redrive is released
    Index("ix_successors_superseded_by", "superseded_by"),
)

# Studies with files that a run has given a verdict on and has not settled, or that may have files in a wave.
in_flight = Table(
    "in_flight",
    metadata,
    Column("study_key", Text, primary_key=True),
    Column("datastore_id", Text, primary_key=True),
    Column("run_key", Text, primary_key=True),
    Column("pipeline", Text, nullable=False),
    Index(None, "run_key"),
)

# Objects that must come again: given back, released from a run, or out of reach when they were to be read.
owed = Table(
    "owed",
    metadata,
    Column("key", Text, primary_key=True),
    Column("bucket", Text, primary_key=True),
    Column("pipeline", Text, primary_key=True),
    Column("arrival_id", Text, nullable=False),  # of the last arrival, which may have been given back
    Column("reason", Text, nullable=False),
    Column("run_key", Text, nullable=False),  # the run that held it last
    Column("since", UtcDateTime, nullable=False),  # when it was owed first
    Column("attempts", Integer, nullable=False),
    Column("next_attempt_at", UtcDateTime, nullable=False),
    Column("asked_at", UtcDateTime),  # when it became overdue and people were told
    Column("taken_by", Text),  # the run that has claimed it again and has not settled it
    Index("ix_owed_next", "pipeline", "next_attempt_at"),
)

# The newest content under each key that had several contents; an older content that returns is a new generation.
newest_contents = Table(
    "newest_contents",
    metadata,
    Column("key", Text, primary_key=True),
    Column("bucket", Text, primary_key=True),
    Column("pipeline", Text, primary_key=True),
    Column("arrival_id", Text, nullable=False),
    Column("last_modified", UtcDateTime, nullable=False),
)

# The studies of which files were accepted below a folder of the source; of each folder at most 101.
folders = Table(
    "folders",
    metadata,
    Column("folder", Text, primary_key=True),  # digest of its bucket and key
    Column("pipeline", Text, primary_key=True),
    Column("study_key", Text, primary_key=True),
    Column("study_instance_uid", Text, nullable=False, key="StudyInstanceUID"),
    Column("pattern", Text, nullable=False),  # of the name of one of these files: its extension, or letters and 9s
)

# FHIR resources that wait for others, a row for each that one waits for; their bytes are below parked/ in the
# workspace. Arrival and line are those that brought the resource first. A resource is due if one of its rows is.
parked = Table(
    "parked",
    metadata,
    Column("arrival_id", Text, primary_key=True),
    Column("line", BigInteger, primary_key=True, autoincrement=False),
    Column("waits_for_type", Text, primary_key=True),
    Column("waits_for_id", Text, primary_key=True),
    Column("pipeline", Text, primary_key=True),
    Column("datastore_id", Text, nullable=False),
    Column("resource_type", Text, nullable=False),
    Column("resource_id", Text, nullable=False),
    Column("content_digest", Text, nullable=False),
    Column("patient", Text),
    Column("site", Text, nullable=False),
    Column("run_key", Text, nullable=False),
    Column("body_uri", Text, nullable=False),
    Column("parked_at", UtcDateTime, nullable=False),
    Column("parked_until", UtcDateTime, nullable=False),
    Column("clock", Text),  # of the file that brought it first
    Column("due", Integer),  # 1 if nothing that it waits for is missing, else null
    Column("taken_as", Text),  # the arrival as which a run has taken it in and not settled it
    Index("ix_parked_target", "waits_for_id", "waits_for_type", "datastore_id"),
    Index("ix_parked_until", "pipeline", "parked_until"),
    Index("ix_parked_resource", "resource_id", "resource_type", "datastore_id"),
    Index("ix_parked_body", "body_uri", postgresql_using="hash"),
    partial_index("ix_parked_due", ["pipeline", "parked_until"], IS_DUE),
    partial_index("ix_parked_taken", ["taken_as"], "taken_as IS NOT NULL"),
)

# A SOP instance has one row per data store, so one owner: the arrival that is to import it or has imported it. On
# PostgreSQL its pages are half empty (migration 0004): no indexed column may change when a claim becomes an import.
instances = Table(
    "instances",
    metadata,
    Column("sop_instance_uid", Text, primary_key=True, key="SOPInstanceUID"),
    Column("datastore_id", Text, primary_key=True),
    Column("series_instance_uid", Text, nullable=False, key="SeriesInstanceUID"),
    Column("study_instance_uid", Text, nullable=False, key="StudyInstanceUID"),
    Column("arrival_id", Text, nullable=False),
    Column("pipeline", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("image_set_id", Text),
    Column("image_set_version", BigInteger),
    Column("batch_id", Text),
    one_of("state", InstanceState),
    Index("ix_instances_arrival", "arrival_id", "pipeline"),
    Index("ix_instances_study", "StudyInstanceUID", "datastore_id"),
)

# A FHIR resource has one row per data store: its last imported content, and the claim of a run on the next content.
resources = Table(
    "resources",
    metadata,
    Column("resource_id", Text, primary_key=True),
    Column("resource_type", Text, primary_key=True),
    Column("datastore_id", Text, primary_key=True),
    Column("content_digest", Text),  # of what was imported; null until then, as all up to batch_id
    Column("run_key", Text),
    Column("pipeline", Text),
    Column("arrival_id", Text),  # null for a resource that Airlock itself has built
    Column("batch_id", Text),
    Column("claimed_by", Text, index=True),
    Column("claimed_digest", Text),
    Column("claimed_arrival_id", Text),
    Column("clock", Text),  # orders what was imported, by the source's declared order
    Column("claimed_clock", Text),
    Column("patient", Text),  # Patient/<id>, of the claimed or imported content
    CheckConstraint("(content_digest IS NULL) = (run_key IS NULL)", name="imported_by_a_run"),
    CheckConstraint("content_digest IS NOT NULL OR claimed_by IS NOT NULL", name="imported_or_claimed"),
    Index("ix_resources_patient", "patient", "datastore_id"),
    Index("ix_resources_arrival", "arrival_id", "pipeline"),
)

# FHIR resources whose last attempt did not end in a release.
open_resources = Table(
    "open_resources",
    metadata,
    Column("resource_id", Text, primary_key=True),
    Column("resource_type", Text, primary_key=True),
    Column("datastore_id", Text, primary_key=True),
    Column("patient", Text),  # Patient/<id>, or file/<arrival id> of a resource without one
    Column("state", Text, nullable=False),
    Column("reason", Text),
    Column("content_digest", Text),
    Column("clock", Text),
    Column("run_key", Text, nullable=False),
    Column("pipeline", Text, nullable=False),
    Column("arrival_id", Text),
    Index(None, "run_key"),
    Index("ix_open_resources_patient", "patient", "datastore_id"),
)

# The grouping elements of the studies and series in a data store, as the first run that imported some of it found them.
studies = Table(
    "studies",
    metadata,
    Column("study_instance_uid", Text, primary_key=True, key="StudyInstanceUID"),
    Column("datastore_id", Text, primary_key=True),
    Column("study_date", Text, key="StudyDate"),
    Column("accession_number", Text, key="AccessionNumber"),
    Column("patient_id", Text, key="PatientID"),
    Column("issuer_of_patient_id", Text, key="IssuerOfPatientID"),
    Column("study_id", Text, key="StudyID"),
    Column("run_key", Text, ForeignKey("runs.run_key"), nullable=False),
)

series = Table(
    "series",
    metadata,
    Column("series_instance_uid", Text, primary_key=True, key="SeriesInstanceUID"),
    Column("datastore_id", Text, primary_key=True),
    Column("study_instance_uid", Text, nullable=False, key="StudyInstanceUID"),
    Column("series_number", Text, key="SeriesNumber"),
    Column("run_key", Text, ForeignKey("runs.run_key"), nullable=False),
)

jobs = Table(
    "jobs",
    metadata,
    Column("batch_id", Text, primary_key=True),
    Column("generation", Integer, primary_key=True, autoincrement=False),
    Column("run_key", Text, ForeignKey("runs.run_key"), nullable=False, index=True),
    Column("client_token", Text, nullable=False),
    Column("job_id", Text),
    Column("status", Text),
    Column("message", Text, nullable=False),
    Column("input_uri", Text, nullable=False),
    Column("output_uri", Text, nullable=False),
    Column("submitted_at", UtcDateTime),
    Column("ended_at", UtcDateTime),
)

# The audits' decisions; people's decisions about holds are in decisions.
# The subject of a gate is a StudyInstanceUID, or "Patient/<id>" or "file/<arrival_id>" in a clinical pipeline; the
# subject_key replaces it where the subject must not be seen.
gates = Table(
    "gates",
    metadata,
    Column("subject", Text, primary_key=True),
    Column("datastore_id", Text, primary_key=True),
    Column("run_key", Text, ForeignKey("runs.run_key"), primary_key=True),
    Column("subject_key", Text, nullable=False),
    Column("gate", Text, nullable=False),
    Column("reason", Text),
    Column("decided_at", UtcDateTime, nullable=False),
    one_of("gate", Gate),
    Index(None, "run_key"),
    partial_index("ix_gates_waiting", ["datastore_id"], "reason IN ('study_in_flight', 'awaiting_declared')"),
    partial_index("ix_gates_held", ["run_key"], HOLDS, info=CONCURRENTLY),
)

outbox = Table(
    "outbox",
    metadata,
    number_column(),
    Column("pipeline", Text, nullable=False),
    Column("destination", Text, nullable=False),
    Column("subject_key", Text, nullable=False),
    Column("run_key", Text, ForeignKey("runs.run_key"), nullable=False, index=True),
    Column("revision", BigInteger, nullable=False),
    Column("content_digest", Text, nullable=False),
    Column("payload_uri", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("next_attempt_at", UtcDateTime, nullable=False),
    Column("leased_by", Text),
    Column("leased_until", UtcDateTime),
    Column("last_error", Text),
    Column("created_at", UtcDateTime, nullable=False),
    Column("queued_at", UtcDateTime, nullable=False),  # as created_at, or the time of the last requeue
    Column("sent_at", UtcDateTime),
    one_of("state", MessageState),
    UniqueConstraint("subject_key", "revision", "destination"),
    partial_index("ix_outbox_open", ("pipeline", "destination", "state", "id"), OPEN_MESSAGE),
)

# The latest released contract of each subject, written by the transaction that settles. The row stays: an older
# revision that is settled again finds it and is not released again.
releases = Table(
    "releases",
    metadata,
    Column("subject_key", Text, primary_key=True),
    Column("pipeline", Text, primary_key=True),
    Column("datastore_id", Text, primary_key=True),
    Column("revision", BigInteger, nullable=False),
    Column("content_digest", Text, nullable=False),
    Column("payload_uri", Text, nullable=False),
    Column("run_key", Text, ForeignKey("runs.run_key"), nullable=False, index=True),
    Column("released_at", UtcDateTime, nullable=False),
    Column("rules", Text),  # digest of the rules that it was matched with last; null before
    Column("routes", Integer),  # number of routes that take it by these rules; null before
    partial_index("ix_releases_open", ("pipeline", "datastore_id", "subject_key"), OPEN_RELEASE),
)

# The latest contract of each subject of which something was imported, released or not.
contracts = Table(
    "contracts",
    metadata,
    Column("subject", Text, primary_key=True),
    Column("datastore_id", Text, primary_key=True),
    Column("subject_key", Text, nullable=False),
    Column("revision", BigInteger, nullable=False),
    Column("content_digest", Text, nullable=False),
    Column("contract", Text, nullable=False),  # JSON, of airlock.study/1 for a study
    Column("run_key", Text, ForeignKey("runs.run_key"), nullable=False),
    Column("patient", Text),  # Patient/<id>, of a study that is published as FHIR
    Index("ix_contracts_patient", "patient", "datastore_id"),
)

# Runs that process settled arrivals of other runs again: who asked for it, why, and the choice.
redrives = Table(
    "redrives",
    metadata,
    Column("run_key", Text, ForeignKey("runs.run_key"), primary_key=True),
    Column("asked_by", Text, nullable=False),
    Column("why", Text, nullable=False),
    Column("choice", Text, nullable=False),  # JSON
    Column("counts", Text, nullable=False),  # JSON
    Column("asked_at", UtcDateTime, nullable=False),
)

# Promotions and deletions of non-primary image sets by redrives.
resolutions = Table(
    "resolutions",
    metadata,
    Column("image_set_id", Text, primary_key=True),
    Column("datastore_id", Text, primary_key=True),
    Column("run_key", Text, ForeignKey("redrives.run_key"), nullable=False, index=True),
    Column("resolution", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("promoted_id", Text),  # the primary image set that holds the instances now
    Column("promoted_version", BigInteger),
    Column("versions_before", Text),  # JSON: versions of the study's primary image sets before the copy was requested
    Column("begun_at", UtcDateTime, nullable=False),
    Column("ended_at", UtcDateTime),
    one_of("resolution", Resolution),
    one_of("state", ResolutionState),
)

# The last answer of a DICOMweb server about each instance that a route sent to it; stored instances are not sent again.
stow_instances = Table(
    "stow_instances",
    metadata,
    Column("sop_instance_uid", Text, primary_key=True, key="SOPInstanceUID"),
    Column("destination", Text, primary_key=True),
    Column("etag", Text, nullable=False),  # of the object that was sent
    Column("state", Text, nullable=False),
    Column("code", Text),  # the server's warning or failure code, or why the object was not sent
    Column("decided_at", UtcDateTime, nullable=False),
    one_of("state", StowState),
)

# How many arrivals of a run, and bytes, have each disposition and reason: the sum of the rows. The transaction that
# writes words adds a row for each difference that it makes, also to the totals of another run.
run_totals = Table(
    "run_totals",
    metadata,
    number_column(),
    Column("run_key", Text, nullable=False),  # the run that holds the arrivals
    Column("pipeline", Text, nullable=False),
    Column("site", Text, nullable=False),
    Column("disposition", Text, nullable=False),
    Column("reason", Text),
    Column("arrivals", BigInteger, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("said_by", Text, nullable=False),  # the run that made the difference
    Column("said_at", UtcDateTime, nullable=False),
    Index(None, "run_key"),
    Index("ix_run_totals_pipeline", "pipeline", "said_at"),
)

# A dated count of the archive, by site and month.
census = Table(
    "census",
    metadata,
    number_column(),
    Column("pipeline", Text, nullable=False),
    Column("source_uri", Text, nullable=False),
    Column("site", Text, nullable=False),
    Column("month", Text, nullable=False),  # YYYY-MM
    Column("objects", BigInteger, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("studies", BigInteger),
    Column("method", Text, nullable=False),  # inventory, listing or plan
    Column("counted_at", UtcDateTime, nullable=False),
    Index("ix_census_pipeline", "pipeline", "counted_at"),
)
