"""Gates, contracts and messages of any subject, not only of studies; the FHIR resources of each data store.

Revision ID: 0003
Revises: 0002
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Rename what named a study, keeping all rows, and create the table of resources."""
    _rename("gates", study_instance_uid="subject", study_key="subject_key")
    _rename("contracts", study_instance_uid="subject", study_key="subject_key")
    op.add_column("contracts", sa.Column("patient", sa.Text()))
    op.create_index("ix_contracts_patient", "contracts", ["patient", "datastore_id"])
    _rename("overrides", study_instance_uid="subject")
    op.drop_index("ix_overrides_study", "overrides")
    op.create_index("ix_overrides_subject", "overrides", ["subject", "datastore_id"])
    _outbox()
    _resources()


def _rename(table: str, **columns: str) -> None:
    for name, new_name in columns.items():
        op.execute(f"ALTER TABLE {table} RENAME COLUMN {name} TO {new_name}")


def _outbox() -> None:
    """Rename the column and the constraints that are named after it, for which SQLite needs a new table."""
    op.drop_index("ix_outbox_study", "outbox")
    _rename("outbox", study_key="subject_key")
    with op.batch_alter_table("outbox") as outbox:
        for others in (["content_digest", "destination"], ["revision", "pipeline", "destination"]):
            name = "_".join(others)
            outbox.drop_constraint(f"uq_outbox_study_key_{name}", type_="unique")
            outbox.create_unique_constraint(f"uq_outbox_subject_key_{name}", ["subject_key", *others])
    op.create_index("ix_outbox_subject", "outbox", ["subject_key", "pipeline"])


def _resources() -> None:
    op.create_table(
        "resources",
        sa.Column("resource_id", sa.Text(), nullable=False),
        sa.Column("resource_type", sa.Text(), nullable=False),
        sa.Column("datastore_id", sa.Text(), nullable=False),
        sa.Column("content_digest", sa.Text()),
        sa.Column("run_key", sa.Text()),
        sa.Column("pipeline", sa.Text()),
        sa.Column("arrival_id", sa.Text()),
        sa.Column("batch_id", sa.Text()),
        sa.Column("claimed_by", sa.Text()),
        sa.Column("claimed_digest", sa.Text()),
        sa.Column("claimed_arrival_id", sa.Text()),
        sa.CheckConstraint("(content_digest IS NULL) = (run_key IS NULL)", name="imported_by_a_run"),
        sa.CheckConstraint("content_digest IS NOT NULL OR claimed_by IS NOT NULL", name="imported_or_claimed"),
        sa.ForeignKeyConstraint(["run_key"], ["runs.run_key"], name="fk_resources_run_key"),
        sa.ForeignKeyConstraint(["claimed_by"], ["runs.run_key"], name="fk_resources_claimed_by"),
        sa.ForeignKeyConstraint(
            ["arrival_id", "pipeline"], ["arrivals.arrival_id", "arrivals.pipeline"], name="fk_resources_arrival_id"
        ),
        sa.PrimaryKeyConstraint("resource_id", "resource_type", "datastore_id", name="pk_resources"),
    )
    op.create_index("ix_resources_claimed_by", "resources", ["claimed_by"])
    op.create_index("ix_resources_arrival", "resources", ["arrival_id", "pipeline"])
