"""The steps of revision 0012 for the tables ``outbox`` and ``releases``; its version calls them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

_OPEN_MESSAGE = "state IN ('pending', 'failed')"
_OPEN_RELEASE = "routes IS NULL OR routes = 0"
_OF_ONE_REVISION = "twin.subject_key = outbox.subject_key AND twin.revision = outbox.revision"


def upgrade_outbox() -> None:
    """Make a message unique by subject, revision and destination, and let a message be skipped."""
    op.drop_index("ix_outbox_subject", "outbox")
    op.drop_index("ix_outbox_pending", "outbox")
    _remove_twins()
    with op.batch_alter_table("outbox") as outbox:
        for others in (["content_digest", "destination"], ["revision", "pipeline", "destination"]):
            outbox.drop_constraint("uq_outbox_subject_key_" + "_".join(others), type_="unique")
        outbox.create_unique_constraint(
            "uq_outbox_subject_key_revision_destination", ["subject_key", "revision", "destination"]
        )
        outbox.drop_constraint("ck_outbox_state_known", type_="check")
        outbox.create_check_constraint("ck_outbox_state_known", "state IN ('pending', 'sent', 'failed', 'skipped')")
    _skip_overtaken()
    columns = ["pipeline", "destination", "state", "id"]
    where = sa.text(_OPEN_MESSAGE)
    op.create_index("ix_outbox_open", "outbox", columns, sqlite_where=where, postgresql_where=where)


def _remove_twins() -> None:
    """Remove all messages but one of a revision that two pipelines queued for one destination; a sent one stays."""
    first = "(twin.state = 'sent') > (outbox.state = 'sent')"
    same = "(twin.state = 'sent') = (outbox.state = 'sent') AND twin.id < outbox.id"
    op.execute(
        f"DELETE FROM outbox WHERE EXISTS (SELECT 1 FROM outbox AS twin WHERE {_OF_ONE_REVISION} "  # noqa: S608
        f"AND twin.destination = outbox.destination AND twin.id <> outbox.id AND ({first} OR {same}))"
    )


def _skip_overtaken() -> None:
    """Skip the pending messages of which the destination has a later revision."""
    op.execute(
        "UPDATE outbox SET state = 'skipped' WHERE state = 'pending' AND EXISTS (SELECT 1 FROM outbox AS later WHERE "
        "later.subject_key = outbox.subject_key AND later.destination = outbox.destination "
        "AND later.revision > outbox.revision AND later.state = 'sent')"
    )


def upgrade_releases() -> None:
    """Make ``unrouted`` the table of all releases; its rows are contracts that no route takes."""
    op.drop_index("ix_unrouted_pipeline", "unrouted")
    op.create_table(
        "releases",
        sa.Column("subject_key", sa.Text(), nullable=False),
        sa.Column("pipeline", sa.Text(), nullable=False),
        sa.Column("datastore_id", sa.Text(), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("content_digest", sa.Text(), nullable=False),
        sa.Column("payload_uri", sa.Text(), nullable=False),
        sa.Column("run_key", sa.Text(), nullable=False),
        sa.Column("released_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("rules", sa.Text()),
        sa.Column("routes", sa.Integer()),
        sa.ForeignKeyConstraint(["run_key"], ["runs.run_key"], name="fk_releases_run_key"),
        sa.PrimaryKeyConstraint("subject_key", "pipeline", "datastore_id", name="pk_releases"),
    )
    kept = "subject_key, pipeline, datastore_id, revision, content_digest, payload_uri, run_key, released_at, rules"
    op.execute(f"INSERT INTO releases ({kept}, routes) SELECT {kept}, 0 FROM unrouted")  # noqa: S608
    op.drop_table("unrouted")
    columns = ["pipeline", "datastore_id", "subject_key"]
    where = sa.text(_OPEN_RELEASE)
    op.create_index("ix_releases_run_key", "releases", ["run_key"])
    op.create_index("ix_releases_open", "releases", columns, sqlite_where=where, postgresql_where=where)
