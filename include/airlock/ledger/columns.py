"""The values and types of the ledger's columns."""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from sqlalchemy import CheckConstraint, DateTime, MetaData
from sqlalchemy.types import TypeDecorator

if TYPE_CHECKING:
    from sqlalchemy.engine.interfaces import Dialect

CONCURRENTLY: dict[str, Any] = {"airlock_concurrently": True}  # the info of an index that `large_indexes` builds


class InstanceState(StrEnum):
    """The state of a SOP instance's import into a data store by the arrival that owns it."""

    CLAIMED = "claimed"
    IMPORTED = "imported"
    NON_PRIMARY = "non_primary"


class MessageState(StrEnum):
    """The state of a message of the outbox."""

    PENDING = "pending"
    SENT = "sent"
    FAILED = "failed"  # given up, until somebody queues it again
    SKIPPED = "skipped"  # not sent, since a later revision took its place


class OpenState(StrEnum):
    """Why a FHIR resource is open: the last attempt to bring it did not end in a release."""

    DOUBTFUL = "doubtful"  # nobody knows what the data store has
    HELD = "held"  # stored, and waits
    REFUSED = "refused"  # by the service
    STOPPED = "stopped"  # before import


class StowState(StrEnum):
    """Whether a DICOMweb server has stored an instance, by its own answer."""

    STORED = "stored"
    REFUSED = "refused"


class Resolution(StrEnum):
    """The action that a person chose for a non-primary image set."""

    PROMOTE = "promote"
    DELETE = "delete"


class ResolutionState(StrEnum):
    """The progress of a resolution; each step is recorded before its request to the service."""

    BEGUN = "begun"
    COPYING = "copying"  # CopyImageSet may have been requested
    DELETING = "deleting"  # DeleteImageSet may have been requested
    DONE = "done"


class DecisionKind(StrEnum):
    """What a person decided on."""

    OVERRIDE = "override"  # the hold of a subject
    BRAKE = "brake"  # the stop of a run whose numbers are absurd
    IDENTITY = "identity"  # whose study it is
    SIGN_OFF = "sign_off"  # a version of a profile or mapping
    ADOPT = "adopt"  # a data store that others filled
    FORGET = "forget"  # what was removed from a data store
    SWEEP = "sweep"  # objects that a sweep named and did not take in
    REVEAL = "reveal"  # identifiers shown to a person
    KEEP = "keep"  # the hold of a subject: it stays
    FIRST = "first"  # many holds: one person approves, and a second one has to approve too
    OPEN = "open"  # nothing yet: a person has opened a review


class ComparisonKind(StrEnum):
    """What is compared."""

    SWEEP = "sweep"  # the objects below a source with the ledger
    RECONCILE = "reconcile"  # the ledger with S3 and a data store
    REBUILD = "rebuild"  # nothing: the ledger is rebuilt from the workspaces
    PATIENTS = "patients"  # released studies with the Patients and orders of a data store


class FindingKind(StrEnum):
    """A difference between the ledger, S3 and a data store."""

    OVERDUE = "overdue"  # an object below the source is not an arrival
    VANISHED = "vanished"  # the object of an arrival is gone
    MISSING_IN_STORE = "missing_in_store"
    FOREIGN_IN_STORE = "foreign_in_store"
    OTHER_VERSION = "other_version"
    OTHER_INSTANCE_COUNT = "other_instance_count"
    OTHER_CONTENT = "other_content"
    NO_EVIDENCE = "no_evidence"  # a contract without the rows or files that it rests on


class StoreOrigin(StrEnum):
    """Why a ledger knows a data store."""

    IMPORTED = "imported"  # a run has begun a job for it
    ADOPTED = "adopted"  # a person took over what others had stored
    REBUILT = "rebuilt"  # from workspaces and the store
    ADOPTING = "adopting"  # an adoption has begun and not ended: no run may import yet


class UtcDateTime(TypeDecorator[datetime]):
    """An aware time: ``timestamptz`` on PostgreSQL, the same instant as naive UTC text on SQLite."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """Store every time as UTC."""
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """Return an aware time, whatever the database stores."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def one_of(column: str, values: type[StrEnum]) -> CheckConstraint:
    """Return the constraint that a column holds one of these values."""
    listed = ", ".join(f"'{value}'" for value in values)
    return CheckConstraint(f"{column} IN ({listed})", name=f"{column}_known")


metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
    }
)
