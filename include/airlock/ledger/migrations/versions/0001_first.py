"""The first schema: runs, arrivals, instances, grouping elements, jobs, gates, outbox.

Revision ID: 0001
Revises: nothing
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")  # only an INTEGER key numbers itself there


def upgrade() -> None:
    """Create the tables, those first that others refer to."""
    _runs()
    _arrivals()
    _instances()
    _studies()
    _series()
    _jobs()
    _gates()
    _overrides()
    _outbox()


def _runs() -> None:
    op.create_table(
        "runs",
        sa.Column("run_key", sa.Text(), nullable=False),
        sa.Column("pipeline", sa.Text(), nullable=False),
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("window_start", sa.DateTime(timezone=True)),
        sa.Column("window_end", sa.DateTime(timezone=True)),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True)),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("report", sa.Text()),
        sa.PrimaryKeyConstraint("run_key", name="pk_runs"),
        sa.UniqueConstraint("pipeline", "run_id", name="uq_runs_pipeline_run_id"),
    )


def _arrivals() -> None:
    op.create_table(
        "arrivals",
        sa.Column("arrival_id", sa.Text(), nullable=False),
        sa.Column("pipeline", sa.Text(), nullable=False),
        sa.Column("bucket", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("version_id", sa.Text()),
        sa.Column("etag", sa.Text(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("last_modified", sa.DateTime(timezone=True), nullable=False),
        sa.Column("run_key", sa.Text(), nullable=False),
        sa.Column("claimed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("disposition", sa.Text()),
        sa.Column("stage", sa.Text()),
        sa.Column("reason", sa.Text()),
        sa.Column("detail", sa.Text()),
        sa.Column("sop_instance_uid", sa.Text()),
        sa.Column("series_instance_uid", sa.Text()),
        sa.Column("study_instance_uid", sa.Text()),
        sa.Column("study_key", sa.Text()),
        sa.Column("batch_id", sa.Text()),
        sa.Column("job_id", sa.Text()),
        sa.Column("image_set_id", sa.Text()),
        sa.Column("settled_at", sa.DateTime(timezone=True)),
        sa.CheckConstraint(
            "disposition IN ('released', 'held', 'duplicate', 'quarantined', 'ignored', 'failed')",
            name="ck_arrivals_disposition_known",
        ),
        sa.CheckConstraint("(settled_at IS NULL) = (disposition IS NULL)", name="ck_arrivals_settled_with_a_word"),
        sa.ForeignKeyConstraint(["run_key"], ["runs.run_key"], name="fk_arrivals_run_key"),
        sa.PrimaryKeyConstraint("arrival_id", "pipeline", name="pk_arrivals"),
    )
    op.create_index("ix_arrivals_run_key", "arrivals", ["run_key"])
    op.create_index("ix_arrivals_study_key", "arrivals", ["study_key"])


def _instances() -> None:
    op.create_table(
        "instances",
        sa.Column("sop_instance_uid", sa.Text(), nullable=False),
        sa.Column("datastore_id", sa.Text(), nullable=False),
        sa.Column("series_instance_uid", sa.Text(), nullable=False),
        sa.Column("study_instance_uid", sa.Text(), nullable=False),
        sa.Column("arrival_id", sa.Text(), nullable=False),
        sa.Column("pipeline", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("image_set_id", sa.Text()),
        sa.Column("image_set_version", sa.BigInteger()),
        sa.Column("batch_id", sa.Text()),
        sa.CheckConstraint("state IN ('claimed', 'imported', 'non_primary')", name="ck_instances_state_known"),
        sa.ForeignKeyConstraint(
            ["arrival_id", "pipeline"], ["arrivals.arrival_id", "arrivals.pipeline"], name="fk_instances_arrival_id"
        ),
        sa.PrimaryKeyConstraint("sop_instance_uid", "datastore_id", name="pk_instances"),
    )
    op.create_index("ix_instances_arrival", "instances", ["arrival_id", "pipeline"])
    op.create_index("ix_instances_study", "instances", ["study_instance_uid", "datastore_id"])


def _studies() -> None:
    op.create_table(
        "studies",
        sa.Column("study_instance_uid", sa.Text(), nullable=False),
        sa.Column("datastore_id", sa.Text(), nullable=False),
        sa.Column("study_date", sa.Text()),
        sa.Column("accession_number", sa.Text()),
        sa.Column("patient_id", sa.Text()),
        sa.Column("issuer_of_patient_id", sa.Text()),
        sa.Column("study_id", sa.Text()),
        sa.Column("run_key", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["run_key"], ["runs.run_key"], name="fk_studies_run_key"),
        sa.PrimaryKeyConstraint("study_instance_uid", "datastore_id", name="pk_studies"),
    )


def _series() -> None:
    op.create_table(
        "series",
        sa.Column("series_instance_uid", sa.Text(), nullable=False),
        sa.Column("datastore_id", sa.Text(), nullable=False),
        sa.Column("study_instance_uid", sa.Text(), nullable=False),
        sa.Column("series_number", sa.Text()),
        sa.Column("run_key", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["run_key"], ["runs.run_key"], name="fk_series_run_key"),
        sa.PrimaryKeyConstraint("series_instance_uid", "datastore_id", name="pk_series"),
    )


def _jobs() -> None:
    op.create_table(
        "jobs",
        sa.Column("batch_id", sa.Text(), nullable=False),
        sa.Column("generation", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("run_key", sa.Text(), nullable=False),
        sa.Column("client_token", sa.Text(), nullable=False),
        sa.Column("job_id", sa.Text()),
        sa.Column("status", sa.Text()),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("input_uri", sa.Text(), nullable=False),
        sa.Column("output_uri", sa.Text(), nullable=False),
        sa.Column("submitted_at", sa.DateTime(timezone=True)),
        sa.Column("ended_at", sa.DateTime(timezone=True)),
        sa.ForeignKeyConstraint(["run_key"], ["runs.run_key"], name="fk_jobs_run_key"),
        sa.PrimaryKeyConstraint("batch_id", "generation", name="pk_jobs"),
    )
    op.create_index("ix_jobs_run_key", "jobs", ["run_key"])


def _gates() -> None:
    op.create_table(
        "gates",
        sa.Column("study_instance_uid", sa.Text(), nullable=False),
        sa.Column("datastore_id", sa.Text(), nullable=False),
        sa.Column("run_key", sa.Text(), nullable=False),
        sa.Column("study_key", sa.Text(), nullable=False),
        sa.Column("gate", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text()),
        sa.Column("decided_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("gate IN ('release', 'hold')", name="ck_gates_gate_known"),
        sa.ForeignKeyConstraint(["run_key"], ["runs.run_key"], name="fk_gates_run_key"),
        sa.PrimaryKeyConstraint("study_instance_uid", "datastore_id", "run_key", name="pk_gates"),
    )
    op.create_index("ix_gates_run_key", "gates", ["run_key"])


def _overrides() -> None:
    op.create_table(
        "overrides",
        sa.Column("id", _ID, nullable=False),
        sa.Column("datastore_id", sa.Text(), nullable=False),
        sa.Column("study_instance_uid", sa.Text(), nullable=False),
        sa.Column("run_key", sa.Text(), nullable=False),
        sa.Column("held_reason", sa.Text()),
        sa.Column("overridden_by", sa.Text(), nullable=False),
        sa.Column("override_reason", sa.Text(), nullable=False),
        sa.Column("overridden_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["run_key"], ["runs.run_key"], name="fk_overrides_run_key"),
        sa.PrimaryKeyConstraint("id", name="pk_overrides"),
    )
    op.create_index("ix_overrides_study", "overrides", ["study_instance_uid", "datastore_id"])


def _outbox() -> None:
    op.create_table(
        "outbox",
        sa.Column("id", _ID, nullable=False),
        sa.Column("pipeline", sa.Text(), nullable=False),
        sa.Column("destination", sa.Text(), nullable=False),
        sa.Column("study_key", sa.Text(), nullable=False),
        sa.Column("run_key", sa.Text(), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("content_digest", sa.Text(), nullable=False),
        sa.Column("payload_uri", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("next_attempt_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("leased_by", sa.Text()),
        sa.Column("leased_until", sa.DateTime(timezone=True)),
        sa.Column("last_error", sa.Text()),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("sent_at", sa.DateTime(timezone=True)),
        sa.CheckConstraint("state IN ('pending', 'sent')", name="ck_outbox_state_known"),
        sa.ForeignKeyConstraint(["run_key"], ["runs.run_key"], name="fk_outbox_run_key"),
        sa.PrimaryKeyConstraint("id", name="pk_outbox"),
        sa.UniqueConstraint(
            "study_key", "content_digest", "destination", name="uq_outbox_study_key_content_digest_destination"
        ),
        sa.UniqueConstraint(
            "study_key", "revision", "pipeline", "destination", name="uq_outbox_study_key_revision_pipeline_destination"
        ),
    )
    op.create_index("ix_outbox_pending", "outbox", ["pipeline", "destination", "state"])
    op.create_index("ix_outbox_run_key", "outbox", ["run_key"])
    op.create_index("ix_outbox_study", "outbox", ["study_key", "pipeline"])
